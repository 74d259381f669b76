"""Finding instances again, and saying clearly when they are gone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from cnap_runner.backends.base import Backend
from cnap_runner.errors import InstanceExited, InstanceNotFound, InvalidInput
from cnap_runner.model.instance import InstanceRef, InstanceStatus
from cnap_runner.testing.backend_harness import GRACE, Harness, of_other_install, secrets

Verb = Callable[[Backend, InstanceRef], Awaitable[object]]


async def _read_logs(backend: Backend, ref: InstanceRef) -> None:
    async for _ in backend.logs(ref):
        pass


NEED_AN_INSTANCE: dict[str, Verb] = {
    "start": lambda backend, ref: backend.start(ref, secrets=secrets()),
    "pause": lambda backend, ref: backend.pause(ref),
    "resume": lambda backend, ref: backend.resume(ref),
    "inspect": lambda backend, ref: backend.inspect(ref),
    "logs": _read_logs,
    "usage": lambda backend, ref: backend.usage(ref),
    "exec": lambda backend, ref: backend.exec(ref, ["true"], timeout=GRACE),
}
NEED_LIFE = {name: NEED_AN_INSTANCE[name] for name in ("pause", "resume", "usage", "exec")}


@pytest.mark.parametrize("verb", NEED_AN_INSTANCE)
async def test_what_is_gone_is_not_found(harness: Harness, verb: str) -> None:
    """Each verb that needs an instance says that it is gone."""
    ref = await harness.gone()

    with pytest.raises(InstanceNotFound):
        await NEED_AN_INSTANCE[verb](harness.backend, ref)


@pytest.mark.parametrize("verb", NEED_LIFE)
async def test_what_does_not_run_is_said_to_have_ended(harness: Harness, verb: str) -> None:
    """Each verb that needs a live instance says that this one is not."""
    ref = await harness.create()

    with pytest.raises(InstanceExited):
        await NEED_LIFE[verb](harness.backend, ref)


async def test_all_of_an_install_are_listed_and_no_others(harness: Harness) -> None:
    """Created, running and ended instances are listed as inspect reports them, but for times; another install's are not."""
    created = await harness.create()
    running = (await harness.start()).ref
    ended = (await harness.ended(code=4)).ref
    foreign = await harness.create(of_other_install(harness.spec()))

    listed = {seen.ref: seen for seen in await harness.backend.list_instances(harness.install_id)}

    assert {ref: seen.status for ref, seen in listed.items()} == {
        created: InstanceStatus.CREATED,
        running: InstanceStatus.RUNNING,
        ended: InstanceStatus.EXITED,
    }
    assert listed[ended].exit_code == 4
    for ref, seen in listed.items():
        whole = await harness.backend.inspect(ref)
        told = replace(
            seen, started_at=whole.started_at, finished_at=whole.finished_at, is_oom_killed=whole.is_oom_killed
        )
        assert told == whole
    others = await harness.backend.list_instances(f"{harness.install_id}-other")
    assert [seen.ref for seen in others] == [foreign]


async def test_prepare_twice_is_once(harness: Harness) -> None:
    """What all instances share is made once, and instances can be created afterwards."""
    await harness.backend.prepare(harness.install_id)
    await harness.backend.prepare(harness.install_id)
    await harness.create()


async def test_check_says_who_answers(harness: Harness) -> None:
    """The engine has a name and a version."""
    info = await harness.backend.check()

    assert info.name
    assert info.version


async def test_an_empty_command_is_refused(harness: Harness) -> None:
    """Nothing is not a command."""
    started = await harness.start()

    with pytest.raises(InvalidInput):
        await harness.backend.exec(started.ref, [], timeout=GRACE)
