"""``task``: each command is a process of its own, over fakes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, get_args

import pytest

from cnap_runner.cli.task import State
from cnap_runner.model.task import TaskState
from cnap_runner.testing.fake_opencode import Fail, Say

if TYPE_CHECKING:
    from tests.unit.cli.conftest import House


@pytest.fixture
def agent(cli: House) -> House:
    """The command line, with a known agent."""
    assert cli("apply", "-f", "-", given="agent_id: alice\nmodel: fake/demo\n").exit_code == 0
    return cli


def test_a_task_is_created_in_one_process_and_sent_in_the_next(agent: House) -> None:
    """The id alone is printed; the answer alone is printed; what was said is shown in order."""
    created = agent("task", "create", "alice", "one")
    assert created.exit_code == 0, created.stderr
    task = created.stdout.strip()
    agent.backend.turns = [[Say("done")]]
    sent = agent("task", "send", task)
    assert (sent.exit_code, sent.stdout) == (0, "done\n"), sent.stderr
    shown = json.loads(agent("task", "show", task, "--json").stdout)
    assert (shown["state"], shown["turns"], shown["owner"]) == ("waiting", 1, None)
    assert [(message["role"], message["content"]) for message in shown["messages"]] == [
        ("user", "one"),
        ("assistant", "done"),
    ]
    assert "\nuser:\none\n\nassistant:\ndone\n" in agent("task", "show", task).stdout


def test_a_task_is_led_to_its_end(agent: House) -> None:
    """Sent, completed, listed, removed; each refusal has its exit code."""
    agent("task", "create", "alice", "--id", "t")
    assert agent("task", "create", "alice", "--id", "t").exit_code == 5
    assert agent("task", "create", "nobody").exit_code == 4
    assert agent("task", "send", "t").exit_code == 2
    assert agent("task", "complete", "t").exit_code == 5
    assert agent("task", "send", "t", "-", given="from a pipe").stdout == "FROM A PIPE\n"
    assert agent("task", "complete", "t").stderr == "task t is completed\n"
    assert agent("task", "send", "t", "more").exit_code == 5
    (listed,) = json.loads(agent("task", "list", "alice", "--json").stdout)
    assert (listed["task_id"], listed["state"]) == ("t", "completed")
    assert agent("task", "rm", "t").exit_code == 0
    assert agent("task", "list").stderr == "There are no tasks.\n"
    assert [task["task_id"] for task in json.loads(agent("task", "list", "--state", "deleted", "--json").stdout)] == [
        "t"
    ]
    assert agent("task", "show", "t").exit_code == 4


def test_a_failed_turn_says_why_and_the_task_can_go_on(agent: House) -> None:
    """Its exit code and its lines are those of `run`; the list shows the reason."""
    agent("task", "create", "alice", "one", "--id", "t")
    agent.backend.turns = [[Fail("the key is not valid")]]
    failed = agent("task", "send", "t", "--json")
    assert failed.exit_code == 1
    assert json.loads(failed.stdout.splitlines()[-1])["result"]["outcome"] == "failed"
    assert "the key is not valid" in agent("task", "list").stdout
    agent.backend.turns = []
    assert agent("task", "send", "t", "two").stdout == "TWO\n"
    assert agent("task", "cancel", "t").stderr == "task t is canceled\n"


def test_looking_for_tasks_makes_no_install(cli: House) -> None:
    """A wrong folder is told as such, or empty."""
    assert cli("task", "list").stderr == "There are no tasks.\n"
    assert cli("task", "send", "t", "hello").exit_code == 4
    assert not cli.data_dir.exists()


def test_the_states_to_list_are_all_there_are() -> None:
    """The command line names each state."""
    assert set(get_args(State)) == set(TaskState)
