"""Plugins in an agent's workspace, which OpenCode would run although the workspace's settings are switched off.

Seen on 1.18.33: at the first prompt after its start, or after it was told to read its settings again, the server imports
``.opencode/plugin/*`` of the workspace and what ``plugin`` in the workspace's ``opencode.json`` names. No switch of it hinders that
(docs/opencode.md). A plugin runs in the server: it could change permissions, provider and base URL, and read the keys.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import anyio.to_thread

from cnap_runner.errors import InvalidInput
from cnap_runner.model.agent import AgentSpec
from cnap_runner.runner.workspaces.confined import FOLDER, open_regular, opened_folder
from cnap_runner.runner.workspaces.folders import AgentFolders

_SETTINGS = ("opencode.json", "opencode.jsonc")
_FOLDERS = ("plugin", "plugins")
_MOST_BYTES = 1 << 20
_MAY_NAME_PLUGINS = re.compile(rb"plugin|\\u")
"""A key may be written with escapes; what cannot be told apart counts as a plugin."""


async def refuse_plugins(spec: AgentSpec, data_dir: Path) -> None:
    """Raise `InvalidInput` where the workspace of an agent that does not trust it has a plugin, naming the file."""
    if spec.trust_workspace_config:
        return
    workspace = AgentFolders(data_dir, spec.agent_id).workspace
    if (found := await anyio.to_thread.run_sync(find_plugin, workspace)) is not None:
        raise InvalidInput(
            f"The workspace of agent {spec.agent_id} has {found}, which OpenCode would run as a plugin, with the agent's keys.",
            hint="Remove it; or set trust_workspace_config, if whoever writes the workspace may rule the agent.",
        )


def find_plugin(workspace: Path) -> str | None:
    """Name what OpenCode would load as a plugin, by its path below the workspace; None for nothing. Blocks. Follows no link: one in
    such a place counts as a plugin."""
    try:
        with opened_folder(workspace) as top:
            return next(_plugins(top), None)
    except FileNotFoundError:
        return None


def _plugins(top: int) -> Iterator[str]:
    yield from _settings_with_plugins(top, "")
    with contextlib.suppress(FileNotFoundError):
        try:
            folder = os.open(".opencode", FOLDER, dir_fd=top)
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise
            yield ".opencode (no plain folder)"
            return
        try:
            yield from _settings_with_plugins(folder, ".opencode/")
            for name in _FOLDERS:
                yield from _files_of_plugins(folder, name)
        finally:
            os.close(folder)


def _settings_with_plugins(folder: int, prefix: str) -> Iterator[str]:
    for name in _SETTINGS:
        try:
            descriptor = open_regular(name, folder)
        except FileNotFoundError:
            continue
        except OSError:
            yield f"{prefix}{name} (no plain file)"
            continue
        with os.fdopen(descriptor, "rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES or _MAY_NAME_PLUGINS.search(text):
            yield f"plugins in {prefix}{name}"


def _files_of_plugins(parent: int, name: str) -> Iterator[str]:
    try:
        folder = os.open(name, FOLDER, dir_fd=parent)
    except FileNotFoundError:
        return
    except OSError:
        yield f".opencode/{name} (no plain folder)"
        return
    try:
        with os.scandir(folder) as entries:
            yield from (f".opencode/{name}/{entry.name}" for entry in entries if entry.name.endswith((".ts", ".js")))
    finally:
        os.close(folder)
