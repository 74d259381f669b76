"""What a workspace begins with: nothing, a copied folder, or a clone.

It happens at the agent's first start, under its lease, and whole or not at all: in a draft beside the workspace that nobody else can
enter, which then takes the workspace's place. A mark outside of the workspace says that it was done; a workspace that has files already is
left as it is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from cnap_runner.aio.shield import shielded
from cnap_runner.errors import InvalidInput, RunnerError, WorkspaceSeedFailed
from cnap_runner.model.agent import AgentSpec, Workspace
from cnap_runner.model.git_source import GitSource, check_branch, fill_in, parse_git_source
from cnap_runner.model.ids import new_id
from cnap_runner.runner.install import Install
from cnap_runner.runner.secrecy.resolving import Resolver
from cnap_runner.runner.workspaces.access import Owner, give_all
from cnap_runner.runner.workspaces.cloning import PROXIES, Clone, Credentials, clone
from cnap_runner.runner.workspaces.copying import copy_tree
from cnap_runner.runner.workspaces.folders import PRIVATE, SHARED, AgentFolders, folder_error
from cnap_runner.runner.workspaces.removal import remove
from cnap_runner.settings import Settings
from cnap_runner.telemetry.logging import get_logger
from cnap_runner.telemetry.redaction import Redactor

CLEAN_UP = timedelta(seconds=60)

_log = get_logger(__name__)


def check_source(workspace: Workspace) -> None:
    """Raise `InvalidInput` for a source that can never work."""
    check_branch(workspace.branch)
    if workspace.git is not None:
        parse_git_source(workspace.git)


def check_seed(workspace: Workspace, folders: AgentFolders) -> None:
    """Raise `InvalidInput` for what a workspace cannot be seeded with. Blocks. Of one that is seeded already no folder is asked for."""
    check_source(workspace)
    if workspace.copy_from is not None and not folders.seeded_mark.exists():
        _check_folder(workspace.copy_from, folders.data_dir)


@dataclass(frozen=True, slots=True)
class Seeder:
    """Seeds workspaces of one install."""

    settings: Settings
    redactor: Redactor
    environment: Mapping[str, str]
    """The manager's own, for the proxies it uses."""

    async def seed(
        self, spec: AgentSpec, folders: AgentFolders, *, owner: Owner | None, value: Callable[[str], str]
    ) -> None:
        """Seed an agent's workspace, unless that was done, or there is nothing to do. Its folders exist; no instance of it lives.

        ``owner`` is who the files shall belong to; ``value`` gives the value of a ``${NAME}`` (it blocks, and raises
        `SecretUnavailable`). Raises `WorkspaceSeedFailed`, after which nothing is left of the try and the next start tries again.
        """
        if spec.workspace.copy_from is None and spec.workspace.git is None:
            return
        if not await anyio.to_thread.run_sync(_is_due, folders):
            return
        _log.info("workspace_seeding", agent_id=spec.agent_id, how=_how(spec.workspace))
        draft = folders.draft(new_id("seed"))
        try:
            await anyio.to_thread.run_sync(draft.mkdir, PRIVATE)
            with anyio.fail_after(self.settings.seed_timeout.total_seconds()):
                await self._fill(spec, folders, draft, value=value)
            await anyio.to_thread.run_sync(_put_in_place, folders, draft, owner)
        except TimeoutError as error:
            took = f"{self.settings.seed_timeout.total_seconds():g} s"
            hint = "CNAP_RUNNER_SEED_TIMEOUT gives it more time; workspace.depth makes a clone smaller."
            raise _failed(spec, f"it took longer than {took}.", hint=hint) from error
        except WorkspaceSeedFailed as error:
            raise _failed(spec, self.redactor.redact(error.message), hint=error.hint) from error
        except OSError as error:
            raise _failed(spec, f"{folder_error(folders.workspace, error).message}") from error
        finally:
            async with shielded(CLEAN_UP):
                await anyio.to_thread.run_sync(remove, draft)
        _log.info("workspace_seeded", agent_id=spec.agent_id, how=_how(spec.workspace))

    async def _fill(self, spec: AgentSpec, folders: AgentFolders, draft: Path, *, value: Callable[[str], str]) -> None:
        workspace = spec.workspace
        if workspace.copy_from is not None:
            await _copy(workspace.copy_from, draft, folders.data_dir)
        elif workspace.git is not None:
            source = parse_git_source(workspace.git)
            credentials = await anyio.to_thread.run_sync(self._credentials, source, value)
            wanted = Clone(
                source=source,
                branch=workspace.branch,
                depth=workspace.depth,
                credentials=credentials,
                ca_file=self.settings.ca_file,
                proxies=self._proxies(),
            )
            await clone(wanted, draft)

    def _credentials(self, source: GitSource, value: Callable[[str], str]) -> Credentials | None:
        if source.user is None:
            return None
        values = {name: value(name) for name in source.names()}
        self.redactor.add(*(found for found in values.values() if found))
        return Credentials(fill_in(source.user, values), fill_in(source.password or "", values))

    def _proxies(self) -> dict[str, str]:
        """Give the settings' proxies, or else those of the manager's environment."""
        found = {}
        for name in PROXIES:
            used = getattr(self.settings, name) or self.environment.get(name) or self.environment.get(name.upper())
            if used:
                found[name] = used
        return found


async def seed_at_start(install: Install, spec: AgentSpec) -> None:
    """Seed an agent's workspace before its instance is made. The agent's lease is held. Raises as `Seeder.seed`."""
    if spec.workspace == Workspace():
        return
    folders, owner = AgentFolders(install.settings.data_dir, spec.agent_id), install.backend.file_owner()
    await anyio.to_thread.run_sync(folders.make, owner)
    resolver = Resolver(spec, install.secrets, os.environ, install.settings.env_allow)
    seeder = Seeder(install.settings, install.redactor, os.environ)
    await seeder.seed(spec, folders, owner=owner, value=partial(resolver.value, where="workspace.git"))


async def _copy(source: Path, draft: Path, data_dir: Path) -> None:
    """Copy in a thread, which has ended when this returns, is cancelled or raises: it would go on filling the draft."""
    stop = threading.Event()

    def copy() -> Exception | None:
        try:
            _check_folder(source, data_dir)
            copy_tree(source.resolve(), draft, should_stop=stop.is_set)
        except (InvalidInput, WorkspaceSeedFailed) as error:
            return WorkspaceSeedFailed(error.message, hint=error.hint)
        except OSError as error:
            return error
        return None

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_when_cancelled, stop)
        failure = await anyio.to_thread.run_sync(copy)
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _stop_when_cancelled(stop: threading.Event) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        stop.set()


def _check_folder(source: Path, data_dir: Path) -> None:
    """Raise `InvalidInput` for a source that is no folder, or that holds the data folder or lies in it."""
    try:
        found, ours = source.resolve(), data_dir.resolve()
        is_folder = found.is_dir()
    except (OSError, RuntimeError) as error:  # no right to look, or a loop of links
        raise InvalidInput(f"workspace.copy {source} cannot be looked at: {error}.") from error
    if not is_folder:
        raise InvalidInput(f"workspace.copy {source} is not a folder.")
    if found.is_relative_to(ours):
        raise InvalidInput(
            f"workspace.copy {source} lies in the data folder {data_dir}.", hint="Name a folder outside of it."
        )
    if ours.is_relative_to(found):
        raise InvalidInput(
            f"workspace.copy {source} holds the data folder {data_dir}, and so the workspace itself.",
            hint="Name a folder without it, or put the data folder elsewhere (CNAP_RUNNER_DATA_DIR).",
        )


def _is_due(folders: AgentFolders) -> bool:
    """Whether to seed; removes what an earlier try left."""
    for left in folders.drafts():
        remove(left)
    if folders.seeded_mark.exists():
        return False
    try:
        with os.scandir(folders.workspace) as entries:
            is_empty = next(entries, None) is None
    except OSError as error:
        raise folder_error(folders.workspace, error) from error
    if not is_empty:
        _mark(folders)
    return is_empty


def _put_in_place(folders: AgentFolders, draft: Path, owner: Owner | None) -> None:
    """Give the draft to the agent and let it take the empty workspace's place. Raises `OSError` where that got files meanwhile."""
    draft.chmod(SHARED)  # before the access list, whose mask it would change
    if owner is not None:
        give_all(draft, owner, folders.sharers(owner))
    draft.rename(folders.workspace)
    _mark(folders)


def _mark(folders: AgentFolders) -> None:
    with suppress(FileExistsError):
        folders.seeded_mark.touch(mode=0o600)


def _how(workspace: Workspace) -> str:
    """Say where from, without credentials."""
    if workspace.git is not None:
        return f"git {parse_git_source(workspace.git).url}"
    return f"copy {workspace.copy_from}"


def _failed(spec: AgentSpec, why: str, *, hint: str | None = None) -> RunnerError:
    return WorkspaceSeedFailed(
        f"The workspace of agent {spec.agent_id} could not be seeded ({_how(spec.workspace)}): {why}", hint=hint
    )
