"""Where instances live. `base` is the contract; each other module is one implementation of it."""
