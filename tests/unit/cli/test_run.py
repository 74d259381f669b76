"""``run`` and what follows it, over fakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anyio
import pytest

from cnap_runner import AgentSpec, Message, RunRequest, Settings
from cnap_runner.cli import run
from cnap_runner.cli.agents import agent_lines
from cnap_runner.cli.interrupts import Interrupts
from cnap_runner.cli.printing import TextPrinter, make_printer
from cnap_runner.cli.run import Order, carry_out
from cnap_runner.errors import RunInProgress
from cnap_runner.testing import FakeBackend, FlakyBackend, RefusingBackend
from cnap_runner.testing.fake_opencode import Fail, FailUnanswered, Say, UseTool
from cnap_runner.wiring import RunnerManager

if TYPE_CHECKING:
    from tests.unit.cli.conftest import House

MODEL = ("--model", "fake/demo")


def test_the_answer_alone_goes_to_standard_output(cli: House) -> None:
    """Tools and the outcome are told on standard error, without colours."""
    cli.backend.turns = [[Say("First."), UseTool("bash", {"command": "ls"}, output="a\nb"), Say("There ", "it is.")]]
    done = cli("run", "alice", "list", *MODEL)
    assert (done.exit_code, done.stdout) == (0, "There it is.\n"), done.stderr
    assert "starting agent alice\n" in done.stderr
    assert "> bash  ls\n  bash done:\n    a\n    b\n" in done.stderr
    assert "\x1b" not in done.output


def test_streamed_text_is_whole_and_in_order(cli: House) -> None:
    """`--stream` writes all messages, each on a line of its own, nothing twice."""
    cli.backend.turns = [[Say("First."), UseTool("bash", {"command": "ls"}), Say("There ", "it is.")]]
    assert cli("run", "alice", "list", "--stream", *MODEL).stdout == "First.\nThere it is.\n"


def test_json_lines_end_with_the_result(cli: House) -> None:
    """Each line is an event; the last has the result."""
    cli.backend.turns = [[Say("done")]]
    lines = [json.loads(line) for line in cli("run", "alice", "hi", "--json", *MODEL).stdout.splitlines()]
    assert {"type": "status", "state": "running"} in lines
    assert [line for line in lines if line["type"] == "ended"] == [lines[-1]]
    assert (lines[-1]["result"]["output"], lines[-1]["result"]["success"]) == ("done", True)


def test_a_failed_run_exits_with_1_and_says_why(cli: House) -> None:
    """The provider's own message is told."""
    cli.backend.turns = [[Fail("the key is not valid")]]
    done = cli("run", "alice", "hi", *MODEL)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "the key is not valid" in done.stderr


def test_options_make_a_new_agent_and_change_a_known_one_only_this_once(cli: House) -> None:
    """Model and system prompt of the first call are the agent's own; later ones go with their run."""
    cli("run", "alice", "one", "--model", "fake/first", "--system", "Be brief.")
    cli("run", "alice", "two", "--model", "fake/second", "--system", "Be long.")
    cli("run", "alice", "three")
    models = [str(body["model"]) for body in cli.backend.bodies]
    assert ["first" in models[0], "second" in models[1], "first" in models[2]] == [True, True, True]
    assert [body["system"] for body in cli.backend.bodies] == ["Be brief.", "Be long.", "Be brief."]
    (agent,) = json.loads(cli("ps", "--json").stdout)
    assert (agent["agent_id"], agent["status"], agent["model"]) == ("alice", "stopped", "fake/first")


def test_the_call_that_made_an_agent_can_be_repeated_with_its_key(cli: House) -> None:
    """The same words are the same request, although the agent is known by now; JSON has its result as well."""
    call = ("run", "alice", "hi", "--system", "Be brief.", "--key", "k", *MODEL)
    first, second = cli(*call), cli(*call, "--json")
    assert (first.exit_code, second.exit_code) == (0, 0), second.stderr
    assert [json.loads(line)["type"] for line in second.stdout.splitlines()] == ["ended"]
    assert len(cli.backend.bodies) == 1


def test_trouble_before_the_prompt_is_an_error_line(cli: House, use_backend: Callable[[FakeBackend], None]) -> None:
    """An instance that cannot be created is trouble of the engine; programs get it as JSON."""
    use_backend(RefusingBackend())
    done = cli("run", "alice", "hi", "--json", *MODEL)
    assert done.exit_code == 3
    assert json.loads(done.stdout.splitlines()[-1])["error"]["code"] == "instance_start_failed"
    assert "error: " in done.stderr


def test_ps_works_without_an_engine(cli: House, use_backend: Callable[[FakeBackend], None]) -> None:
    """What was last recorded is shown, and that it is no more than that is said once."""
    cli("run", "alice", "hi", *MODEL)
    use_backend(FlakyBackend(failures=10_000))
    done = cli("ps")
    assert done.exit_code == 0
    assert "alice" in done.stdout
    assert done.stderr.splitlines() == ["The engine is away for a moment. What is shown was last recorded."]


def test_the_ledger_can_be_read(cli: House) -> None:
    """`runs` shows how each run ended, newest first, without what only the machinery needs."""
    cli.backend.turns = [[Say("one")], [Fail("no")]]
    cli("run", "alice", "first", *MODEL)
    cli.backend.turns = [[Fail("no")]]
    cli("run", "alice", "second", "--task", "other")
    entries = json.loads(cli("runs", "alice", "--json").stdout)
    assert [(entry["task_id"], entry["result"]["outcome"]) for entry in entries] == [
        ("other", "failed"),
        ("main", "succeeded"),
    ]
    assert "fingerprint" not in entries[0]
    assert "succeeded" in cli("runs").stdout


def test_an_agents_life_ends_step_by_step(cli: House) -> None:
    """Removing keeps files, removing with its workspace does not, and each asks or refuses as it should."""
    cli("run", "alice", "hi", *MODEL)
    workspace = cli.data_dir / "workspace" / "alice"
    (workspace / "kept.txt").write_text("kept")
    assert cli("abort", "alice").stderr == "nothing was under way\n"
    assert cli("stop", "--all").stderr == "agent alice is stopped\n"
    assert cli("rm", "alice").exit_code == 0
    assert cli("rm", "alice").exit_code == 4
    assert (workspace / "kept.txt").exists()
    assert cli("rm", "alice", "--workspace").exit_code == 2
    assert cli("rm", "alice", "--workspace", "--yes").exit_code == 0
    assert not workspace.exists()


def test_a_busy_agent_is_refused_with_what_to_do(cli: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--no-wait` says how one waits after all, and how the other run is ended."""

    async def busy(*_: object) -> None:
        raise RunInProgress("Agent alice has an unfinished run.")

    monkeypatch.setattr(run, "follow", busy)
    done = cli("run", "alice", "hi", "--no-wait", *MODEL)
    assert (done.exit_code, "cnap-runner abort alice" in done.stderr, "--no-wait" in done.stderr) == (5, True, True)


def test_whose_model_was_not_found_is_told(cli: House) -> None:
    """An option for one run is told from the agent's own model, and how that is changed is said."""
    cli.backend.turns = [[FailUnanswered("Model not found: fake/nope.")]]
    own = cli("run", "alice", "hi", "--model", "fake/nope")
    once = cli("run", "alice", "hi", "--model", "fake/none")
    for done in (own, once):
        assert done.exit_code == 1
        assert "The model of agent alice is fake/nope; for another, `cnap-runner agent set alice model=" in done.stderr
    assert ["this run alone" in done.stderr for done in (own, once)] == [False, True]


def test_a_first_run_that_cannot_start_says_how_the_agent_gets_another_model(
    cli: House, use_backend: Callable[[FakeBackend], None]
) -> None:
    """The agent is made by then, and a later --model would count for one run alone."""
    use_backend(FakeBackend(images=()))
    first, second = (cli("run", "alice", "hi", "--model", "fake/nope") for _ in range(2))
    assert (first.exit_code, second.exit_code) == (3, 3)
    assert ["cnap-runner agent set alice" in done.stderr for done in (first, second)] == [True, False]


def test_resume_is_asked_for_with_the_run() -> None:
    """`--resume` travels with the request; without it an interrupted turn fails."""
    order = run.Order(agent_id="alice", prompt="hi")
    assert order.request("k").on_interrupt == "fail"
    assert replace(order, is_resuming=True).request("k").on_interrupt == "resume"


async def test_a_run_that_waits_for_a_place_says_so(cli: House, capsys: pytest.CaptureFixture[str]) -> None:
    """To people and to programs, and `ps` knows it too."""
    settings = Settings(data_dir=cli.data_dir, max_containers=1)
    async with RunnerManager(settings) as manager:
        alice = await manager.create_runner(AgentSpec(agent_id="alice", model="fake/demo"))
        await alice.run(RunRequest(messages=[Message(role="user", content="hi")]))
        await manager.hold("alice", "me", datetime.now(UTC) + timedelta(hours=1))
        printer = make_printer(is_json=True, is_streaming=None)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(carry_out, Order("bob", "hi", model="fake/demo"), settings, printer, Interrupts())
            with anyio.fail_after(10):
                while '"waiting"' not in (said := capsys.readouterr().out):
                    await anyio.sleep(0.05)
            waits = {line.agent_id: line.is_waiting_for_place for line in await agent_lines(manager)}
            await manager.release("alice", "me")
    assert json.loads(said.splitlines()[-1]) == {"type": "waiting", "for": "place", "taken": 1, "places": 1}
    assert waits == {"alice": False, "bob": True}
    capsys.readouterr()
    TextPrinter(is_streaming=False).wait_for_place(taken=1, places=1)
    assert capsys.readouterr().err == "waiting for a place (1 of 1 taken)\n"
