"""The command line, from one end to the other."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.opencode]

WORK = """\
say: I begin.
write: {name}
  written by the agent
bash: cat {name}
say: There it is."""


class Cli(Protocol):
    """What of `conftest.Cli` is used here; test modules cannot import their conftest."""

    data_dir: Path
    install_id: str

    def start(self, *arguments: str) -> Any: ...
    def run(self, *arguments: str, code: int = 0, given: str | None = None) -> Any: ...
    def workspace(self, agent_id: str) -> Path: ...
    def remains(self) -> list[str]: ...
    @property
    def keeper(self) -> tuple[str, int] | None: ...


class Model(Protocol):
    """What of `conftest.ModelServer` is used here."""

    @property
    def prompts(self) -> list[str]: ...


Eventually = Callable[..., None]


def agents(cli: Cli) -> dict[str, dict[str, Any]]:
    """What ``ps`` says, by agent."""
    return {line["agent_id"]: line for line in json.loads(cli.run("ps", "--json").stdout)}


def test_only_the_answer_goes_to_standard_output(warm: Cli) -> None:
    """A pipe gets the final message alone; tools and the outcome are told on standard error; the file is on disk."""
    done = warm.run("run", "alice", WORK.format(name="first.txt"))
    assert done.stdout == "There it is.\n"
    assert warm.workspace("alice").joinpath("first.txt").read_text() == "written by the agent\n"
    assert "> bash  cat first.txt" in done.stderr
    assert "succeeded in" in done.stderr
    streamed = warm.run("run", "alice", "-", "--stream", given=WORK.format(name="second.txt"))
    assert streamed.stdout == "I begin.\nThere it is.\n"


def test_json_is_one_event_per_line_and_ends_with_the_result(warm: Cli) -> None:
    """Programs get every event; the last has the result, and an error before the prompt is sent is one too."""
    lines = warm.run("run", "alice", WORK.format(name="third.txt"), "--json", "--task", "other").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    types = [event["type"] for event in events]
    assert types[0] == "status"
    assert [kind for kind in types if kind.startswith("tool_") and kind != "tool_progress"] == [
        *("tool_started", "tool_finished"),
        *("tool_started", "tool_finished"),
    ]
    assert types.count("ended") == 1
    result = events[-1]["result"]
    assert (result["success"], result["outcome"], result["output"]) == (True, "succeeded", "There it is.")
    assert (result["agent_id"], result["task_id"]) == ("alice", "other")
    refused = warm.run("run", "nobody", "say: hi", "--json", code=4)
    assert json.loads(refused.stdout)["error"]["code"] == "runner_not_found"
    assert "--model" in refused.stderr


def test_a_key_used_again_gives_the_same_result(warm: Cli, model_server: Model) -> None:
    """The same call with the same key is done once; with another prompt it is a conflict."""
    first = warm.run("run", "alice", "say: only once", "--key", "k1")
    second = warm.run("run", "alice", "say: only once", "--key", "k1")
    assert first.stdout == second.stdout == "only once\n"
    assert model_server.prompts.count("say: only once") == 1
    assert "Key 'k1' belongs to another request" in warm.run("run", "alice", "say: other", "--key", "k1", code=5).stderr


def test_a_failed_run_says_so_and_why(warm: Cli) -> None:
    """The provider's message is told, and the exit code is 1."""
    failed = warm.run("run", "alice", "fail: 400 this prompt is not to my taste", code=1)
    assert failed.stdout == ""
    assert "this prompt is not to my taste" in failed.stderr


def test_ctrl_c_ends_the_turn_and_nothing_else(warm: Cli, model_server: Model, eventually: Eventually) -> None:
    """Another process sees the turn meanwhile; a second Ctrl-C disturbs nothing; the agent works at once afterwards."""
    prompt = "say: and then\nhang"
    with warm.start("run", "alice", prompt, "--json") as process:
        eventually(lambda: prompt in model_server.prompts, what="the prompt reached the model")
        line = agents(warm)["alice"]
        assert (line["status"], line["current_task"]) == ("running", "main")
        assert "unfinished run" in warm.run("run", "alice", "say: now", "--no-wait", code=5).stderr
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    ended = json.loads(out.splitlines()[-1])
    assert (ended["type"], ended["result"]["outcome"]) == ("ended", "aborted")
    assert warm.run("run", "alice", "say: still here").stdout == "still here\n"


def test_runs_wait_in_line_and_can_be_aborted_from_elsewhere(
    warm: Cli, model_server: Model, eventually: Eventually
) -> None:
    """The second run says how many are before it and goes on once the first is aborted, whose caller is told by its exit code."""
    hanging = "say: busy\nhang"
    with warm.start("run", "alice", hanging) as first:
        eventually(lambda: hanging in model_server.prompts, what="the first run reached the model")
        with warm.start("run", "alice", "say: at last") as second:
            eventually(lambda: agents(warm)["alice"]["waiting"] == 1, what="the second run waits")
            assert second.stderr is not None
            assert second.stderr.readline() == "waiting: 1 run before this one\n"
            assert warm.run("abort", "alice").stderr in {"1 run ended\n", "2 runs ended\n"}
            first.communicate(timeout=60)
            second.communicate(timeout=60)
    assert first.returncode == 8


def test_logs_and_shell_look_inside(warm: Cli) -> None:
    """The server's output can be read, and a command runs in the workspace with its own exit code."""
    assert "opencode server listening" in warm.run("logs", "alice").stdout
    assert warm.run("shell", "alice", "pwd").stdout == "/workspace\n"
    warm.run("shell", "alice", "sh", "-c", "exit 7", code=7)


def test_a_task_goes_on_over_processes_and_over_a_killed_one(
    warm: Cli, model_server: Model, eventually: Eventually
) -> None:
    """Created here, sent there, in one session; a process killed in its turn costs nothing; the last task's end is its container's."""
    assert warm.run("task", "create", "alice", "say: first", "--id", "t").stdout == "t\n"
    assert warm.run("task", "send", "t").stdout == "first\n"
    slow = "wait: 2s\nsay: although nobody waits"
    with warm.start("task", "send", "t", slow) as process:
        eventually(lambda: slow in model_server.prompts, what="the prompt reaches the model")
        process.kill()
    assert warm.run("task", "send", "t", "say: third").stdout == "third\n"
    shown = json.loads(warm.run("task", "show", "t", "--json").stdout)
    assert [message["content"] for message in shown["messages"]] == [
        *("say: first", "first"),
        *(slow, "although nobody waits"),
        *("say: third", "third"),
    ]
    assert [model_server.prompts.count(prompt) for prompt in ("say: first", slow, "say: third")] == [1, 1, 1]
    hanging = "say: I wait.\nhang"
    with warm.start("task", "send", "t", hanging) as process:
        eventually(lambda: hanging in model_server.prompts, what="the prompt reaches the model")
        process.kill()
    assert warm.run("task", "cancel", "t").stderr == "task t is canceled\n"
    assert agents(warm)["alice"]["status"] == "stopped"


def test_sigterm_ends_a_run_and_stops_its_container(
    make_cli: Callable[..., Cli], model_server: Model, eventually: Eventually
) -> None:
    """A service manager's way to end a process that is to leave nothing: no container runs, and the ledger says what happened."""
    cli = make_cli()
    prompt = "say: for ever\nhang"
    with cli.start("run", "bob", prompt, "--model", "scripted/demo", "--stop") as process:
        eventually(lambda: prompt in model_server.prompts, what="the prompt reached the model")
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert agents(cli)["bob"]["status"] == "stopped", err
    (run,) = json.loads(cli.run("runs", "--json").stdout)
    assert run["result"]["outcome"] == "aborted"


def test_an_agent_is_stopped_removed_and_purged_without_a_trace(make_cli: Callable[..., Cli]) -> None:
    """Files survive `rm`, end with `rm --workspace`, and `purge` leaves nothing on the engine or in the data folder but the user's own."""
    cli = make_cli()
    cli.run("run", "carol", WORK.format(name="kept.txt"), "--model", "scripted/demo", "--keep")
    kept = cli.workspace("carol") / "kept.txt"
    cli.run("run", "dave", "say: hi", "--model", "nobody/nothing", "--timeout", "0s", code=2)
    assert agents(cli)["carol"]["status"] == "ready"
    cli.run("stop", "carol")
    assert agents(cli)["carol"]["status"] == "stopped"
    cli.run("rm", "carol")
    assert kept.exists()
    assert "needs a yes" in cli.run("rm", "carol", "--workspace", code=2).stderr
    cli.run("rm", "carol", "--workspace", "--yes")
    assert not kept.exists()
    assert "needs a yes" in cli.run("purge", code=2).stderr
    install_id = cli.install_id
    assert any(install_id in name for name in cli.remains())
    cli.run("purge", "--yes")
    assert [path.name for path in cli.data_dir.iterdir()] == ["configs"]


def test_the_demo_leaves_its_file(make_cli: Callable[..., Cli]) -> None:
    """Without a key, an agent writes a file and runs a command; the demo can be repeated on the same folder."""
    cli = make_cli()
    done = cli.run("demo", "--keep")
    greeting = (cli.workspace("demo") / "hello.txt").read_text()
    assert greeting in done.stderr
    assert str(cli.workspace("demo") / "hello.txt") in done.stderr
    assert "cnap-runner run alice" in done.stderr


def test_doctor_finds_a_working_machine_working(make_cli: Callable[..., Cli]) -> None:
    """Nothing fails on the machine the tests run on; an image that is not there does, with what to do."""
    cli = make_cli()
    states = {finding["check"]: finding["state"] for finding in json.loads(cli.run("doctor", "--json").stdout)}
    assert (states["engine"], states["image"], states["database"]) == ("ok", "ok", "ok")
    without = make_cli(CNAP_RUNNER_IMAGE="cnap-runner-is-not-there:never")
    assert "cnap-runner image build" in without.run("doctor", code=1).stdout


def test_a_warm_agent_is_frozen_stopped_and_woken_by_itself(
    make_cli: Callable[..., Cli], eventually: Eventually
) -> None:
    """The keeper behind `run` does it, one for all commands; it ends with the last warm agent; the diary tells the story."""
    cli = make_cli(CNAP_RUNNER_PAUSE_AFTER="1", CNAP_RUNNER_IDLE_TIMEOUT="600")
    cli.run("run", "erin", "say: one", "--model", "scripted/demo")
    eventually(lambda: agents(cli)["erin"]["status"] == "paused", what="the idle agent is frozen")
    keeper = cli.keeper
    assert keeper is not None
    assert cli.run("shell", "erin", "pwd").stdout == "/workspace\n"
    assert cli.run("run", "erin", "say: two").stdout == "two\n"
    assert cli.keeper == keeper
    cli.run("stop", "erin")
    eventually(lambda: cli.keeper is None, what="the keeper ends with the last warm agent")
    told = [entry["kind"] for entry in json.loads(cli.run("explain", "erin", "--json").stdout)]
    assert [kind for kind in told if kind != "adopted"][:4] == ["created", "started", "paused", "resumed"]
    assert told[-1] == "stopped"
