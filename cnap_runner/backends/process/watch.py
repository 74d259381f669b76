"""Watching instances: the kernel tells at once when a launcher ends; the rest is found by looking at the folders."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

import anyio
from anyio.to_thread import run_sync

from cnap_runner.backends.process.folders import InstanceFolders, load_status
from cnap_runner.backends.process.freeze import PauseRecord, read_pause
from cnap_runner.backends.process.observe import observe
from cnap_runner.backends.process_launcher.proc import ProcessIdentity, open_pidfd
from cnap_runner.errors import BackendError, InstanceNotFound
from cnap_runner.model.instance import InstanceEvent, InstanceEventKind, InstanceStatus, Observation

LOOK_EVERY_SECONDS = 1.0
"""How late the watch may learn of what another process started, paused or removed."""


@dataclass(frozen=True, slots=True)
class Sight:
    """One instance as the watch saw it last."""

    seen: Observation
    launcher: ProcessIdentity | None
    """Which run it is in; None before the first."""
    pauses: int
    """How often this run was paused."""


class Watch:
    """One watch over an install's instances, used inside its context by one consumer."""

    def __init__(self, folders: InstanceFolders, install_id: str) -> None:
        self._folders = folders
        self._install_id = install_id
        self._sights: dict[str, Sight] = {}
        self._pidfds: dict[ProcessIdentity, FileIO] = {}
        self._stirred = asyncio.Event()

    @contextlib.asynccontextmanager
    async def standing(self) -> AsyncIterator[AsyncIterator[InstanceEvent]]:
        """Look for the first time, so that whatever changes from then on is told."""
        try:
            self._sights = await run_sync(self._look)
            await self._follow_launchers()
            yield self._events()
        finally:
            for identity in list(self._pidfds):
                self._unfollow(identity)

    def stir(self) -> None:
        """Look now: something was changed by this process."""
        self._stirred.set()

    async def _events(self) -> AsyncIterator[InstanceEvent]:
        yield _event(InstanceEventKind.CONNECTED, None)
        is_connected = True
        while True:
            with anyio.move_on_after(LOOK_EVERY_SECONDS):
                await self._stirred.wait()
            self._stirred.clear()
            try:
                sights = await run_sync(self._look)
            except BackendError:
                # An error is not "nothing is there": what was seen stands, and the consumer lists anew afterwards.
                is_connected = False
                continue
            before, self._sights = self._sights, sights
            await self._follow_launchers()
            if not is_connected:
                is_connected = True
                yield _event(InstanceEventKind.CONNECTED, None)
            for event in changes(before, sights):
                yield event

    def _look(self) -> dict[str, Sight]:
        sights = {}
        for folder in self._folders.all():
            with contextlib.suppress(InstanceNotFound):
                sight = look_at(folder)
                if sight.seen.install_id == self._install_id:
                    sights[folder.name] = sight
        return sights

    async def _follow_launchers(self) -> None:
        live = {sight.launcher for sight in self._sights.values() if sight.launcher and sight.seen.is_live}
        for identity in set(self._pidfds) - live:
            self._unfollow(identity)
        for identity in live - set(self._pidfds):
            pidfd = await run_sync(open_pidfd, identity)
            if pidfd is None:
                self.stir()
                continue
            self._pidfds[identity] = pidfd
            asyncio.get_running_loop().add_reader(pidfd, self._on_end, identity)

    def _on_end(self, identity: ProcessIdentity) -> None:
        self._unfollow(identity)
        self.stir()

    def _unfollow(self, identity: ProcessIdentity) -> None:
        pidfd = self._pidfds.pop(identity)
        asyncio.get_running_loop().remove_reader(pidfd)
        pidfd.close()


def look_at(folder: Path) -> Sight:
    """See one instance. Raises `InstanceNotFound`, `BackendError`."""
    while True:
        before = _remembered(folder)
        seen = observe(folder)
        # Started anew or paused while we looked: what was seen would not be of one moment.
        if (after := _remembered(folder)) == before:
            launcher, pause = after
            is_being_paused = seen.status is InstanceStatus.PAUSED and not pause.is_paused
            return Sight(seen=seen, launcher=launcher, pauses=pause.count + is_being_paused)


def _remembered(folder: Path) -> tuple[ProcessIdentity | None, PauseRecord]:
    status = load_status(folder)
    return (status.launcher if status else None), read_pause(folder)


def changes(before: Mapping[str, Sight], after: Mapping[str, Sight]) -> Iterator[InstanceEvent]:
    """Tell what happened between two looks, for each instance in the order in which it must have happened."""
    for instance_id in sorted(before.keys() | after.keys()):
        old, new = before.get(instance_id), after.get(instance_id)
        if new is None:
            if old is not None:
                yield from _removed(old)
        elif old is None or old.launcher != new.launcher:
            yield from _new_run(old, new)
        else:
            yield from _same_run(old, new)


def _removed(old: Sight) -> Iterator[InstanceEvent]:
    if old.seen.is_live:
        yield _event(InstanceEventKind.DIED, old.seen)
    yield _event(InstanceEventKind.REMOVED, old.seen)


def _new_run(old: Sight | None, new: Sight) -> Iterator[InstanceEvent]:
    """A run that nobody saw begin; the one before it may have ended unseen."""
    if old is not None and old.seen.is_live:
        yield _event(InstanceEventKind.DIED, old.seen)
    if new.launcher is None:
        return
    yield _event(InstanceEventKind.STARTED, new.seen)
    if new.pauses > 0:
        yield from _pauses(InstanceStatus.RUNNING, new.seen)
    if not new.seen.is_live:
        yield _event(InstanceEventKind.DIED, new.seen)


def _same_run(old: Sight, new: Sight) -> Iterator[InstanceEvent]:
    if not old.seen.is_live:
        return
    if new.pauses > old.pauses:
        yield from _pauses(old.seen.status, new.seen)
    elif old.seen.status is InstanceStatus.PAUSED and new.seen.status is InstanceStatus.RUNNING:
        yield _event(InstanceEventKind.RESUMED, new.seen)
    elif old.seen.status is InstanceStatus.RUNNING and new.seen.status is InstanceStatus.PAUSED:
        yield _event(InstanceEventKind.PAUSED, new.seen)
    if not new.seen.is_live:
        yield _event(InstanceEventKind.DIED, new.seen)


def _pauses(old: InstanceStatus, new: Observation) -> Iterator[InstanceEvent]:
    """It was paused since, once or more often; the last time is told."""
    if old is InstanceStatus.PAUSED:
        yield _event(InstanceEventKind.RESUMED, new)
    yield _event(InstanceEventKind.PAUSED, new)
    if new.status is InstanceStatus.RUNNING:
        yield _event(InstanceEventKind.RESUMED, new)


def _event(kind: InstanceEventKind, about: Observation | None) -> InstanceEvent:
    is_death = kind is InstanceEventKind.DIED
    return InstanceEvent(
        kind=kind,
        instance_id=about.ref.instance_id if about else None,
        agent_id=about.agent_id if about else None,
        at=(about.finished_at if about and is_death else None) or datetime.now(UTC),
        exit_code=about.exit_code if about and is_death else None,
    )
