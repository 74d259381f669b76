"""RunnerManager: the door to an install. It is put together from its parts by `cnap_runner.wiring`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.to_thread

from cnap_runner.aio.lone import lone_errors
from cnap_runner.aio.shield import shielded
from cnap_runner.errors import InvalidInput, ManagerUnusable
from cnap_runner.model.agent import AgentSpec, refuse_unbuilt
from cnap_runner.model.answers import PendingAnswer
from cnap_runner.model.engine import EngineInfo
from cnap_runner.model.figures import MetricsSnapshot
from cnap_runner.model.hold import Hold
from cnap_runner.model.ids import check_id
from cnap_runner.model.journal import Decision
from cnap_runner.model.run import RunRecord, RunResult
from cnap_runner.model.stats import Stats
from cnap_runner.model.workspace import Mended, WorkspaceInfo
from cnap_runner.runner.archives.arriving import import_agent
from cnap_runner.runner.archives.leaving import export_agent
from cnap_runner.runner.archives.listener import ArchiveListener
from cnap_runner.runner.declarations import Action, ApplyPlan, plan_of, redacted
from cnap_runner.runner.deleting import delete_agent, purge
from cnap_runner.runner.install import Install
from cnap_runner.runner.journal import told
from cnap_runner.runner.lifecycle.holding import hold, release
from cnap_runner.runner.lifecycle.service import be_keeper, claim_keeper, count_agents, needs_keeper, pause_agent
from cnap_runner.runner.parts import Parts
from cnap_runner.runner.provisioning.hardware import refuse_unable
from cnap_runner.runner.recovery.recovering import recover_agent
from cnap_runner.runner.runner import Runner
from cnap_runner.runner.secrecy.keeping import SecretUse, forget_secret, keep_secret, secrets_in_use
from cnap_runner.runner.secrecy.literals import keep_spec, take_literals
from cnap_runner.runner.turns.abandoned import UNFINISHED
from cnap_runner.runner.workspaces import listing as workspaces
from cnap_runner.runner.workspaces.folders import AgentFolders
from cnap_runner.runner.workspaces.seeding import check_seed, check_source
from cnap_runner.store.base import WishKind

OpenInstall = Callable[[], AbstractAsyncContextManager[Install]]


class RunnerManager:
    """Drives the agents of an install. An async context manager; its methods are coroutines.

    Several managers, in one process or many, may work on one install at the same time. A manager refuses to work in a forked child.
    Methods that take an ``agent_id`` raise `InvalidInput` for one that is none, and `RunnerNotFound` for one that is not known.
    """

    def __init__(
        self, open_install: OpenInstall, template: Callable[[], Mapping[str, Any]], *, is_observer: bool
    ) -> None:
        self._open_install = open_install
        self._template = template
        self._is_observer = is_observer
        self._pid = os.getpid()
        self._stack = AsyncExitStack()
        self._parts: Parts | None = None
        self._is_closing = False
        self._is_left_by_error = False

    async def __aenter__(self) -> Self:
        if self._parts is not None or self._is_closing:
            raise ManagerUnusable("A manager can be entered once.", hint="Make a new RunnerManager.")
        async with AsyncExitStack() as stack:
            stack.enter_context(lone_errors())
            install = await stack.enter_async_context(self._open_install())
            template = await anyio.to_thread.run_sync(self._template)
            tasks = await stack.enter_async_context(anyio.create_task_group())
            self._parts = Parts(install, template, tasks)
            stack.push_async_exit(self._close)
            await self._parts.begin(is_observer=self._is_observer)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._is_left_by_error = kind is not None
        # What the caller's block raised is not for the task group inside, which would wrap it: it goes on as it is.
        await self._stack.aclose()

    # --- agents ---------------------------------------------------------------------------------------------------------

    async def create_runner(self, spec: AgentSpec, *, expected: AgentSpec | None = None) -> Runner:
        """Make an agent known, or replace the whole spec of a known one; return its runner. Idempotent; starts nothing.

        A new list of what it may reach applies at once, what else changed at the next moment without a turn: to an idle agent at once,
        though for no longer than some seconds, else before its next turn; see `Runner.pending_changes`. A secret that is written out in
        the spec goes to the vault, with a `SecretWarning`; the spec that is stored names it. Raises `InvalidInput` for settings that are
        known to be wrong, and `NotSupportedYet` for a field whose effect is not built yet.

        To change some fields of what is there, give the `Runner.spec` that you changed as ``expected``: where somebody else changed the
        agent meanwhile, `ConflictError` is raised, and nothing was changed.
        """
        parts = self._usable()
        self._check(spec)
        folders = AgentFolders(parts.install.settings.data_dir, spec.agent_id)
        await anyio.to_thread.run_sync(check_seed, spec.workspace, folders)
        row = await keep_spec(parts.install, spec, expected=expected)
        await anyio.to_thread.run_sync(folders.make, None)
        await parts.instances.change_reach(row)
        runner = Runner(self._usable, row)
        await parts.catch_up(spec.agent_id)
        return runner

    async def apply(
        self,
        specs: Sequence[AgentSpec],
        dry_run: bool = False,  # noqa: FBT001, FBT002
        *,
        prune: str | None = None,
    ) -> ApplyPlan:
        """Make agents as they are declared, and return what differed. Idempotent; agents that are not named are left alone.

        All specs are checked before anything is changed: `InvalidInput` means that nothing was. ``dry_run`` only looks. ``prune``
        (``label=value``, which each spec must carry) deletes the agents of that label that are not named; their files and sessions stay.
        """
        install = self._usable().install
        wanted = {spec.agent_id: spec for spec in specs}
        for spec in specs:
            self._check(spec)
            folders = AgentFolders(install.settings.data_dir, spec.agent_id)
            await anyio.to_thread.run_sync(check_seed, spec.workspace, folders)
        known = {row.spec.agent_id: row.spec for row in await install.store.list_agents()}
        stored = [take_literals(spec, key=install.key).spec for spec in specs]
        plan = plan_of(known, stored, prune=prune)
        for agent in () if dry_run else plan.agents:
            if agent.action is Action.DELETE:
                await self.delete_runner(agent.agent_id)
            elif agent.action is not Action.KEEP:
                await self.create_runner(wanted[agent.agent_id])
        return redacted(plan, install.redactor)

    async def get_runner(self, agent_id: str) -> Runner:
        """Return the runner of a known agent."""
        parts = self._usable()
        return Runner(self._usable, await parts.install.store.get_agent(check_id(agent_id)))

    async def list_runners(self) -> list[Runner]:
        """Return the runners of all known agents, by id."""
        parts = self._usable()
        return [Runner(self._usable, row) for row in await parts.install.store.list_agents()]

    async def start_runner(self, agent_id: str) -> Runner:
        """Make sure of a ready instance. Ready already: nothing happens. Raises as `Runner.run` does before it sends."""
        parts = self._usable()
        await parts.install.store.get_agent(check_id(agent_id))
        await parts.runs.note_use(agent_id)
        async with parts.leased(agent_id, "start"):
            await parts.instances.ensure(await parts.install.store.get_agent(agent_id))
        return await self.get_runner(agent_id)

    async def stop_runner(self, agent_id: str) -> None:
        """End the agent's unfinished runs, then its instance; session and workspace stay. Stopped already: nothing happens."""
        parts = self._usable()
        row = await parts.install.store.get_agent(check_id(agent_id))
        async with parts.emptied(row.agent_id, WishKind.STOP):
            row = await parts.install.store.get_agent(agent_id)
            await parts.instances.end(row.runner, reason="it was asked to stop")

    async def recover_runner(self, agent_id: str) -> Runner:
        """Bring an agent to a ready instance, from whatever state; workspace and sessions stay. Idempotent; one that is well is left alone.

        A crash loop is forgiven, runs that a dead manager left are settled, and an instance that does not answer is replaced. While
        somebody living drives a turn, that goes on and nothing else is done. Raises as `start_runner` does.
        """
        parts = self._usable()
        await parts.install.store.get_agent(check_id(agent_id))
        await parts.runs.note_use(agent_id)
        await recover_agent(parts, agent_id)
        return await self.get_runner(agent_id)

    async def delete_runner(self, agent_id: str, delete_workspace: bool = False) -> None:  # noqa: FBT001, FBT002
        """Stop and remove the agent's instance and forget the agent. An unknown id is no error.

        Its workspace and sessions stay, and a later agent of that id goes on with them; ``delete_workspace`` ends all of it.
        """
        await delete_agent(self._usable(), agent_id, with_files=delete_workspace)

    # --- archives -------------------------------------------------------------------------------------------------------

    async def export_agent(
        self,
        agent_id: str,
        path: str | os.PathLike[str],
        *,
        with_home: bool = False,
        listener: ArchiveListener | None = None,
    ) -> None:
        """Write an agent into one file: its spec, workspace and sessions, and with ``with_home`` its home (caches, tools).

        Happens between turns; a live instance is frozen for as long as it takes. Secrets' values are not in it; a file of the agent that
        holds one is named to the ``listener``. The file is for its owner alone, replaces one of that name, and is whole or not there.
        Raises `RunnerError` where it cannot be written.
        """
        listener = listener or ArchiveListener()
        await export_agent(self._usable(), agent_id, _path(path), with_home=with_home, listener=listener)

    async def import_agent(
        self,
        path: str | os.PathLike[str],
        *,
        agent_id: str | None = None,
        max_bytes: int | None = None,
        listener: ArchiveListener | None = None,
    ) -> Runner:
        """Make an agent from an archive, under its own or another id, and return its runner; starts nothing.

        It goes on with its sessions. Secrets that have no value here are named to the ``listener``. ``max_bytes`` bounds what is unpacked;
        None: the room on the data folder's disk, less ``host_reserve_mb``. Raises `ArchiveInvalid`, `ConflictError` for an agent that is
        there already or left files, `InsufficientResources`; then nothing is left of it.
        """
        row = await import_agent(
            self._usable(),
            _path(path),
            agent_id=agent_id,
            max_bytes=max_bytes,
            check=self._check,
            listener=listener or ArchiveListener(),
        )
        return Runner(self._usable, row)

    async def purge(self) -> None:
        """Remove everything of this install but its data folder's own files: agents, workspaces, instances, networks and what guards them."""
        await purge(self._usable())

    # --- secrets --------------------------------------------------------------------------------------------------------

    async def rotate_secrets(self, agent_id: str) -> None:
        """Read the agent's secrets anew and give them to its live instance, which goes on. Without one, nothing happens.

        In a turn, or while it starts: after that. Raises `SecretUnavailable` for one that has no value any more; the instance then keeps what it has.
        """
        parts = self._usable()
        await parts.install.store.get_agent(check_id(agent_id))
        # Without an instance too: one that is about to start may have been given what was there before.
        async with parts.leased(agent_id, "rotate"):
            await parts.instances.catch_up(await parts.install.store.get_agent(agent_id), is_rotation=True)

    async def put_secret(self, name: str, value: str, *, source: str = "vault") -> tuple[str, ...]:
        """Keep a secret for ``secrets={"…": "vault:NAME"}``, or in the system's keyring; return the agents whose specs name it.

        Raises `InvalidInput` for a name or value that cannot be, and `SecretUnavailable` where it cannot be written. An agent that runs has
        the value it was started with until `rotate_secrets`.
        """
        return await keep_secret(self._usable().install, name, value, source)

    async def delete_secret(self, name: str, *, source: str = "vault", force: bool = False) -> None:
        """Forget a secret. Raises `NotFoundError`, and `ConflictError` while an agent's spec names it, unless forced."""
        await forget_secret(self._usable().install, name, source, is_forced=force)

    async def list_secrets(self) -> list[SecretUse]:
        """Return the secrets that the vault keeps or an agent's spec names, by reference, without their values."""
        return await secrets_in_use(self._usable().install)

    # --- workspaces -----------------------------------------------------------------------------------------------------

    async def list_workspaces(self) -> list[WorkspaceInfo]:
        """Measure the files of all agents, deleted ones too; by id. Takes as long as going through all of them."""
        return await workspaces.list_workspaces(self._usable().install)

    async def measure_workspace(self, agent_id: str) -> WorkspaceInfo:
        """Measure the files of one agent, known or deleted; raises `RunnerNotFound` where there are none."""
        (found,) = await workspaces.list_workspaces(self._usable().install, [agent_id])
        return found

    async def remove_workspace(self, agent_id: str) -> None:
        """Remove the workspace of a stopped agent, for ever; its sessions stay, and its next start seeds the workspace anew.

        Raises `ConflictError` while its instance lives. A deleted agent's files are ended by `delete_runner` with ``delete_workspace``.
        """
        await workspaces.remove_workspace(self._usable(), agent_id)

    async def fix_workspace(self, agent_id: str) -> Mended:
        """Give an agent what others put into its workspace. Idempotent; safe while it works. Needs root, else `InvalidInput`."""
        return await workspaces.fix_workspace(self._usable(), agent_id)

    async def prune_workspaces(self) -> list[str]:
        """Remove for ever the files of agents that were deleted longer than ``workspace_retention`` ago; return their ids.

        Done by each manager when it begins, too. Without a retention nothing happens.
        """
        return await workspaces.prune(self._usable())

    # --- runs -----------------------------------------------------------------------------------------------------------

    async def list_runs(self, agent_id: str | None = None, *, is_unfinished: bool = False) -> list[RunRecord]:
        """Return ledger entries, newest first; at most 1,000. ``is_unfinished``: only those that have not ended."""
        store, wanted = self._usable().install.store, None if agent_id is None else check_id(agent_id)
        return await store.list_runs(wanted, states=UNFINISHED if is_unfinished else None)

    async def get_run(self, run_id: str) -> RunRecord:
        """Return one ledger entry; raises `RunNotFound`."""
        return await self._usable().install.store.get_run(run_id)

    async def wait_run(self, run_id: str) -> RunResult:
        """Wait until a run has ended, whoever drives it, and return its result; raises `RunNotFound`."""
        parts = self._usable()
        run = await parts.install.store.get_run(run_id)
        return await parts.runs.queue.wait_ended(run_id, run.agent_id)

    async def explain(self, agent_id: str, *, limit: int = 100) -> list[Decision]:
        """Tell what was decided about an agent, as `Runner.explain`; a deleted one's log is kept."""
        return await told(self._usable().install, check_id(agent_id), limit=limit)

    async def metrics(self) -> MetricsSnapshot:
        """Return FR-010's counters over the install's life, whoever did it. docs/operations/metrics.md tells how to watch them."""
        return await self._usable().metering.snapshot()

    async def pending_answers(self) -> list[PendingAnswer]:
        """Return all permissions and questions that wait for somebody's reply, oldest first; `Runner.answer` replies."""
        return await self._usable().install.store.list_pending()

    async def check_engine(self) -> EngineInfo:
        """Ask the engine who it is; raises `EngineUnavailable` and its like."""
        return await self._usable().install.backend.check()

    # --- life cycle -----------------------------------------------------------------------------------------------------

    async def pause_runner(self, agent_id: str) -> None:
        """Freeze the agent's instance until its next run, or until it has been idle for long enough to be stopped. Paused: nothing happens.

        Raises `ConflictError` in a turn and without an instance, `InvalidInput` where the backend cannot freeze.
        """
        await pause_agent(self._usable(), agent_id)

    async def hold(self, agent_id: str, owner: str, until: datetime) -> Hold:
        """Keep the agent's instance for an owner, until a moment: it is neither frozen nor stopped for doing nothing, and yields its place
        to nobody. Starts nothing. The same owner moves the end of the hold there is. Raises `InvalidInput` for an end that is past."""
        return await hold(self._usable().install, agent_id, owner, until)

    async def release(self, agent_id: str, owner: str) -> bool:
        """End an owner's hold; tell whether there was one. Without another the agent's idle time counts again, as if never held."""
        return await release(self._usable().install, agent_id, owner)

    async def list_holds(self) -> list[Hold]:
        """Return the holds that are not over, by agent and owner."""
        install = self._usable().install
        return await install.store.list_holds(at=install.now())

    async def waiting_for_place(self) -> list[str]:
        """Return the agents that wait for one of the ``max_containers`` places, in the order in which they get one."""
        install = self._usable().install
        return await install.store.list_waiting(install.is_alive, at=install.now())

    async def stats(self) -> Stats:
        """Count the agents and what ended their instances and turns, over the install's life and all its managers."""
        return await count_agents(self._usable().install)

    async def claim_keeper(self) -> bool:
        """Become the install's keeper, unless another one lives; tell whether it is. `keep` does it too."""
        return await claim_keeper(self._usable().install)

    async def keep(self) -> bool:
        """Be the install's keeper: stay until no agent has a live instance. False at once where another keeper lives.

        Each manager that is no observer sees to idle agents while it is open; a keeper is one that is open for nothing else.
        """
        return await be_keeper(self._usable().install)

    async def needs_keeper(self) -> bool:
        """Tell whether live instances are there that nobody would stop after this manager's end, unless another manager opens."""
        return await needs_keeper(self._usable().install)

    # --- inside ---------------------------------------------------------------------------------------------------------

    @property
    def parts(self) -> Parts:
        """What the manager is made of, for the layers above that work with the same store; not for callers. Raises `ManagerUnusable`."""
        return self._usable()

    def _usable(self) -> Parts:
        if os.getpid() != self._pid:
            raise ManagerUnusable(
                "A manager cannot be used in a forked child.", hint="Make a RunnerManager in the child."
            )
        if self._parts is None or self._is_closing:
            state = "is closed" if self._is_closing else "was not entered"
            raise ManagerUnusable(
                f"The manager {state}.", hint="Use it inside `async with RunnerManager(…) as manager:`."
            )
        return self._parts

    def _check(self, spec: AgentSpec) -> None:
        """Refuse a spec that cannot work here. Changes nothing. Raises `InvalidInput`."""
        parts = self._usable()
        refuse_unbuilt(spec)
        check_source(spec.workspace)
        refuse_unable(spec, parts.install.settings, parts.install.backend.capabilities)
        parts.instances.planner.check(spec)

    async def _close(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let turns end, or end them where an error or a cancellation leads here; stop what nobody else uses, sign off. Within
        ``shutdown_timeout``, whatever happens."""
        parts = self._parts
        if parts is None:
            return
        self._is_closing = True
        deadline = anyio.current_time() + parts.install.settings.shutdown_timeout.total_seconds()
        try:
            if kind is None and not self._is_left_by_error and os.getpid() == self._pid:
                await parts.drain()
        finally:
            parts.tasks.cancel_scope.cancel()
            # A forked child has nothing to sign off: the agents, the lock and the row are its parent's.
            if os.getpid() == self._pid:
                left = timedelta(seconds=deadline - anyio.current_time())
                async with shielded(left):
                    await parts.end(within=left)


def _path(given: str | os.PathLike[str]) -> Path:
    try:
        return Path(given)
    except TypeError:
        raise InvalidInput(f"A file is named by text or a Path, not by {type(given).__name__}.") from None
