"""The tables. A change here needs a new file in ``migrations/versions``, a new `SCHEMA_VERSION` and a new golden fixture.

Points in time are whole microseconds since 1970 in UTC; specs and results are JSON text. Nothing here is SQLite's alone.
"""

from __future__ import annotations

import sqlalchemy as sa

SCHEMA_VERSION = "0004"
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
    sa.Column("role", sa.Text, nullable=False, server_default="manager"),
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
    sa.Column("due_at", sa.BigInteger),
    sa.Column("opencode_version", sa.Text),
    sa.Column("gave_up_at", sa.BigInteger),
    sa.Column("forgiven_at", sa.BigInteger),
    sa.Index("agents_by_status", "status"),
    sa.Index("agents_by_due_at", "due_at"),
)
"""Agents, deleted ones too, each with its runner's record from ``status`` on. ``due_at``: when the keeper next has something to decide
about the agent; null: nothing. ``opencode_version``: the version that last served from the agent's state. ``gave_up_at``: since when nothing is started for it, because its
instances crash again and again; null: it may be started. Crashes before ``forgiven_at`` do not count."""

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
    sa.Column("ticket", sa.Integer),
    sa.Column("waits_at", sa.BigInteger),
)
"""One row per agent at most. Refers neither to ``agents``, for whoever erases an agent keeps its lease until its folders are gone, nor
to ``managers``, for one that signed off still takes leases to stop what it used. Whether the holder lives is all that counts. ``ticket``:
the number of the agent in the line for a place of ``max_containers``; null: it waits for none. ``waits_at``: when its
holder last asked for that place, or said that it still waits."""

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
    sa.Column("on_interrupt", sa.Text, nullable=False, server_default="fail"),
    sa.Column("resumes", sa.Integer, nullable=False, server_default="0"),
    sa.Column("resumed_after", sa.Text),
    sa.UniqueConstraint("run_id", name="runs_by_id"),
    sa.UniqueConstraint("agent_id", "idempotency_key", name="runs_by_key"),
    sa.Index("runs_by_agent", "agent_id", "place"),
    sqlite_autoincrement=True,
)
"""The ledger. ``place`` is never used twice, not even after the newest entry was erased. ``resumes``: how often the agent was told to go on
after an interruption; ``resumed_after``: the session's last message before it was told so last."""

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

holds = sa.Table(
    "holds",
    metadata,
    sa.Column("agent_id", sa.ForeignKey("agents.agent_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("until", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
"""Who wants an agent's instance to stay, and until when."""

decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("decision_id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("agent_id", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
    sa.Column("manager_id", sa.Text, nullable=False),
    sa.Index("decisions_by_agent", "agent_id", "decision_id"),
    sqlite_autoincrement=True,
)
"""The decision log, the newest of each agent. Refers to no agent: that one was deleted is a decision too."""

counters = sa.Table(
    "counters",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)
"""How often each kind of decision was made in the install's life."""

pending_answers = sa.Table(
    "pending_answers",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("agent_id", sa.ForeignKey("agents.agent_id", ondelete="CASCADE"), nullable=False),
    sa.Column("instance_id", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("asked", sa.Text, nullable=False),
    sa.Column("asked_at", sa.BigInteger, nullable=False),
    sa.Column("deadline_at", sa.BigInteger, nullable=False),
    sa.Index("pending_answers_by_agent", "agent_id"),
)
"""Permissions and questions that wait for somebody's reply."""

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("task_id", sa.Text, primary_key=True),
    sa.Column("agent_id", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("turns", sa.Integer, nullable=False),
    sa.Column("owner", sa.Text),
    sa.Column("run_id", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Index("tasks_by_agent", "agent_id", "created_at"),
    sa.Index("tasks_by_state", "state", "created_at"),
    sa.Index("tasks_by_owner", "owner"),
)
"""Tasks of the controller; ``turns``: how many were begun; ``owner``: the manager that drives one, where one is under way; ``run_id``: the run
under way, or the last one. Those of an erased agent go with it."""

task_messages = sa.Table(
    "task_messages",
    metadata,
    sa.Column("task_id", sa.ForeignKey("tasks.task_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
"""What was said in a task, in order."""
