"""Rows to values and back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError, to_json

from cnap_runner.errors import InvalidInput
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.instance import Limits
from cnap_runner.model.run import RunRecord, RunResult, RunState
from cnap_runner.model.runner import RunnerRecord, RunnerStatus
from cnap_runner.store.base import AgentRow, Lease, Wish, WishKind
from cnap_runner.store.specs import StoredSpec

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_RESULT = TypeAdapter(RunResult)
_LIMITS = TypeAdapter(Limits)

Row = sa.Row[Any]


def to_micros(at: datetime) -> int:
    """Microseconds since 1970. A naive datetime raises `TypeError`: nobody knows which moment it means."""
    return (at - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """The moment, in UTC."""
    return _EPOCH + timedelta(microseconds=micros)


def _moment(micros: int | None) -> datetime | None:
    return None if micros is None else from_micros(micros)


def spec_to_text(spec: AgentSpec) -> str:
    """JSON of what was given in a spec; durations as seconds, since that is a spelling the spec reads. Raises `InvalidInput`.

    What was left out stays left out: it costs nothing to read, and follows the defaults of the version that reads it.
    """
    try:
        return to_json(spec.model_dump(by_alias=True, exclude_unset=True), timedelta_mode="float").decode()
    except PydanticSerializationError as error:
        raise InvalidInput(f"agent {spec.agent_id}: its settings hold something JSON cannot ({error}).") from None


def result_to_text(result: RunResult) -> str:
    """JSON of a result. What an agent wrote may hold half of a surrogate pair; it is replaced, for the result must be kept."""
    error = result.error and replace(result.error, message=_clean(result.error.message))
    return _RESULT.dump_json(replace(result, output=_clean(result.output), error=error)).decode()


def result_from_text(text: str) -> RunResult:
    """The result that `result_to_text` wrote."""
    return _RESULT.validate_json(text)


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def runner_values(record: RunnerRecord) -> dict[str, Any]:
    """A runner's record as columns of ``agents``, without the agent's id."""
    return {
        "status": record.status.value,
        "reason": None if record.reason is None else _clean(record.reason),
        "generation": record.generation,
        "instance_id": record.instance_id,
        "handle": record.handle,
        "spec_hash": record.spec_hash,
        "settings_hash": record.settings_hash,
        "limits": None if record.limits is None else _LIMITS.dump_json(record.limits).decode(),
        "endpoint": record.endpoint,
        "started_at": None if record.started_at is None else to_micros(record.started_at),
        "changed_at": None if record.changed_at is None else to_micros(record.changed_at),
        "due_at": None if record.due_at is None else to_micros(record.due_at),
        "opencode_version": record.opencode_version,
    }


def runner_from_row(row: Row) -> RunnerRecord:
    """The runner's record in a row of ``agents``."""
    return RunnerRecord(
        agent_id=row.agent_id,
        status=RunnerStatus(row.status),
        reason=row.reason,
        generation=row.generation,
        instance_id=row.instance_id,
        handle=row.handle,
        spec_hash=row.spec_hash,
        settings_hash=row.settings_hash,
        limits=None if row.limits is None else _LIMITS.validate_json(row.limits),
        endpoint=row.endpoint,
        started_at=_moment(row.started_at),
        changed_at=_moment(row.changed_at),
        due_at=_moment(row.due_at),
        opencode_version=row.opencode_version,
    )


def agent_from_row(row: Row) -> AgentRow:
    """A row of ``agents``."""
    return AgentRow(
        stored=StoredSpec(row.agent_id, row.spec),
        runner=runner_from_row(row),
        created_at=from_micros(row.created_at),
        updated_at=from_micros(row.updated_at),
        deleted_at=_moment(row.deleted_at),
        last_active_at=_moment(row.last_active_at),
        gave_up_at=_moment(row.gave_up_at),
        forgiven_at=_moment(row.forgiven_at),
    )


def run_from_row(row: Row) -> RunRecord:
    """A row of ``runs``."""
    return RunRecord(
        run_id=row.run_id,
        agent_id=row.agent_id,
        task_id=row.task_id,
        place=row.place,
        state=RunState(row.state),
        owner=row.owner,
        fingerprint=row.fingerprint,
        created_at=from_micros(row.created_at),
        idempotency_key=row.idempotency_key,
        session_id=row.session_id,
        instance_id=row.instance_id,
        after_message_id=row.after_message_id,
        model=row.model,
        sent_at=_moment(row.sent_at),
        ended_at=_moment(row.ended_at),
        result=None if row.result is None else result_from_text(row.result),
        on_interrupt=row.on_interrupt,
        resumes=row.resumes,
        resumed_after=row.resumed_after,
    )


def lease_from_row(row: Row) -> Lease:
    """A row of ``leases``."""
    return Lease(row.agent_id, row.manager_id, row.purpose, from_micros(row.acquired_at))


def wish_from_row(row: Row) -> Wish:
    """A row of ``wishes``."""
    return Wish(
        wish_id=row.wish_id,
        agent_id=row.agent_id,
        kind=WishKind(row.kind),
        task_id=row.task_id,
        upto_place=row.upto_place,
        created_at=from_micros(row.created_at),
    )
