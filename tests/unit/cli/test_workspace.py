"""``cnap-runner workspace``."""

from __future__ import annotations

import json
from typing import Any

import pytest

MODEL = ("--model", "fake/demo")


@pytest.fixture
def agents(cli: Any) -> Any:
    """Alice, stopped, and Bob, deleted; each with a file."""
    for agent_id in ("alice", "bob"):
        assert cli("run", agent_id, "hello", *MODEL).exit_code == 0
        (cli.data_dir / "workspace" / agent_id / "file").write_bytes(b"x" * 3_000_000)
    assert cli("rm", "bob").exit_code == 0
    return cli


def test_workspaces_are_listed_and_measured(agents: Any) -> None:
    """For people and for programs."""
    shown = agents("workspace", "ls").output
    assert "alice" in shown
    assert "deleted" in shown
    listed = json.loads(agents("workspace", "ls", "--json").stdout)
    assert [(info["agent_id"], info["is_deleted"]) for info in listed] == [("alice", False), ("bob", True)]
    assert listed[0]["workspace_bytes"] >= 3_000_000
    assert listed[0]["total_bytes"] >= listed[0]["workspace_bytes"]
    assert [info["agent_id"] for info in json.loads(agents("workspace", "ls", "--deleted", "--json").stdout)] == ["bob"]
    assert "10.0 GiB" in agents("workspace", "size", "alice").stdout
    assert json.loads(agents("workspace", "size", "bob", "--json").stdout)["agent_id"] == "bob"
    assert agents("workspace", "size", "nobody").exit_code == 4


def test_looking_makes_no_install(cli: Any) -> None:
    """A wrong folder stays as it is."""
    assert json.loads(cli("workspace", "ls", "--json").stdout) == []
    assert not cli.data_dir.exists()


def test_removing_asks_first(agents: Any) -> None:
    """Without a terminal it wants --yes; then a deleted agent's files all go, a stopped one's workspace does."""
    assert agents("workspace", "rm", "alice", "bob").exit_code == 2
    assert agents("workspace", "rm", "alice", "nobody", "--yes").exit_code == 4
    assert (agents.data_dir / "workspace" / "alice" / "file").exists()
    assert agents("workspace", "rm", "alice", "bob", "--yes").exit_code == 0
    assert not (agents.data_dir / "workspace" / "alice").exists()
    assert (agents.data_dir / "agents" / "alice" / "state").exists()
    assert not (agents.data_dir / "agents" / "bob").exists()
    assert agents("run", "alice", "again").exit_code == 0


def test_pruning_needs_a_retention(agents: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is off by default; then only deleted agents' files go."""
    refused = agents("workspace", "prune", "--yes")
    assert (refused.exit_code, "CNAP_RUNNER_WORKSPACE_RETENTION" in refused.output) == (2, True)
    monkeypatch.setenv("CNAP_RUNNER_WORKSPACE_RETENTION", "1h")
    assert "nothing is due" in agents("workspace", "prune", "--yes").output
    monkeypatch.setenv("CNAP_RUNNER_WORKSPACE_RETENTION", "0.000001")
    assert "removed: bob" in agents("workspace", "prune", "--yes").output
    assert (agents.data_dir / "workspace" / "alice" / "file").exists()


def test_fixing_says_what_an_ordinary_user_can_do(agents: Any) -> None:
    """The fake backend's agents work as this user."""
    refused = agents("workspace", "fix", "alice")
    assert refused.exit_code == 2
    assert "chown" in refused.output
