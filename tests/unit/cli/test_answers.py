"""``cnap-runner answers``, and what ``run`` says of what is asked, over fakes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cnap_runner.cli.exits import code_of_error
from cnap_runner.errors import AnswerNotPending
from cnap_runner.testing.fake_opencode import Ask, AskQuestion, Say

if TYPE_CHECKING:
    from tests.unit.cli.conftest import House

SPEC = """
agent_id: alice
model: fake/demo
answers:
  permissions: {bash: ask}
  questions: ask
  deadline: 200ms
"""


def declare(cli: House) -> None:
    assert cli("apply", "-f", "-", given=SPEC).exit_code == 0


def test_a_run_says_what_is_asked_and_how_to_reply(cli: House) -> None:
    """On standard error, with the deadline; the answer alone is on standard output."""
    cli.backend.turns = [[Ask("bash", ("git push",), is_waiting=True), AskQuestion("Red or blue?"), Say("done")]]
    declare(cli)
    done = cli("run", "alice", "push it")
    assert (done.exit_code, done.stdout) == (0, "done\n")
    assert "? may it bash: git push" in done.stderr
    assert "? Red or blue?" in done.stderr
    assert "cnap-runner answers reply per_" in done.stderr


def test_json_carries_the_request_and_its_answer(cli: House) -> None:
    """Programs see who is asked until when, and how it ended."""
    cli.backend.turns = [[Ask("bash", ("git push",), is_waiting=True), Say("done")]]
    declare(cli)
    lines = [json.loads(line) for line in cli("run", "alice", "push it", "--json").stdout.splitlines()]
    (asked,) = [line for line in lines if line["type"] == "permission"]
    (answered,) = [line for line in lines if line["type"] == "answered"]
    assert asked["deadline"] is not None
    assert (answered["request_id"], answered["reply"]) == (asked["request_id"], "reject")


def test_nothing_asked_is_said(cli: House) -> None:
    """Also where there is no install yet; JSON is an empty list. A reply to nothing is an error of its own."""
    assert "Nobody asks anything." in cli("answers", "ls").stderr
    declare(cli)
    assert json.loads(cli("answers", "ls", "alice", "--json").stdout) == []
    assert cli("answers", "ls", "bob").exit_code == 4
    done = cli("answers", "reply", "per_x", "allow")
    assert done.exit_code == code_of_error(AnswerNotPending("x"))
    assert "Nothing waits" in done.stderr
    (line,) = json.loads(cli("ps", "--json").stdout)
    assert line["asking"] == 0
