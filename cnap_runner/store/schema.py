"""The tables. A change here needs a new file in ``migrations/versions``, a new `SCHEMA_VERSION` and a new golden fixture.

Points in time are whole microseconds since 1970 in UTC; specs and results are JSON text. Nothing here is SQLite's alone.
"""

from __future__ import annotations

import sqlalchemy as sa

SCHEMA_VERSION = "0002"
"""The newest revision of ``migrations/versions``; a test pins that the two agree."""

metadata = sa.MetaData()

install = sa.Table(
    "install",
    metadata,
    sa.Column("one", sa.Integer, sa.CheckConstraint("one = 1", name="install_has_one_row"), primary_key=True),
    sa.Column("install_id", sa.Text, nullable=False),
)

managers = sa.Table(
    "managers",
    metadata,
    sa.Column("manager_id", sa.Text, primary_key=True),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("registered_at", sa.BigInteger, nullable=False),
)

agents = sa.Table(
    "agents",
    metadata,
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
    sa.Column("settings_hash", sa.Text),
    sa.Column("limits", sa.Text),
    sa.Index("agents_by_status", "status"),
)
"""Agents, deleted ones too, each with its runner's record from ``status`` on."""

agent_uses = sa.Table(
    "agent_uses",
    metadata,
    sa.Column("manager_id", sa.Text, primary_key=True),
    sa.Column("agent_id", sa.Text, primary_key=True),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("agent_id", sa.Text, primary_key=True),
    sa.Column("manager_id", sa.Text, nullable=False),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("acquired_at", sa.BigInteger, nullable=False),
)
"""One row per agent at most. Refers neither to ``agents``, for whoever erases an agent keeps its lease until its folders are gone, nor
to ``managers``, for one that signed off still takes leases to stop what it used. Whether the holder lives is all that counts."""

wishes = sa.Table(
    "wishes",
    metadata,
    sa.Column("wish_id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("agent_id", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("task_id", sa.Text),
    sa.Column("upto_place", sa.Integer, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("wishes_by_agent", "agent_id"),
    sqlite_autoincrement=True,
)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("place", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("agent_id", sa.ForeignKey("agents.agent_id", ondelete="CASCADE"), nullable=False),
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
    sa.Index("runs_by_agent", "agent_id", "place"),
    sqlite_autoincrement=True,
)
"""The ledger. ``place`` is never used twice, not even after the newest entry was erased."""

unfinished = runs.c.state != sa.literal_column("'ended'")
"""Condition on `runs`; written out, not bound, because only so can the queue's partial index serve it."""

sa.Index(
    "runs_unfinished", runs.c.agent_id, runs.c.place, unique=True, sqlite_where=unfinished, postgresql_where=unfinished
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("agent_id", sa.ForeignKey("agents.agent_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("task_id", sa.Text, primary_key=True),
    sa.Column("session_id", sa.Text, nullable=False),
)
