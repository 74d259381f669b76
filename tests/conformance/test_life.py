"""Creating, starting, stopping and removing instances."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta

import anyio
import pytest

from cnap_runner.errors import BackendError, ImageNotFound, InstanceExited, InstanceNotFound
from cnap_runner.model.instance import InstanceStatus, VolumeRole
from cnap_runner.testing.backend_harness import GRACE, LIMIT_SECONDS, NO_GRACE, Harness, secrets


async def test_create_starts_nothing(harness: Harness) -> None:
    """A created instance is there, carries who it is for, and does not run."""
    spec = harness.spec()
    ref = await harness.create(spec)

    seen = await harness.backend.inspect(ref)

    assert seen.status is InstanceStatus.CREATED
    assert not seen.is_live
    assert seen.endpoint is None
    assert seen.exit_code is None
    assert seen.started_at is None
    assert (seen.ref, seen.install_id, seen.agent_id) == (ref, spec.install_id, spec.agent_id)
    assert (seen.generation, seen.spec_hash) == (spec.generation, spec.spec_hash)
    assert ref.instance_id == spec.instance_id


async def test_create_twice_gives_the_same_instance(harness: Harness) -> None:
    """Asked twice with one instance id, it returns the one that is there, running or not."""
    spec = harness.spec()
    ref = await harness.create(spec)

    assert await harness.create(spec) == ref
    await harness.backend.start(ref, secrets=secrets())
    assert await harness.create(spec) == ref
    assert len(await harness.backend.list_instances(harness.install_id)) == 1


async def test_create_names_a_missing_image(harness: Harness) -> None:
    """An image that is not there is named, and nothing is left."""
    if not harness.backend.capabilities.has_images:
        pytest.skip("no images")

    with pytest.raises(ImageNotFound, match="cnap-no-such-image"):
        await harness.create(replace(harness.spec(), image="cnap-no-such-image:none"))

    assert await harness.backend.list_instances(harness.install_id) == []


async def test_start_gives_the_servers_address(harness: Harness) -> None:
    """The endpoint is where the server of this instance listens, and inspect repeats it."""
    started = await harness.start()

    seen = await harness.backend.inspect(started.ref)

    assert started.endpoint.startswith("http://127.0.0.1:")
    assert seen.status is InstanceStatus.RUNNING
    assert seen.endpoint == started.endpoint
    assert seen.started_at is not None
    assert seen.started_at.tzinfo is not None
    assert seen.finished_at is None


async def test_start_of_a_running_instance_changes_nothing(harness: Harness) -> None:
    """A second start returns the same endpoint, and the server is the same one."""
    started = await harness.start()
    before = await harness.backend.inspect(started.ref)

    assert await harness.backend.start(started.ref, secrets=secrets()) == started.endpoint
    assert await harness.backend.inspect(started.ref) == before


async def test_start_of_an_ended_instance_runs_it_anew(harness: Harness) -> None:
    """An instance that ended keeps its identity when it is started again, and its secrets are given anew."""
    started = await harness.ended(code=3)
    ended = await harness.backend.inspect(started.ref)

    started.endpoint = await harness.backend.start(started.ref, secrets=secrets(fresh="new"))
    await harness.until_serving(started)
    seen = await harness.backend.inspect(started.ref)
    inside = harness.backend.layout(started.spec).secrets
    found = await harness.backend.exec(started.ref, ["cat", f"{inside}/fresh"], timeout=GRACE)

    assert (ended.status, ended.exit_code) == (InstanceStatus.EXITED, 3)
    assert ended.finished_at is not None
    assert seen.status is InstanceStatus.RUNNING
    assert seen.endpoint == started.endpoint
    assert seen.exit_code is None
    assert seen.ref == started.ref
    assert found.output == b"new"


async def test_start_says_when_the_instance_ends_at_once(harness: Harness) -> None:
    """Without readable secrets the launcher gives up: start raises, or the end is seen by inspect a moment later."""
    ref = await harness.create()

    try:
        await harness.backend.start(ref, secrets=b"this is no archive" * 100)
    except BackendError as error:
        assert isinstance(error, InstanceExited)  # noqa: PT017 - raising is one of two right ways
    with anyio.fail_after(LIMIT_SECONDS):
        while (await harness.backend.inspect(ref)).is_live:
            await anyio.sleep(0.02)


async def test_cancelled_start_leaves_what_can_be_removed(harness: Harness) -> None:
    """After a cancelled start the instance is still listed, and can be removed."""
    ref = await harness.create()

    with anyio.move_on_after(0.05):
        await harness.backend.start(ref, secrets=secrets())

    assert [seen.ref for seen in await harness.backend.list_instances(harness.install_id)] == [ref]
    await harness.backend.remove(ref, grace=NO_GRACE)
    assert await harness.backend.list_instances(harness.install_id) == []


async def test_stop_ends_all_and_keeps_the_remains(harness: Harness) -> None:
    """A stopped instance is ended, still there, and its output can be read. Stopping it again is no error."""
    started = await harness.start()
    await harness.say(started, "last words")

    await harness.backend.stop(started.ref, grace=GRACE)
    await harness.backend.stop(started.ref, grace=GRACE)

    seen = await harness.backend.inspect(started.ref)
    assert seen.status is InstanceStatus.EXITED
    assert seen.endpoint is None
    assert seen.exit_code is not None
    assert "last words" in [line.text for line in await harness.lines(started.ref)]


async def test_stop_without_grace_ends_too(harness: Harness) -> None:
    """No grace means no politeness, not no stop."""
    started = await harness.start()

    await harness.backend.stop(started.ref, grace=timedelta(0))

    assert not (await harness.backend.inspect(started.ref)).is_live


async def test_stop_of_one_that_never_ran_or_is_gone_is_no_error(harness: Harness) -> None:
    """What does not run counts as stopped."""
    await harness.backend.stop(await harness.create(), grace=GRACE)
    await harness.backend.stop(await harness.gone(), grace=GRACE)


async def test_remove_ends_and_removes(harness: Harness) -> None:
    """A running instance is ended and gone; removing it again is no error."""
    started = await harness.start()

    await harness.backend.remove(started.ref, grace=GRACE)
    await harness.backend.remove(started.ref, grace=GRACE)

    with pytest.raises(InstanceNotFound):
        await harness.backend.inspect(started.ref)
    assert await harness.backend.list_instances(harness.install_id) == []


async def test_folders_survive_removal_and_belong_to_the_manager(harness: Harness) -> None:
    """What an agent wrote is on disk after its instance is gone, owned by whom the backend said, and can be deleted."""
    started = await harness.start()
    written = started.spec.volumes[0].source / "written"
    assert started.spec.volumes[0].role is VolumeRole.WORKSPACE
    place = f"{harness.backend.layout(started.spec).workspace}/written"

    done = await harness.backend.exec(started.ref, ["touch", place], timeout=GRACE)
    await harness.backend.remove(started.ref, grace=NO_GRACE)

    assert done.exit_code == 0, done.output
    status = written.stat()
    assert (status.st_uid, status.st_gid) == (harness.backend.file_owner() or (os.geteuid(), os.getegid()))
    written.unlink()


@pytest.mark.parametrize("times", [1, 2])
async def test_pause_and_resume_are_idempotent(harness: Harness, times: int) -> None:
    """Paused twice is paused, resumed twice is running; the endpoint stays."""
    if not harness.backend.capabilities.can_pause:
        pytest.skip("cannot pause")
    started = await harness.start()

    for _ in range(times):
        await harness.backend.pause(started.ref)
    paused = await harness.backend.inspect(started.ref)
    for _ in range(times):
        await harness.backend.resume(started.ref)
    resumed = await harness.backend.inspect(started.ref)

    assert (paused.status, paused.is_live, paused.endpoint) == (InstanceStatus.PAUSED, True, started.endpoint)
    assert (resumed.status, resumed.endpoint) == (InstanceStatus.RUNNING, started.endpoint)
    await harness.until_serving(started)


async def test_paused_instances_can_be_stopped_and_removed(harness: Harness) -> None:
    """Nobody has to resume first."""
    if not harness.backend.capabilities.can_pause:
        pytest.skip("cannot pause")
    first, second = await harness.start(), await harness.start()
    for started in (first, second):
        await harness.backend.pause(started.ref)

    await harness.backend.stop(first.ref, grace=timedelta(seconds=1))
    await harness.backend.remove(second.ref, grace=timedelta(seconds=1))

    seen = await harness.backend.list_instances(harness.install_id)
    assert [(one.ref, one.status) for one in seen] == [(first.ref, InstanceStatus.EXITED)]


async def test_start_of_a_paused_instance_changes_nothing(harness: Harness) -> None:
    """A paused instance runs: its endpoint is returned, and it stays paused."""
    if not harness.backend.capabilities.can_pause:
        pytest.skip("cannot pause")
    started = await harness.start()
    await harness.backend.pause(started.ref)

    assert await harness.backend.start(started.ref, secrets=secrets()) == started.endpoint
    assert (await harness.backend.inspect(started.ref)).status is InstanceStatus.PAUSED
