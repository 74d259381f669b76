"""What OpenCode would run of an agent's workspace is found, wherever it hides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cnap_runner import AgentSpec, RunnerManager, RunRequest
from cnap_runner.errors import InvalidInput
from cnap_runner.runner.provisioning.workspace_plugins import find_plugin


def write(path: Path, text: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (".opencode/plugin/a.ts", "x"),
        (".opencode/plugins/a.js", "x"),
        ("opencode.json", '{"plugin": ["./a.ts"]}'),
        ("opencode.jsonc", '{"plugins": ["a"]}'),
        (".opencode/opencode.json", '{"pl\\u0075gin": ["a"]}'),
        (".opencode/opencode.jsonc", "x" * (1 << 20) + "x"),
    ],
)
def test_plugins_are_found(tmp_path: Path, path: str, text: str) -> None:
    """In both folders, and in each file of settings, however it is spelt."""
    write(tmp_path / path, text)
    assert path in str(find_plugin(tmp_path))


@pytest.mark.parametrize("place", [".opencode", ".opencode/plugin", "opencode.json", ".opencode/opencode.json"])
def test_a_link_in_such_a_place_counts_as_a_plugin(tmp_path: Path, place: str) -> None:
    """It is not followed: inside it may lead to somewhere else than here."""
    link = tmp_path / place
    link.parent.mkdir(exist_ok=True)
    link.symlink_to("/nowhere")
    assert place in str(find_plugin(tmp_path))


def test_what_is_no_plugin_is_left_alone(tmp_path: Path) -> None:
    """Settings, agents and texts of a project are no reason to refuse it."""
    assert find_plugin(tmp_path / "nowhere") is None
    for path in (".opencode/agents/a.md", ".opencode/plugin/README.md", "src/.opencode/plugin/a.ts", "plugin/a.ts"):
        write(tmp_path / path)
    write(tmp_path / "opencode.json", '{"permission": {"bash": "deny"}}')
    assert find_plugin(tmp_path) is None


async def test_an_agent_does_not_begin_with_a_plugin_in_its_workspace(
    manager: RunnerManager, spec: AgentSpec, ask: Callable[..., RunRequest]
) -> None:
    """Neither at a start nor with changed settings; one that trusts its workspace does."""
    runner = await manager.create_runner(spec)
    plugin = manager.settings.data_dir / "workspace" / "alice" / ".opencode" / "plugin" / "a.ts"
    write(plugin)
    with pytest.raises(InvalidInput, match=r"\.opencode/plugin/a\.ts, which OpenCode would run"):
        await runner.run(ask())
    plugin.unlink()
    assert (await runner.run(ask())).success
    write(plugin)
    runner = await manager.create_runner(AgentSpec(agent_id="alice", model="fake/demo", opencode={"username": "x"}))
    with pytest.raises(InvalidInput, match="would run"):
        await runner.run(ask())
    runner = await manager.create_runner(AgentSpec(agent_id="alice", model="fake/demo", trust_workspace_config=True))
    assert (await runner.run(ask())).success
