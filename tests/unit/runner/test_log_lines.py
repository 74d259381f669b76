"""What a manager logs about its own work."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from cnap_runner import AgentSpec, RunRequest
from cnap_runner.telemetry.logging import configure_logging
from cnap_runner.telemetry.redaction import Redactor
from cnap_runner.testing.fake_opencode.script import Say


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root, ours = logging.getLogger(), logging.getLogger("cnap_runner")
    handlers, level = list(root.handlers), ours.level
    stream = io.StringIO()
    configure_logging("info", "json", Redactor(), stream=stream)
    yield stream
    root.handlers[:] = handlers
    ours.setLevel(level)
    structlog.reset_defaults()


async def test_lines_of_a_run_say_what_they_are_about(
    stream: io.StringIO, house: Any, spec: AgentSpec, ask: Callable[..., RunRequest]
) -> None:
    """Creation, start and end of a container and the end of a run carry all ids that are known, and none of them leaks to the caller."""
    house.script([Say("done")])
    async with house.manager() as manager:
        runner = await manager.create_runner(spec)
        result = await runner.run(ask(task_id="t-1"))
        assert not structlog.contextvars.get_contextvars()
        await manager.delete_runner("alice")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    said = {line["event"]: line for line in lines}
    of_run = {"agent_id": "alice", "task_id": "t-1", "run_id": result.run_id}
    of_run["instance_id"] = said["instance_created"]["instance_id"]
    of_run |= {name: said["instance_created"][name] for name in ("install_id", "manager_id")}
    for event in ("instance_created", "run_ended"):
        assert {name: said[event][name] for name in of_run} == of_run, event
    assert said["instance_removed"]["instance_id"] == of_run["instance_id"]
    assert said["instance_removed"]["install_id"] == of_run["install_id"]
