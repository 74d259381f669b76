"""An error that is alone in its group."""

import anyio
import pytest

from cnap_runner.aio.lone import lone_errors


async def test_an_error_that_is_alone_is_raised_as_itself() -> None:
    """However deep in groups, and with the cause it had."""
    cause = OSError("why")
    with pytest.raises(ValueError, match="what") as raised, lone_errors():
        async with anyio.create_task_group(), anyio.create_task_group():
            raise ValueError("what") from cause
    assert raised.value.__cause__ is cause


def test_several_errors_stay_a_group() -> None:
    """None of them is lost."""
    with pytest.raises(ExceptionGroup) as raised, lone_errors():
        raise ExceptionGroup("both", [ValueError("a"), TypeError("b")])
    assert len(raised.value.exceptions) == 2


def test_what_is_no_group_passes() -> None:
    """As if the block were not there."""
    with pytest.raises(KeyError), lone_errors():
        raise KeyError("x")
