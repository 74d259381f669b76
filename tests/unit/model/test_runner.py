"""RunnerRecord: each change is named after what happened, and the table says what may follow what."""

from datetime import UTC, datetime

import pytest

from cnap_runner.errors import InvalidTransition
from cnap_runner.model.instance import InstanceRef
from cnap_runner.model.runner import TRANSITIONS, RunnerRecord, RunnerStatus, check_transition

AT = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_whole_life() -> None:
    """From pending through a turn and a stop to a second instance."""
    record = RunnerRecord("alice").start_intended(instance_id="i-1", spec_hash="h", at=AT)
    record = record.created(InstanceRef("i-1", "c1")).became_ready(endpoint="http://x", at=AT)
    record = (
        record.turn_began(at=AT).turn_ended(at=AT).stop_intended(reason="idle", at=AT).stopped(reason="idle", at=AT)
    )
    assert (record.status, record.reason, record.endpoint, record.generation) == ("stopped", "idle", None, 1)
    again = record.start_intended(instance_id="i-2", spec_hash="h", at=AT)
    assert (again.generation, again.instance_id, again.ref) == (2, "i-2", None)


@pytest.mark.parametrize("present", list(RunnerStatus))
@pytest.mark.parametrize("following", list(RunnerStatus))
def test_the_table_decides(present: RunnerStatus, following: RunnerStatus) -> None:
    """What is not in the table is refused; a status may always follow itself."""
    if following is present or following in TRANSITIONS[present]:
        check_transition(present, following)
    else:
        with pytest.raises(InvalidTransition, match=f"is {present} cannot become {following}"):
            check_transition(present, following)


def test_anything_may_fail_and_failed_may_start_again() -> None:
    """A failure is possible everywhere and final nowhere."""
    assert all(RunnerStatus.FAILED in followers for status, followers in TRANSITIONS.items() if status != "failed")
    assert RunnerStatus.STARTING in TRANSITIONS[RunnerStatus.FAILED]
