"""What an instance is given: settings rendered from their layers, and how a changed spec reaches an instance that runs."""
