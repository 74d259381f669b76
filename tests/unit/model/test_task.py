"""What may follow what in a task's life."""

from __future__ import annotations

from itertools import product

import pytest

from cnap_runner.errors import InvalidInput, InvalidTransition
from cnap_runner.model.task import TaskEvent, TaskState, check_task_transition, turn_key

S = TaskState
ALLOWED = {
    *((S.PENDING, to) for to in (S.RUNNING, S.CANCELED, S.DELETED)),
    *((S.RUNNING, to) for to in (S.WAITING, S.FAILED, S.CANCELED)),
    *((S.WAITING, to) for to in (S.RUNNING, S.COMPLETED, S.CANCELED, S.DELETED)),
    *((S.FAILED, to) for to in (S.RUNNING, S.CANCELED, S.DELETED)),
    (S.COMPLETED, S.DELETED),
    (S.CANCELED, S.DELETED),
}


@pytest.mark.parametrize(("present", "following"), list(product(S, S)))
def test_the_states_follow_each_other_as_written(present: TaskState, following: TaskState) -> None:
    """Each pair is allowed or refused, and a refusal says what to do."""
    if (present, following) in ALLOWED:
        check_task_transition("t", present, following)
        return
    with pytest.raises(InvalidTransition, match=f"Task t is {present}"):
        check_task_transition("t", present, following)


def test_each_turn_has_a_key_of_its_own() -> None:
    """The longest id fits into a key, too."""
    assert len({turn_key("a", 1), turn_key("a", 2), turn_key("b", 1)}) == 3
    assert len(turn_key("x" * 64, 10**9)) <= 200


def test_an_event_is_checked_at_the_edge() -> None:
    """Unknown types and bad ids get one clear error."""
    assert TaskEvent(type="continue", task_id="t", prompt="more").agent_id is None
    for wrong in ({"type": "pause", "task_id": "t"}, {"type": "cancel", "task_id": "../t"}):
        with pytest.raises(InvalidInput):
            TaskEvent.parse(wrong)
