"""What differs between a live instance and its agent's spec, and bringing the instance up to date while it runs.

Limits change in place; settings and secrets are written anew and the server reads them again, which costs it half a second and ends its
MCP servers; everything else needs a new instance. All of it happens between turns, under the agent's lease.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import Literal

import anyio.to_thread

from cnap_runner.errors import (
    ConflictError,
    InstanceExited,
    InstanceNotFound,
    InsufficientResources,
    InvalidInput,
    SecretUnavailable,
    ServerError,
)
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.instance import Layout
from cnap_runner.model.runner import LIVE_STATUSES, RunnerRecord, RunnerStatus
from cnap_runner.runner.boot import LiveInstance
from cnap_runner.runner.install import Install
from cnap_runner.runner.provisioning.configuration import config_file
from cnap_runner.runner.provisioning.planning import Planner, Target
from cnap_runner.runner.provisioning.rendering import Provision, check_keys_stay
from cnap_runner.runner.provisioning.settings_folder import write_settings
from cnap_runner.runner.provisioning.workspace_plugins import refuse_plugins
from cnap_runner.runner.readiness import wait_until_ready
from cnap_runner.runner.workspaces.folders import AgentFolders
from cnap_runner.telemetry.logging import get_logger

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PendingChange:
    """Something of an agent's spec that its live instance does not have yet."""

    what: Literal["container", "limits", "settings", "egress"]
    """``container``: image, labels, network, hardware, runtime. ``limits``: memory, CPU, pids. ``settings``: configuration, MCP servers,
    files, where secrets come from. ``egress``: a list of what may be reached that this process cannot work out."""
    applies: str
    """When, in plain words."""
    reason: str | None = None
    """What keeps this process from applying it, in plain words, such as a variable without a value; None: nothing that is known."""


class CannotApply(Exception):
    """A live instance cannot take a change up; a new one can. Its text is the reason, for the record."""


def needs_new_instance(record: RunnerRecord, target: Target) -> bool:
    """Whether the instance differs in what is fixed for its life."""
    return record.spec_hash != target.spec_hash


def is_behind(record: RunnerRecord, target: Target) -> bool:
    """Whether a live instance differs in anything."""
    return record.status in LIVE_STATUSES and bool(_differing(record, target))


def pending(record: RunnerRecord, target: Target, *, is_in_turn: bool) -> list[PendingChange]:
    """Tell what a live instance does not have yet, and when it will. One that is not live starts with everything."""
    if record.status not in LIVE_STATUSES:
        return []
    moment = (
        "after the turn under way" if is_in_turn or record.status is RunnerStatus.RUNNING else "before the next turn"
    )
    ways = {"container": f"{moment}, with a new container", "settings": moment, "limits": moment}
    return [PendingChange(what, ways[what]) for what in _differing(record, target)]


_HINDERED = "when what hinders it is mended"


def _differing(record: RunnerRecord, target: Target) -> list[Literal["container", "limits", "settings"]]:
    found: list[Literal["container", "limits", "settings"]] = []
    if needs_new_instance(record, target):
        found.append("container")
    if record.limits != target.limits:
        found.append("limits")
    if record.settings_hash != target.settings_hash:
        found.append("settings")
    return found


class Changes:
    """Brings live instances of one install up to date. All methods need the agent's lease."""

    def __init__(self, install: Install, planner: Planner) -> None:
        self._install = install
        self._planner = planner

    async def pending(self, spec: AgentSpec, record: RunnerRecord, *, is_in_turn: bool) -> list[PendingChange]:
        """Tell what a live instance does not have yet, when it will, and what hinders this process. Changes nothing, needs no lease."""
        found = pending(record, self._planner.target(spec), is_in_turn=is_in_turn)
        if any(change.what != "limits" for change in found) and (reason := await self._obstacle(spec, record)):
            found = [
                change if change.what == "limits" else replace(change, applies=_HINDERED, reason=reason)
                for change in found
            ]
        if record.status in LIVE_STATUSES and all(change.what != "container" for change in found):
            # What may be reached is no part of a record: it is compared where it is enforced.
            reason = await self._reason_of(self._planner.rules(spec))
            found += [PendingChange("egress", _HINDERED, reason)] if reason else []
        return found

    async def _obstacle(self, spec: AgentSpec, record: RunnerRecord) -> str | None:
        """Say what keeps this process from giving an instance its settings."""
        if record.instance_id is None or needs_new_instance(record, self._planner.target(spec)):
            attempt: Awaitable[object] = self._planner.plan(spec, generation=record.generation + 1)
        else:
            attempt = self._render(record.instance_id, spec, record)
        unresolved = await self._reason_of(attempt)
        return unresolved or await self._reason_of(refuse_plugins(spec, self._install.settings.data_dir))

    async def _reason_of(self, attempt: Awaitable[object]) -> str | None:
        try:
            await attempt
        except InvalidInput as error:
            return self._install.redactor.redact(str(error))
        return None

    async def apply(
        self, live: LiveInstance, spec: AgentSpec, record: RunnerRecord, *, is_rotation: bool = False
    ) -> RunnerRecord:
        """Give a live instance the limits and settings of its agent's spec, and return the record as it then is.

        ``is_rotation``: read and deliver its secrets anew, though no setting changed. Raises `CannotApply` where only a new instance helps.
        A process that cannot resolve the settings leaves the instance as it is and says so in its log; for a rotation it raises
        `SecretUnavailable`. What is interrupted half-way is done again by the next call, whoever makes it.
        """
        target = self._planner.target(spec)
        if record.limits != target.limits:
            record = await self._apply_limits(live, record, target)
        if is_rotation or record.settings_hash != target.settings_hash:
            record = await self._apply_settings(live, spec, record, is_rotation=is_rotation)
        return record

    async def _apply_limits(self, live: LiveInstance, record: RunnerRecord, target: Target) -> RunnerRecord:
        # Not known until it is done: the spec may be as before when somebody comes after an interruption.
        await self._install.save_runner(record.settled(settings_hash=record.settings_hash, limits=None))
        try:
            await self._install.backend.update_limits(live.ref, target.limits)
        except (InsufficientResources, InstanceNotFound, InstanceExited) as error:
            raise CannotApply(f"its limits changed: {error.message}") from error
        record = record.settled(settings_hash=record.settings_hash, limits=target.limits)
        await self._install.save_runner(record)
        _log.info("limits_applied", agent_id=record.agent_id, instance_id=record.instance_id)
        return record

    async def _apply_settings(
        self, live: LiveInstance, spec: AgentSpec, record: RunnerRecord, *, is_rotation: bool
    ) -> RunnerRecord:
        try:
            given = await self._render(live.ref.instance_id, spec, record)
        except SecretUnavailable as error:
            if is_rotation:
                raise
            _log.warning("settings_not_applied", agent_id=spec.agent_id, reason=error.message)
            return record
        # Not known until all is done: whoever comes after an interruption does it again.
        await self._install.save_runner(record.settled(settings_hash=None, limits=record.limits))
        try:
            await self._take_up(live, given)
        except (ServerError, InstanceNotFound, InstanceExited, ConflictError) as error:
            reason = self._install.redactor.redact(error.message)
            raise CannotApply(f"its server did not take up the new settings: {reason}") from error
        settled = record.settled(settings_hash=self._planner.target(spec).settings_hash, limits=record.limits)
        await self._install.save_runner(settled)
        _log.info("settings_applied", agent_id=spec.agent_id, instance_id=record.instance_id)
        return settled

    async def _render(self, instance_id: str, spec: AgentSpec, record: RunnerRecord) -> Provision:
        given, layout = await self._planner.render(spec, instance_id=instance_id, generation=record.generation)
        await anyio.to_thread.run_sync(self._check_keys, spec, given, layout)
        return given

    def _check_keys(self, spec: AgentSpec, given: Provision, layout: Layout) -> None:
        """Compare with what the running server was given. Runs in a thread."""
        try:
            present = (self._folders(spec.agent_id).settings / config_file(spec)).read_text(encoding="utf-8")
        except OSError:
            return  # Nothing to compare with: it is written anew.
        check_keys_stay(present, given, spec=spec, layout=layout)

    async def _take_up(self, live: LiveInstance, given: Provision) -> None:
        """Deliver secrets before the settings that name them, and let the server read both."""
        install = self._install
        await install.backend.deliver(live.ref, secrets=given.archive(install.password_of(live.ref.instance_id)))
        await anyio.to_thread.run_sync(write_settings, self._folders(live.agent_id).settings, given.files)
        await live.client.dispose()
        # The server ends the streams that stood; the next turn opens one, whether we have heard of it or not, and whatever comes in between.
        ended, live.events = live.events, install.events_of(live.client)
        live.last_turn = None  # What is remembered of it may not hold for a server that begins anew.
        await ended.aclose()
        await wait_until_ready(live.client, timeout=install.settings.health_timeout, died=live.life.died)

    def _folders(self, agent_id: str) -> AgentFolders:
        return AgentFolders(self._install.settings.data_dir, agent_id)
