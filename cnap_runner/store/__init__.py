"""What must outlive a manager. `base` is the contract, `sql` keeps it in SQLite, `migrations` are its schema's versions."""
