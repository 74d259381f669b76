"""Several processes on one data folder: each interleaving that DESIGN §5 closes, played by real processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cnap_runner.store.presence import is_alive

ROUNDS = 15


class Process:
    """The test's end of a manager process."""

    def __init__(self, data_dir: Path, manager_id: str) -> None:
        script = Path(__file__).with_name("manager_process.py")
        arguments = [sys.executable, str(script), str(data_dir), manager_id]
        self._process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the manager process ended"
        return line.strip()

    def tell(self, *command: Any, at: float = 0) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([at, *command]) + "\n")
        self._process.stdin.flush()

    def ask(self, *command: Any) -> Any:
        self.tell(*command)
        return json.loads(self.read())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


Start = Callable[..., list[Process]]


def at_once(*commands: tuple[Process, tuple[Any, ...]]) -> list[Any]:
    """Give each process its command for the same moment; return their answers."""
    moment = time.time() + 0.02
    for process, command in commands:
        process.tell(*command, at=moment)
    return [json.loads(process.read()) for process, _ in commands]


def starter(data_dir: Path, stack: ExitStack) -> Start:
    def start(*manager_ids: str) -> list[Process]:
        processes = [Process(data_dir, manager_id) for manager_id in manager_ids]
        for process in processes:
            stack.callback(process.close)
        for process in processes:
            assert process.read() == "ready"
        return processes

    return start


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start managers on a new data folder."""
    with ExitStack() as stack:
        yield starter(tmp_path, stack)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Process]]:
    """Two managers that share an open store; tests use agents of their own names."""
    with ExitStack() as stack:
        processes = starter(tmp_path_factory.mktemp("pair"), stack)("m1", "m2")
        for process in processes:
            process.ask("open")
        yield processes


def test_two_first_starts_at_once_make_one_install(start: Start, tmp_path: Path) -> None:
    """Both get the same install id, and the migrations ran once."""
    first, second = start("m1", "m2")
    answers = at_once((first, ("open",)), (second, ("open",)))
    assert answers[0]["install_id"] == answers[1]["install_id"]
    assert sorted(answer["migrated"] for answer in answers) == [False, True]


def test_two_processes_at_the_last_free_place(pair: list[Process]) -> None:
    """Exactly one gets it, in each of many rounds."""
    first, second = pair
    for n in range(ROUNDS):
        ours, theirs = f"place-a{n}", f"place-b{n}"
        first.ask("put", ours, theirs)
        # Each round fills one place more.
        answers = at_once((first, ("reserve", ours, n + 1)), (second, ("reserve", theirs, n + 1)))
        assert sorted(answers) == [False, True]


def test_a_key_used_twice_at_once_has_one_entry(pair: list[Process]) -> None:
    """One process enters the run, the other is attached to it."""
    first, second = pair
    first.ask("put", "key")
    for n in range(ROUNDS):
        answers = at_once(
            (first, ("enter", "key", f"key-a{n}", f"k{n}")), (second, ("enter", "key", f"key-b{n}", f"k{n}"))
        )
        assert sorted(admission for admission, _ in answers) == ["attached", "entered"]
        assert answers[0][1] == answers[1][1]


def test_a_lease_asked_for_twice_at_once_is_given_once(pair: list[Process]) -> None:
    """Of two processes that want to change an agent, one has it."""
    first, second = pair
    for n in range(ROUNDS):
        assert sorted(at_once((first, ("lease", f"lease-{n}")), (second, ("lease", f"lease-{n}")))) == [False, True]


def test_two_heads_in_two_processes_have_their_turns_in_order(pair: list[Process]) -> None:
    """Of two entries claimed at once, the one that was entered first has the turn, whoever asks first."""
    first, second = pair
    for n in range(ROUNDS):
        agent = f"turn-{n}"
        first.ask("put", agent)
        first.ask("enter", agent, f"turn-a{n}", None)
        second.ask("enter", agent, f"turn-b{n}", None)
        assert at_once((first, ("claim", f"turn-a{n}")), (second, ("claim", f"turn-b{n}"))) == [True, False]


def test_a_turn_and_a_change_at_once_exclude_each_other(pair: list[Process]) -> None:
    """Either the run has its turn or the other process its lease, never both."""
    first, second = pair
    for n in range(ROUNDS):
        agent = f"both-{n}"
        first.ask("put", agent)
        first.ask("enter", agent, f"both-{n}", None)
        assert sorted(at_once((first, ("claim", f"both-{n}")), (second, ("lease", agent)))) == [False, True]


def test_the_head_of_a_killed_manager_is_taken_over_once(start: Start, tmp_path: Path) -> None:
    """Kill -9 in mid-turn: the owner is known to be dead at once, and exactly one of two living managers gets its entry."""
    victim, first, second = start("victim", "m1", "m2")
    for process in (victim, first, second):
        process.ask("open")
    victim.ask("put", "alice")
    victim.ask("enter", "alice", "r1", None)
    assert victim.ask("claim", "r1")
    assert victim.ask("send", "r1")
    for process in (first, second):
        assert process.ask("take_over", "r1") is None, "its owner lives"
        assert process.ask("lease", "alice") is False
    victim.kill()
    assert not is_alive(tmp_path, "victim")
    answers = at_once((first, ("take_over", "r1")), (second, ("take_over", "r1")))
    assert sorted(answers, key=str) == [None, "sending"]


def test_many_processes_write_without_failing(pair: list[Process]) -> None:
    """Processes that write all the time wait for each other; none is told that the store is busy."""
    first, second = pair
    first.ask("put", "many")
    moment = time.time() + 0.02
    for n in range(100):
        for name, process in (("a", first), ("b", second)):
            process.tell("enter", "many", f"many-{name}{n}", None, at=moment)
    answers = [json.loads(process.read()) for _ in range(100) for process in pair]
    assert {answer[0] for answer in answers} == {"entered"}
