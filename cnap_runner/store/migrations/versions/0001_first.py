"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create all tables."""
    _install_and_managers()
    _agents()
    _leases_and_wishes()
    _runs_and_sessions()


def _install_and_managers() -> None:
    op.create_table(
        "install",
        sa.Column("one", sa.Integer, sa.CheckConstraint("one = 1", name="install_has_one_row"), primary_key=True),
        sa.Column("install_id", sa.Text, nullable=False),
    )
    op.create_table(
        "managers",
        sa.Column("manager_id", sa.Text, primary_key=True),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("registered_at", sa.BigInteger, nullable=False),
    )


def _agents() -> None:
    op.create_table(
        "agents",
        sa.Column("agent_id", sa.Text, primary_key=True),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("deleted_at", sa.BigInteger),
        sa.Column("last_active_at", sa.BigInteger),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("instance_id", sa.Text),
        sa.Column("handle", sa.Text),
        sa.Column("spec_hash", sa.Text),
        sa.Column("endpoint", sa.Text),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("changed_at", sa.BigInteger),
    )
    op.create_index("agents_by_status", "agents", ["status"])


def _leases_and_wishes() -> None:
    op.create_table(
        "agent_uses",
        sa.Column("manager_id", sa.Text, primary_key=True),
        sa.Column("agent_id", sa.Text, primary_key=True),
    )
    op.create_table(
        "leases",
        sa.Column("agent_id", sa.Text, primary_key=True),
        sa.Column("manager_id", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("acquired_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "wishes",
        sa.Column("wish_id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("task_id", sa.Text),
        sa.Column("upto_place", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("wishes_by_agent", "wishes", ["agent_id"])


def _runs_and_sessions() -> None:
    agent = "agents.agent_id"
    op.create_table(
        "runs",
        sa.Column("place", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("agent_id", sa.Text, sa.ForeignKey(agent, ondelete="CASCADE"), nullable=False),
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("model", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("session_id", sa.Text),
        sa.Column("instance_id", sa.Text),
        sa.Column("after_message_id", sa.Text),
        sa.Column("sent_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("result", sa.Text),
        sa.UniqueConstraint("run_id", name="runs_by_id"),
        sa.UniqueConstraint("agent_id", "idempotency_key", name="runs_by_key"),
        sqlite_autoincrement=True,
    )
    unfinished = sa.text("state != 'ended'")
    op.create_index("runs_by_agent", "runs", ["agent_id", "place"])
    op.create_index(
        "runs_unfinished",
        "runs",
        ["agent_id", "place"],
        unique=True,
        sqlite_where=unfinished,
        postgresql_where=unfinished,
    )
    op.create_table(
        "sessions",
        sa.Column("agent_id", sa.Text, sa.ForeignKey(agent, ondelete="CASCADE"), primary_key=True),
        sa.Column("task_id", sa.Text, primary_key=True),
        sa.Column("session_id", sa.Text, nullable=False),
    )
