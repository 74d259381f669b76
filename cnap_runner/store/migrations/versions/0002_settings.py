"""Which settings and limits a running instance has. Unknown for those that run already."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add two columns to the agents."""
    op.add_column("agents", sa.Column("settings_hash", sa.Text))
    op.add_column("agents", sa.Column("limits", sa.Text))
