"""An engine that dies, hangs, loses answers or is another one, under an agent that is meant to go on (FAILURES rows 1, 2, 4, 5, 10, 18, 27).

One agent on a private engine goes through all of it, in the order of this file: a cold start of OpenCode is what such a test costs most.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from cnap_runner import AgentSpec, Message, Runner, RunnerManager, RunnerStatus, RunRequest, RunResult, Settings
from cnap_runner.errors import EngineUnavailable, ImageNotFound
from cnap_runner.model.instance import LABEL_INSTALL
from cnap_runner.testing.engine_proxy import EngineProxy
from cnap_runner.testing.private_engine import PrivateEngine
from cnap_runner.testing.scripted_model import ScriptedModel

GONE_SECONDS = 10.0
"""Longest wait for a killed process to be gone."""

pytestmark = [pytest.mark.engine, pytest.mark.opencode]

GUARD = 150
IMAGE = "cnap-runner:latest"


def ask(prompt: str, **more: Any) -> RunRequest:
    return RunRequest(messages=[Message(role="user", content=prompt)], **more)


@dataclass(frozen=True)
class Stage:
    """One agent, and hands on all that it stands on."""

    engine: PrivateEngine
    proxy: EngineProxy
    manager: RunnerManager
    runner: Runner
    model: ScriptedModel

    @property
    def data_dir(self) -> Path:
        return self.manager.settings.data_dir

    async def run(self, prompt: str) -> RunResult:
        with anyio.fail_after(GUARD):
            return await self.runner.run(ask(prompt))

    async def answers(self, word: str) -> None:
        """Make sure that the agent works."""
        result = await self.run(f"say: {word}")
        assert (result.output, result.error) == (word, None), result

    async def meanwhile(self, prompt: str, fault: Callable[[], Awaitable[Any]]) -> RunResult:
        """Run a turn, and do something once its first tool runs."""
        with anyio.fail_after(GUARD):
            async with aclosing(self.runner.stream(ask(prompt))) as events:
                async for event in events:
                    if event.type == "tool_started":
                        await fault()
                    if event.type == "ended":
                        return event.result
        raise AssertionError("The run had no end.")

    async def docker(self, *words: str) -> str:
        """Do as an operator does, by hand."""
        done = await anyio.run_process(["docker", "-H", self.engine.host, *words])
        return done.stdout.decode().strip()

    async def containers(self) -> list[str]:
        label = f"label={LABEL_INSTALL}={self.manager._usable().install.install_id}"
        return (await self.docker("ps", "--all", "--quiet", "--filter", label)).split()

    @property
    def handle(self) -> str:
        assert self.runner.record.handle is not None
        return self.runner.record.handle

    @property
    def port(self) -> int:
        return int((self.runner.record.endpoint or "").rsplit(":", 1)[1])


async def blocking(call: Callable[[], Any]) -> Any:
    return await anyio.to_thread.run_sync(call)


@pytest.fixture(scope="module")
async def stage(private_engine: PrivateEngine, model: ScriptedModel) -> AsyncIterator[Stage]:
    """The agent, made and not started."""
    with tempfile.TemporaryDirectory(prefix="cnap-") as folder, pytest.MonkeyPatch.context() as patch:
        async with EngineProxy(private_engine.socket, Path(folder) / "proxy.sock") as proxy:
            patch.setenv("DOCKER_HOST", proxy.host)
            settings = Settings(data_dir=Path(folder) / "data", fetch_models=False, sweep_interval=1, retry_backoff=0.2)
            async with RunnerManager(settings) as manager:
                provider = model.provider_config(host="host.docker.internal")
                spec = AgentSpec(agent_id="alice", model=model.model, opencode=provider)
                yield Stage(private_engine, proxy, manager, await manager.create_runner(spec), model)
                await manager.purge()


async def test_f02_a_container_whose_creation_was_not_answered_is_found_by_its_labels(stage: Stage) -> None:
    """The engine made it and the answer was lost: the start is made good, and one container is there, not two."""
    stage.proxy.trouble("/containers/create", "lose")
    await stage.answers("made")
    assert len(await stage.containers()) == 1


async def test_f04_a_list_that_fails_says_nothing_about_who_is_there(stage: Stage) -> None:
    """For some sweeps the engine answers with an error: the agent stays ready, and its container as it is."""
    generation = stage.runner.record.generation
    stage.proxy.trouble("/containers/json", "refuse", times=1000)
    before = len([one for one in stage.proxy.seen if one.startswith("GET /containers/json")])
    with anyio.fail_after(GUARD):
        while len([one for one in stage.proxy.seen if one.startswith("GET /containers/json")]) < before + 2:
            await anyio.sleep(0.05)
    assert (await stage.manager.get_runner("alice")).status is RunnerStatus.READY
    stage.proxy.mend()
    await stage.answers("still the same")
    assert stage.runner.record.generation == generation


async def test_f10_a_busy_agent_that_answers_nobody_for_a_while_is_not_dead(stage: Stage) -> None:
    """Its server is stopped in mid-turn, as by a host that swaps: nobody ends it, and the turn goes on to its end once it can."""
    generation = stage.runner.record.generation

    async def freeze() -> None:
        listed = (await stage.docker("top", stage.handle, "-eo", "pid,args")).splitlines()
        (server,) = [int(line.split()[0]) for line in listed if "opencode serve" in line]
        os.kill(server, signal.SIGSTOP)
        await anyio.sleep(4)
        os.kill(server, signal.SIGCONT)

    result = await stage.meanwhile("bash: sleep 1\nsay: thawed", freeze)
    assert (result.output, stage.runner.record.generation) == ("thawed", generation)


async def test_an_engine_killed_in_mid_turn_costs_nothing(stage: Stage) -> None:
    """Its containers outlive it, though its forwarders of their ports do not: the turn goes on inside, and is followed to its end once the
    engine is back. What needs an engine meanwhile says so, and may be tried again."""
    generation = stage.runner.record.generation

    async def kill() -> None:
        await blocking(stage.engine.kill)
        stage.proxy.cut()
        with pytest.raises(EngineUnavailable) as caught:
            await stage.manager.check_engine()
        assert caught.value.retryable
        await anyio.sleep(1)
        await blocking(stage.engine.start)

    result = await stage.meanwhile("bash: sleep 1; echo once >> once.txt\nsay: alone", kill)
    assert (result.output, result.error) == ("alone", None)
    assert (stage.data_dir / "workspace/alice/once.txt").read_text() == "once\n"
    await stage.answers("with an engine")
    assert stage.runner.record.generation == generation


async def test_an_engine_that_is_away_is_no_reason_to_start_anew(stage: Stage) -> None:
    """A run that comes while it is away is refused, not sent, and may be tried again; then the same container answers."""
    generation = stage.runner.record.generation
    await blocking(stage.engine.kill)
    stage.proxy.cut()
    try:
        with pytest.raises(EngineUnavailable) as caught:
            await stage.run("say: nobody hears it")
        assert caught.value.retryable
    finally:
        await blocking(stage.engine.start)
    await stage.answers("back")
    assert stage.runner.record.generation == generation
    assert "say: nobody hears it" not in stage.model.prompts


async def test_an_engine_that_hangs_holds_up_nobody_who_works(stage: Stage) -> None:
    """It accepts and does not answer: turns of warm agents go on."""
    stage.engine.freeze()
    try:
        await stage.answers("nobody asked it")
    finally:
        stage.engine.thaw()


@pytest.mark.parametrize("versions", [("1.24", "1.40"), ("1.41", "1.99")], ids=["older", "newer"])
async def test_an_engine_with_another_version_of_the_api_is_spoken_to_in_its_own(
    stage: Stage, versions: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A second manager, which knows the engine by that version alone, takes the agent over and has it work."""
    with tempfile.TemporaryDirectory(prefix="cnap-") as folder:
        async with EngineProxy(stage.engine.socket, Path(folder) / "proxy.sock", versions=versions) as other:
            monkeypatch.setenv("DOCKER_HOST", other.host)
            settings = stage.manager.settings.model_copy(update={"on_shutdown": "leave"})
            async with RunnerManager(settings) as manager:
                result = await (await manager.get_runner("alice")).run(ask("say: adopted"))
                told = await manager.check_engine()
    assert (result.output, result.error) == ("adopted", None)
    assert versions[1] in str(told)


async def test_f05_a_death_that_the_stream_did_not_tell_is_found(stage: Stage) -> None:
    """The stream of events is open and mute: the next sweep finds the container dead, and the next run replaces it."""
    stage.proxy.trouble("/events", "mute", times=1000)
    stage.proxy.cut()
    with anyio.fail_after(GUARD):
        while not any(trouble.times < 1000 for trouble in stage.proxy._troubles):
            await anyio.sleep(0.05)
    await stage.docker("kill", stage.handle)
    with anyio.fail_after(GUARD):
        while (await stage.manager.get_runner("alice")).status is not RunnerStatus.FAILED:
            await anyio.sleep(0.05)
    stage.proxy.mend()
    stage.proxy.cut()
    await stage.answers("found")


async def test_f01_f27_one_that_cannot_be_reached_is_replaced_and_its_port_is_a_strangers(stage: Stage) -> None:
    """The engine's forwarder of its port is dead, and the engine calls it running: the next run has a new one. The port it had is somebody
    else's by then (row 1): the new one has another, which the engine chose."""
    port, generation = stage.port, stage.runner.record.generation
    _kill_forwarder(port)
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await _bind(stranger, port)
        await stage.answers("reached")
        assert stage.port != port
    assert stage.runner.record.generation > generation
    assert len(await stage.containers()) == 1


async def _bind(stranger: socket.socket, port: int) -> None:
    """Take a port as soon as whoever had it is gone: the kernel ends a killed process when it gets to it."""
    with anyio.fail_after(GONE_SECONDS):
        while True:
            with contextlib.suppress(OSError):
                return stranger.bind(("127.0.0.1", port))
            await anyio.sleep(0.01)


def _kill_forwarder(port: int) -> None:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"docker-proxy") and str(port).encode() in words:
            os.kill(int(folder.name), signal.SIGKILL)


async def test_f18_container_and_network_removed_by_hand_cost_neither_files_nor_session(stage: Stage) -> None:
    """Both are made anew; the workspace, the session and what was said in it are there."""
    (stage.data_dir / "workspace/alice/kept.txt").write_text("kept\n")
    session = (await stage.run("say: before")).session_id
    await stage.docker("rm", "--force", stage.handle)
    await stage.docker("network", "prune", "--force")
    result = await stage.run("bash: cat kept.txt\nsay: after")
    assert (result.output, result.session_id) == ("after", session)
    live = stage.manager._usable().instances.last_used("alice")
    assert live is not None
    told = [message.text for message in await live.client.messages(session or "")]
    assert {"say: before", "before", "after"} <= set(told)


async def test_a_power_cut_and_an_image_removed_meanwhile(stage: Stage) -> None:
    """Engine and containers end at once. Back again, a run says which image is missing; once it is there, `recover_runner` brings the agent
    back with its session, as often as it is asked to."""
    await blocking(stage.engine.kill_with_containers)
    stage.proxy.cut()
    await blocking(stage.engine.start)
    await stage.docker("tag", IMAGE, "kept:1")
    await stage.docker("rmi", "--force", IMAGE)
    try:
        with pytest.raises(ImageNotFound, match=IMAGE):
            await stage.run("say: no")
    finally:
        await stage.docker("tag", "kept:1", IMAGE)
        await stage.docker("rmi", "kept:1")
    await stage.manager.recover_runner("alice")
    generation = (await stage.manager.get_runner("alice")).record.generation
    await stage.manager.recover_runner("alice")
    await stage.answers("back")
    assert stage.runner.record.generation == generation
