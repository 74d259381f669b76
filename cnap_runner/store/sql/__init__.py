"""The store in a SQL database.

One module for each topic, with the names of `cnap_runner.store.base`. Each method is one transaction; what happens in it is in
`cnap_runner.store.transactions`.
"""

from cnap_runner.store.sql.store import SqlStore

__all__ = ["SqlStore"]
