"""What is wrong before anything runs is one clear error, and nothing is left behind."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import docker
import pytest

from cnap_runner import AgentSpec, Message, RunnerError, RunnerManager, RunnerStatus, RunRequest, RunState, Settings
from cnap_runner.errors import EngineUnavailable, ImageNotFound, InstanceExited
from cnap_runner.model.instance import LABEL_INSTALL

pytestmark = pytest.mark.engine

HELLO = RunRequest(messages=[Message(role="user", content="hello")])


async def refusal(settings: Settings, spec: dict[str, Any]) -> tuple[RunnerError, RunnerStatus]:
    """Try one run; give its error and where it left the runner. Nothing may be left on the engine."""
    async with RunnerManager(settings) as manager:
        runner = await manager.create_runner(AgentSpec(**spec))
        with pytest.raises(RunnerError) as caught:
            await runner.run(HELLO)
        (run,) = await manager.list_runs("alice")
        assert run.state is RunState.ENDED
        assert run.result is not None
        assert run.result.error is not None
        assert run.result.error.code == "not_sent"
        install_id = manager._usable().install.install_id
    with contextlib.closing(docker.from_env()) as engine:
        assert engine.containers.list(all=True, filters={"label": f"{LABEL_INSTALL}={install_id}"}) == []
    return caught.value, runner._row.runner.status


async def test_a_missing_image_names_itself_and_the_way_out(settings: Settings, spec: dict[str, Any]) -> None:
    """The error says which image, and how to build it."""
    error, _ = await refusal(settings.model_copy(update={"image": "no-such-image:1"}), spec)
    assert isinstance(error, ImageNotFound)
    assert "no-such-image:1" in error.message
    assert "cnap-runner image build" in (error.hint or "")


async def test_without_an_engine_the_error_says_so(
    settings: Settings, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manager opens all the same; a run says that no engine answers and what to do."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    async with RunnerManager(settings.model_copy(update={"max_retries": 1})) as manager:
        runner = await manager.create_runner(AgentSpec(**spec))
        with pytest.raises(EngineUnavailable) as caught:
            await runner.run(HELLO)
    assert caught.value.hint
    assert caught.value.retryable


async def test_an_agent_that_exits_at_once_tells_its_last_words(settings: Settings, spec: dict[str, Any]) -> None:
    """What the container wrote before it ended is in the error."""
    with contextlib.closing(docker.from_env()) as engine:
        recipe = b'FROM cnap-runner:latest\nENTRYPOINT ["/bin/sh", "-c", "echo the disk is upside down; exit 3"]\n'
        engine.images.build(fileobj=io.BytesIO(recipe), tag="cnap-runner-test:exits", rm=True)
        try:
            exiting = settings.model_copy(update={"image": "cnap-runner-test:exits", "max_retries": 1})
            error, _ = await refusal(exiting, spec)
        finally:
            engine.images.remove("cnap-runner-test:exits", force=True)
    assert isinstance(error, InstanceExited)
    assert "the disk is upside down" in error.message
    assert "exit code 3" in error.message or "3" in error.message


async def test_more_memory_than_the_host_has_is_refused_before_anything_is_created(
    settings: Settings, spec: dict[str, Any]
) -> None:
    """A limit that cannot hold is bad input."""
    error, _ = await refusal(settings, {**spec, "resources": {"memory_mb": 1 << 20}})
    assert error.code == "invalid_input"
    assert "memory" in error.message.lower()
