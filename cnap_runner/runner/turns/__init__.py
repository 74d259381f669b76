"""One run, from its ledger entry to its end, and all of them in order."""
