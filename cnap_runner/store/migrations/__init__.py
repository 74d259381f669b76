"""The schema's versions, for Alembic. Each is written by hand, never changed once released, and runs in one transaction."""
