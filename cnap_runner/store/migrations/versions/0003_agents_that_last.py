"""Due times, holds, decisions, pending answers, and the controller's tasks. Agents that run already are due at the keeper's first look."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add columns to managers, agents and runs, and six tables."""
    op.add_column("managers", sa.Column("role", sa.Text, nullable=False, server_default="manager"))
    op.add_column("agents", sa.Column("due_at", sa.BigInteger))
    op.add_column("agents", sa.Column("opencode_version", sa.Text))
    op.add_column("agents", sa.Column("gave_up_at", sa.BigInteger))
    op.add_column("agents", sa.Column("forgiven_at", sa.BigInteger))
    op.add_column("runs", sa.Column("on_interrupt", sa.Text, nullable=False, server_default="fail"))
    op.add_column("runs", sa.Column("resumes", sa.Integer, nullable=False, server_default="0"))
    op.add_column("runs", sa.Column("resumed_after", sa.Text))
    op.add_column("leases", sa.Column("ticket", sa.Integer))
    op.create_index("agents_by_due_at", "agents", ["due_at"])
    op.execute("UPDATE agents SET due_at = 0 WHERE deleted_at IS NULL")
    _create_life()
    _create_answers()
    _create_tasks()


def _create_life() -> None:
    op.create_table(
        "holds",
        sa.Column("agent_id", sa.Text, sa.ForeignKey("agents.agent_id", ondelete="CASCADE"), primary_key=True),
        sa.Column("owner", sa.Text, primary_key=True),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "decisions",
        sa.Column("decision_id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.Column("manager_id", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("decisions_by_agent", "decisions", ["agent_id", "decision_id"])
    op.create_table(
        "counters",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )


def _create_answers() -> None:
    op.create_table(
        "pending_answers",
        sa.Column("request_id", sa.Text, primary_key=True),
        sa.Column("agent_id", sa.Text, sa.ForeignKey("agents.agent_id", ondelete="CASCADE"), nullable=False),
        sa.Column("instance_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("asked", sa.Text, nullable=False),
        sa.Column("asked_at", sa.BigInteger, nullable=False),
        sa.Column("deadline_at", sa.BigInteger, nullable=False),
    )
    op.create_index("pending_answers_by_agent", "pending_answers", ["agent_id"])


def _create_tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("task_id", sa.Text, primary_key=True),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("turns", sa.Integer, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("run_id", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
    op.create_index("tasks_by_agent", "tasks", ["agent_id", "created_at"])
    op.create_index("tasks_by_state", "tasks", ["state", "created_at"])
    op.create_index("tasks_by_owner", "tasks", ["owner"])
    op.create_table(
        "task_messages",
        sa.Column("task_id", sa.Text, sa.ForeignKey("tasks.task_id", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
