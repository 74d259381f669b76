"""Where secrets come from: the environment, files, the system's keyring, an encrypted file. The contract is in `base`."""
