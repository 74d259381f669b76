"""What can be changed of an instance that runs: its secrets and its limits. And what is told before it runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest

from cnap_runner.errors import ConflictError, InstanceExited, InstanceNotFound, InsufficientResources, InvalidInput
from cnap_runner.model.hardware import Hardware
from cnap_runner.model.instance import Limits, Network
from cnap_runner.testing.backend_harness import GRACE, LIMIT_SECONDS, NO_GRACE, PASSWORD, Harness, Started, secrets

SECRET = "sk-not-to-be-seen"
LARGE = 300_000


async def read(harness: Harness, started: Started, name: str) -> bytes | None:
    """Read one secret inside; None where it is not there."""
    place = f"{harness.backend.layout(started.spec).secrets}/{name}"
    done = await harness.backend.exec(started.ref, ["cat", place], timeout=GRACE)
    return done.output if done.exit_code == 0 else None


async def test_delivered_secrets_replace_the_whole_set(harness: Harness) -> None:
    """What is new is there, what changed is changed, what is missing is gone; nobody was restarted, and no report repeats it."""
    started = await harness.start()
    await harness.backend.deliver(started.ref, secrets=secrets(stays="old", leaves="old"))
    before = await harness.backend.inspect(started.ref)

    await harness.backend.deliver(started.ref, secrets=secrets(stays=SECRET, comes="new"))

    found = {name: await read(harness, started, name) for name in ("stays", "leaves", "comes", "server-password")}
    assert found == {"stays": SECRET.encode(), "leaves": None, "comes": b"new", "server-password": PASSWORD.encode()}
    assert await harness.backend.inspect(started.ref) == before
    assert SECRET not in repr(before) + repr(await harness.lines(started.ref))


async def test_a_secret_that_stays_is_whole_at_each_moment(harness: Harness) -> None:
    """Who reads while a new set is delivered gets the old content or the new one."""
    started = await harness.start()
    contents = [character * LARGE for character in "ab"]
    await harness.backend.deliver(started.ref, secrets=secrets(key=contents[0]))
    seen: set[bytes | None] = set()

    async def deliver_again_and_again() -> None:
        for content in contents[::-1] * 3:
            await harness.backend.deliver(started.ref, secrets=secrets(key=content))
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deliver_again_and_again)
        while True:
            seen.add(await read(harness, started, "key"))

    assert seen <= {content.encode() for content in contents}


async def test_what_is_no_archive_is_not_delivered(harness: Harness) -> None:
    """It is refused, and the secrets stay as they are."""
    started = await harness.start()

    with pytest.raises(InvalidInput, match="archive"):
        await harness.backend.deliver(started.ref, secrets=b"this is no archive" * 100)

    assert await read(harness, started, "server-password") == PASSWORD.encode()


async def test_secrets_are_delivered_to_running_instances_only(harness: Harness) -> None:
    """One that is gone, ended or paused is told apart."""
    started = await harness.start()
    if harness.backend.capabilities.can_pause:
        await harness.backend.pause(started.ref)
        with pytest.raises(ConflictError, match="Resume it first"):
            await harness.backend.deliver(started.ref, secrets=secrets())
    await harness.backend.stop(started.ref, grace=NO_GRACE)
    with pytest.raises(InstanceExited):
        await harness.backend.deliver(started.ref, secrets=secrets())
    await harness.backend.remove(started.ref, grace=NO_GRACE)
    with pytest.raises(InstanceNotFound):
        await harness.backend.deliver(started.ref, secrets=secrets())


async def test_limits_change_in_place(harness: Harness) -> None:
    """Up and down, again and again, without another instance; more than once changes nothing more."""
    started = await harness.start()
    before = await harness.backend.inspect(started.ref)

    for memory, cpus, pids in ((1 << 30, 2.0, 200), (400 << 20, 0.5, 80), (400 << 20, 0.5, 80)):
        await harness.backend.update_limits(started.ref, Limits(memory_bytes=memory, cpus=cpus, pids=pids))
        if harness.backend.capabilities.limits_memory:
            assert (await harness.backend.usage(started.ref)).memory_limit_bytes == memory

    assert await harness.backend.inspect(started.ref) == before


async def test_limits_of_an_ended_instance_hold_at_its_next_start(harness: Harness) -> None:
    """Nothing has to run for them to be changed."""
    started = await harness.ended()
    limits = replace(started.spec.limits, memory_bytes=700 << 20)

    await harness.backend.update_limits(started.ref, limits)
    started.endpoint = await harness.backend.start(started.ref, secrets=secrets())
    await harness.until_serving(started)

    if harness.backend.capabilities.limits_memory:
        assert (await harness.backend.usage(started.ref)).memory_limit_bytes == limits.memory_bytes


async def test_less_memory_than_is_in_use_is_refused(harness: Harness) -> None:
    """The kernel would end something instead; the old limits stay."""
    if not harness.backend.capabilities.limits_memory:
        pytest.skip("limits no memory")
    started = await harness.start()

    with pytest.raises(InsufficientResources, match="more than the new limit"):
        await harness.backend.update_limits(started.ref, replace(started.spec.limits, memory_bytes=1 << 20))

    assert (await harness.backend.usage(started.ref)).memory_limit_bytes == started.spec.limits.memory_bytes


async def test_limits_of_an_instance_that_is_gone_cannot_be_changed(harness: Harness) -> None:
    """It is said to be gone."""
    ref = await harness.gone()

    with pytest.raises(InstanceNotFound):
        await harness.backend.update_limits(ref, harness.spec().limits)


async def test_the_address_is_told_before_the_secrets_are_there(harness: Harness) -> None:
    """Nothing of the agent's runs until the address was heard of; a start that changes nothing tells nothing."""
    ref = await harness.create(spec := harness.spec())
    told: list[tuple[str, bytes | None]] = []

    async def listen(address: str) -> None:
        told.append((address, await read(harness, Started(spec, ref, ""), "server-password")))

    endpoint = await harness.backend.start(ref, secrets=secrets(), on_address=listen)
    await harness.until_serving(Started(spec, ref, endpoint))
    await harness.backend.start(ref, secrets=secrets(), on_address=listen)

    address = (await harness.backend.inspect(ref)).address
    assert told == ([] if address is None else [(address, None)])


async def test_a_start_whose_address_is_not_wanted_ends(harness: Harness) -> None:
    """What the listener raises passes through, and the agent never runs."""
    started = await harness.start()
    if (await harness.backend.inspect(started.ref)).address is None:
        pytest.skip("instances have no address of their own")
    await harness.backend.stop(started.ref, grace=NO_GRACE)

    async def refuse(address: str) -> None:
        raise ConflictError(f"no rule for {address}")

    with pytest.raises(ConflictError, match="no rule for"):
        await harness.backend.start(started.ref, secrets=secrets(), on_address=refuse)
    with anyio.fail_after(LIMIT_SECONDS):
        while (await harness.backend.inspect(started.ref)).is_live:
            await anyio.sleep(0.02)


async def test_networks_are_told_where_a_backend_has_them(harness: Harness) -> None:
    """Both kinds, or none; asking again makes nothing more."""
    opened = await harness.backend.open_network(harness.install_id)
    closed = await harness.backend.closed_network(harness.install_id)

    assert await harness.backend.closed_network(harness.install_id) == closed
    if not harness.backend.capabilities.closes_network:
        assert (opened, closed) == (None, None)
        return
    assert opened is not None
    assert closed is not None
    assert (opened.is_internal, closed.is_internal) == (False, True)
    assert opened.id != closed.id


@pytest.mark.parametrize(
    ("capability", "asked"),
    [
        ("closes_network", {"network": Network.CLOSED}),
        ("has_runtimes", {"runtime": "runsc"}),
        ("grants_hardware", {"hardware": Hardware(gpus=1, devices=("/dev/null",), ulimits={"core": (0, 0)})}),
    ],
)
async def test_what_a_backend_cannot_do_is_refused(harness: Harness, capability: str, asked: dict[str, Any]) -> None:
    """The error names it, and nothing is left."""
    if getattr(harness.backend.capabilities, capability):
        pytest.skip("can do it")

    with pytest.raises(InvalidInput, match="does not have"):
        await harness.create(replace(harness.spec(), **asked))

    assert await harness.backend.list_instances(harness.install_id) == []
