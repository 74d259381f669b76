"""``apply``, ``agent`` and ``mcp``: specs declared, shown and changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cnap_runner import AgentSpec, RunnerManager
from cnap_runner.cli.yaml_text import parse_value
from cnap_runner.runner.declarations import spec_data

if TYPE_CHECKING:
    from cnap_runner.runner.runner import Runner
    from tests.unit.cli.conftest import House

TEAM = """\
agents:
  - agent_id: alice
    model: fake/demo
    labels: {team: web}
    system_prompt: |
      Be brief.
      Be kind.
  - agent_id: bob
    model: fake/demo
    labels: {team: web}
"""


@pytest.fixture
def team(tmp_path: Path) -> Path:
    path = tmp_path / "team.yaml"
    path.write_text(TEAM)
    return path


def test_apply_shows_the_difference_and_makes_it_so(cli: House, team: Path) -> None:
    """The second time there is nothing to do."""
    first = cli("apply", "-f", str(team))
    assert first.exit_code == 0
    assert first.stdout.splitlines() == [
        *("+ alice", "    model: fake/demo", "    system_prompt: Be brief.…", "    labels.team: web"),
        *("+ bob", "    model: fake/demo", "    labels.team: web"),
        "2 to create, 0 to change, 0 to delete, 0 unchanged",
    ]
    assert "2 created, 0 changed, 0 deleted" in first.stderr
    second = cli("apply", "-f", str(team))
    assert second.stdout == "0 to create, 0 to change, 0 to delete, 2 unchanged\n"
    assert second.stderr == ""


def test_a_changed_text_is_shown_line_by_line(cli: House, team: Path) -> None:
    """One sees what changed in a long prompt, and old and new of short values."""
    cli("apply", "-f", str(team))
    team.write_text(
        TEAM.replace("Be kind.", "Be exact.").replace("bob\n    model: fake/demo", "bob\n    model: fake/two")
    )
    out = cli("apply", "-f", str(team)).stdout.splitlines()
    assert out[:3] == ["~ alice", "  ~ system_prompt:", "      @@ -1,2 +1,2 @@"]
    assert "      -Be kind." in out
    assert "      +Be exact." in out
    assert out[-3:] == [
        *("~ bob", "  ~ model: fake/demo → fake/two"),
        "0 to create, 2 to change, 0 to delete, 0 unchanged",
    ]


def test_a_dry_run_makes_nothing_and_its_exit_code_tells(cli: House, team: Path) -> None:
    """9: there is something to do; 0: there is not. Looking makes no install."""
    assert cli("apply", "-f", str(team), "--dry-run").exit_code == 9
    assert not (cli.data_dir / "runner.db").exists()
    cli("apply", "-f", str(team))
    assert cli("apply", "-f", str(team), "--dry-run").exit_code == 0


def test_prune_deletes_those_of_the_label_only(cli: House, team: Path) -> None:
    """Their files stay."""
    cli("apply", "-f", str(team))
    team.write_text(TEAM.partition("  - agent_id: bob")[0])
    result = cli("apply", "-f", str(team), "--prune", "team=web")
    assert "- bob (its files stay)" in result.stdout
    assert [agent["agent_id"] for agent in json.loads(cli("agent", "ls", "--json").stdout)] == ["alice"]
    assert (cli.data_dir / "workspace" / "bob").is_dir()


def test_apply_reads_standard_input_and_says_where_a_mistake_is(cli: House) -> None:
    """File, line and field; nothing is made."""
    assert cli("apply", "-f", "-", given=TEAM).exit_code == 0
    result = cli("apply", "-f", "-", given=TEAM.replace("fake/demo", "nothing"))
    assert result.exit_code == 2
    assert "error: standard input:3: model: 'nothing' is not a model" in result.stderr
    assert "standard input:9: model:" in result.stderr


def test_a_plan_as_json_is_for_programs(cli: House, team: Path) -> None:
    """Each field with old and new value."""
    plan = json.loads(cli("apply", "-f", str(team), "--json", "--dry-run").stdout)
    assert plan["has_changes"] is True
    assert plan["agents"][1] == {
        "agent_id": "bob",
        "action": "create",
        "fields": [
            {"path": "agent_id", "old": None, "new": "bob"},
            {"path": "model", "old": None, "new": "fake/demo"},
            {"path": "labels.team", "old": None, "new": "web"},
        ],
    }


def test_no_secret_is_shown_by_a_plan(cli: House) -> None:
    """Neither of a new install nor of one that is there."""
    text = "agent_id: a\nmodel: fake/demo\nsecrets: {KEY: 'literal:hunter2-hunter2'}\nopencode: {x: {apiKey: hunter3-hunter3}}\n"
    first = cli("apply", "-f", "-", "--dry-run", given=text)
    assert first.exit_code == 9
    assert "hunter" not in first.output


def test_show_prints_a_spec_that_can_be_applied(cli: House, team: Path, tmp_path: Path) -> None:
    """What is shown is what is declared."""
    cli("apply", "-f", str(team))
    shown = cli("agent", "show", "alice", "--spec").stdout
    assert parse_value(shown)["system_prompt"] == "Be brief.\nBe kind.\n"
    assert "system_prompt: |\n" in shown
    assert cli("apply", "-f", "-", "--dry-run", given=shown).exit_code == 0


def test_show_tells_status_and_what_is_pending(cli: House, team: Path) -> None:
    """Spec, runner and pending changes, as YAML and as JSON."""
    cli("apply", "-f", str(team))
    shown = json.loads(cli("agent", "show", "bob", "--json").stdout)
    assert (shown["spec"]["model"], shown["runner"]["status"], shown["pending"]) == ("fake/demo", "pending", [])
    assert parse_value(cli("agent", "show", "bob").stdout)["spec"] == shown["spec"]


def test_set_changes_fields_and_takes_them_out(cli: House, team: Path) -> None:
    """Numbers are numbers, text is text, and an empty value means the default."""
    cli("apply", "-f", str(team))
    result = cli(
        "agent", "set", "bob", "model=fake/two", "resources.memory_mb=512", "system_prompt=Say: yes", "labels.team="
    )
    assert result.exit_code == 0
    spec = json.loads(cli("agent", "show", "bob", "--spec", "--json").stdout)
    assert spec["model"] == "fake/two"
    assert spec["resources"] == {"memory_mb": 512}
    assert spec["system_prompt"] == "Say: yes"
    assert not spec.get("labels")


@pytest.mark.parametrize("given", ["model", "agent_id=carol", "model.x=1", "nope=1", "=x", "resources.memory_mb=[1"])
def test_set_refuses_what_cannot_be_meant(cli: House, team: Path, given: str) -> None:
    """Nothing is changed by a mistake."""
    cli("apply", "-f", str(team))
    assert cli("agent", "set", "bob", given).exit_code == 2
    assert cli("apply", "-f", str(team), "--dry-run").exit_code == 0


def test_mcp_servers_are_added_listed_and_taken_away(cli: House, team: Path) -> None:
    """A program inside or a server reached by HTTP, by name."""
    cli("apply", "-f", str(team))
    added = cli(
        "mcp", "add", "bob", "files", "--env", "ROOT=/workspace", "--timeout", "10s", "--", "npx", "-y", "server"
    )
    assert added.exit_code == 0, added.output
    assert "  + mcp.files.command: " in added.stdout
    assert cli("mcp", "add", "bob", "web", "--url", "https://example.com/mcp", "--header", "X-Team=web").exit_code == 0
    servers = json.loads(cli("agent", "show", "bob", "--spec", "--json").stdout)["mcp"]
    assert servers["files"]["command"] == ["npx", "-y", "server"]
    assert (servers["files"]["environment"], servers["files"]["timeout"]) == ({"ROOT": "/workspace"}, 10_000)
    assert servers["web"]["headers"] == {"X-Team": "web"}
    listed = json.loads(cli("mcp", "ls", "bob", "--json").stdout)
    assert [(line["name"], line["kind"], line["what"]) for line in listed] == [
        ("files", "local", "npx -y server"),
        ("web", "remote", "https://example.com/mcp"),
    ]
    assert cli("mcp", "rm", "bob", "files", "web").exit_code == 0
    assert cli("mcp", "rm", "bob", "files").exit_code == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ["x"],
        ["x", "--url", "https://example.com", "--", "npx"],
        ["x", "--url", "https://example.com", "--env", "A=b"],
        ["x", "--header", "A=b", "--", "npx"],
        ["x", "--env", "novalue", "--", "npx"],
        ["x", "--url", "ftp://example.com"],
        ["x", "--timeout", "soon", "--", "npx"],
    ],
)
def test_mcp_add_refuses_what_cannot_be_meant(cli: House, team: Path, arguments: list[str]) -> None:
    """Nothing is guessed."""
    cli("apply", "-f", str(team))
    assert cli("mcp", "add", "bob", *arguments).exit_code == 2


def test_a_change_that_cannot_reach_an_agent_that_runs_is_not_silent(
    cli: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command that meets it warns with the reason, and `agent show` tells it; runs go on without the change."""
    monkeypatch.setenv("CNAP_RUNNER_HEALTH_TIMEOUT", "1")  # what a fake server needs to be found gone
    cli("run", "e", "hello", "--model", "fake/demo", "--keep")
    said = "warning: agent e runs without its changed settings: Agent e needs ${UNSETVAR} in mcp.z.environment.P"
    added = cli("mcp", "add", "e", "z", "--env", "P=${UNSETVAR}", "--", "foo")
    assert (added.exit_code, said in added.stderr) == (0, True)
    assert said in cli("agent", "set", "e", "system_prompt=x").stderr
    shown = json.loads(cli("agent", "show", "e", "--json").stdout)
    assert "UNSETVAR is not set" in shown["pending"][0]["reason"]
    spec = cli("agent", "show", "e", "--spec").stdout
    assert said in cli("apply", "-f", "-", given=spec).stderr
    assert said in cli("run", "e", "hello").stderr


def test_edits_of_different_fields_at_the_same_moment_are_all_kept(
    cli: House, team: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edit that finds the agent changed begins anew with what is there."""
    cli("apply", "-f", str(team))
    get, others = RunnerManager.get_runner, [("pids", 400), ("memory_mb", 1200)]

    async def get_and_be_overtaken(manager: RunnerManager, agent_id: str) -> Runner:
        runner = await get(manager, agent_id)
        if others:
            name, value = others.pop()
            data = spec_data(runner.spec)
            data.setdefault("resources", {})[name] = value
            await manager.create_runner(AgentSpec.parse(data))
        return runner

    monkeypatch.setattr(RunnerManager, "get_runner", get_and_be_overtaken)
    assert cli("agent", "set", "bob", "resources.cpus=2").exit_code == 0
    spec = json.loads(cli("agent", "show", "bob", "--spec", "--json").stdout)
    assert spec["resources"] == {"pids": 400, "memory_mb": 1200, "cpus": 2}


def test_a_secret_given_in_clear_goes_with_the_last_place_that_uses_it(cli: House, team: Path) -> None:
    """The name that was made for it leaves the spec, and its value the vault; a name of the user's own stays."""
    cli("apply", "-f", str(team))
    cli("agent", "set", "bob", "secrets.MINE=vault:mine")
    options = "opencode.provider.fake.options"
    cli("agent", "set", "bob", f"{options}.apiKey=value-of-a-key-1", f"{options}.organization=${{MINE}}")
    cli("mcp", "add", "bob", "m", "--url", "https://example.com/mcp", "--header", "Authorization=Bearer of-bad-news-1")
    shown = json.loads(cli("agent", "show", "bob", "--spec", "--json").stdout)["secrets"]
    assert sorted(shown) == ["MCP_M_HEADERS_AUTHORIZATION", "MINE", "PROVIDER_FAKE_OPTIONS_APIKEY"]
    cli("mcp", "rm", "bob", "m")
    cli("agent", "set", "bob", f"{options}.apiKey=", f"{options}.organization=")
    assert json.loads(cli("agent", "show", "bob", "--spec", "--json").stdout)["secrets"] == {"MINE": "vault:mine"}
    assert [line["reference"] for line in json.loads(cli("secret", "ls", "--json").stdout)] == ["vault:mine"]


def test_every_mistake_of_every_agent_is_told_with_its_place(cli: House) -> None:
    """Of meaning as of spelling, however many and whatever is wrong elsewhere; and no install is made."""
    result = cli("apply", "-f", "-", given=WRONG)
    assert result.exit_code == 2
    said = [line.strip().removeprefix("error: ").removeprefix("standard input:") for line in result.stderr.splitlines()]
    assert [": ".join(line.split(": ")[:2]) for line in said[:10]] == [
        *("1: agent_id", "8: egress.allow.1", "6: secrets.C", "7: secrets.A B", "9: workspace.copy"),
        *("19: opencode.agent.x.model", "15: mcp.a b", "17: opencode_files.x.md"),
        *("13: workspace.branch", "12: workspace.git"),
    ]
    assert said[10].startswith("10: 500 MiB of shared memory are more than the 400 MiB")
    assert not cli.data_dir.exists()
    assert cli("apply", "-f", "-", "--dry-run", given=WRONG).stderr == result.stderr


WRONG = """\
{agent_id: BAD ID, model: a/b}
---
agents:
- agent_id: one
  model: a/b
  secrets: {C: "nope:x",
    "A B": env:X}
  egress: {mode: allowlist, allow: [ok.example, "http://x y"]}
  workspace: {copy: /nowhere}
- agent_id: two
  model: a/b
  workspace: {git: "ext::sh",
    branch: -x}
  mcp:
    "a b": {command: [x]}
  opencode_files:
    x.md: hi
  opencode:
    agent: {x: {model: foo}}
  resources: {memory_mb: 400, shm_mb: 500}
"""
