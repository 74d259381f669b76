"""When whoever waits for a place said so last. Who waited under an earlier version says it anew within a second."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add a column to leases."""
    op.add_column("leases", sa.Column("waits_at", sa.BigInteger))
