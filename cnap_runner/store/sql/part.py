"""What the parts of the SQL store share."""

from __future__ import annotations

from cnap_runner.store.database import Database


class SqlPart:
    """Methods of a `SqlStore`: each is one transaction of its database, which the store opens and closes."""

    _database: Database
