"""Programs that embed the package, by its public face alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnap_runner import Settings, sync

pytestmark = [pytest.mark.engine, pytest.mark.opencode]

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "two_agents.py"


def test_two_tasks_of_one_agent_then_a_second_agent_at_the_same_time(make_cli: Callable[..., Any]) -> None:
    """The example of the docs runs as it is and prints the results."""
    ran = subprocess.run(
        [sys.executable, EXAMPLE, "scripted/demo"],
        env=make_cli().environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    first, *rest = ran.stdout.splitlines()
    assert first == "alice first succeeded one"
    assert sorted(rest) == ["alice second succeeded two", "bob first succeeded three"]


def test_blocking_callers_have_the_same_names(warm: Any) -> None:
    """``cnap_runner.sync``: calls, iterators, errors and callbacks, over the same code."""
    heard: list[str] = []

    class Callback(sync.StatusCallback):
        async def on_message(self, task_id: str, text: str, /) -> None:
            heard.append(text)

    settings = Settings(data_dir=warm.data_dir, fetch_models=False, on_shutdown="leave")
    with sync.RunnerManager(settings) as manager:
        runner = manager.create_runner(sync.AgentSpec(agent_id="alice", model="scripted/demo"))
        request = sync.RunRequest(messages=[sync.Message(role="user", content="say: blocking")])
        result = runner.run(request, Callback())
        events = [event.type for event in runner.stream(request)]
        with pytest.raises(ValueError, match="is not an id"):
            manager.get_runner("../x")
        assert [known.agent_id for known in manager.list_runners()] == ["alice"]
    assert (result.success, result.output, heard) == (True, "blocking", ["blocking"])
    assert events[-1] == "ended"
