"""``cnap-runner explain``, over fakes."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from cnap_runner.testing.fake_opencode import Say

if TYPE_CHECKING:
    from tests.unit.cli.conftest import House

MODEL = ("--model", "fake/demo")


def test_the_story_is_told_by_day_and_in_order(cli: House) -> None:
    """Each decision with its time, reason and figures; at the end how the agent is now."""
    cli.backend.turns = [[Say("done")]]
    cli("run", "alice", "hello", *MODEL)
    cli("stop", "alice")
    done = cli("explain", "alice")
    assert done.exit_code == 0, done.stderr
    day, *lines = [line for line in done.stdout.splitlines() if line]
    assert re.fullmatch(r"\w+day \d+ \w+ \d{4}", day)
    assert re.fullmatch(r"  \d\d:\d\d:\d\d  Created: it was made \(model fake/demo\)\.", lines[0])
    assert re.search(r"Started: a run needed it \(generation 1, run-\w+, took [\d.]+ s\)\.$", lines[1])
    assert lines[-1].startswith("Now alice is stopped for ")


def test_a_deleted_agents_story_is_kept(cli: House) -> None:
    """Whoever asks what became of it gets an answer; who never was gets an error."""
    cli("run", "alice", "hello", *MODEL)
    cli("rm", "alice")
    done = cli("explain", "alice")
    assert "Deleted: it was deleted, its files and sessions stay" in done.stdout
    assert done.stdout.endswith("Now alice is deleted.\n")
    assert cli("explain", "nobody").exit_code == 4


def test_json_has_the_evidence(cli: House) -> None:
    """Oldest first, for programs."""
    cli("run", "alice", "hello", *MODEL)
    cli("agent", "set", "alice", "model=fake/other")
    told = json.loads(cli("explain", "alice", "--json").stdout)
    assert (told[0]["kind"], told[0]["evidence"]) == ("created", {"model": "fake/demo"})
    assert (told[-1]["kind"], told[-1]["evidence"]) == ("changed", {"fields": "model"})
    assert [one["at"] for one in told] == sorted(one["at"] for one in told)
