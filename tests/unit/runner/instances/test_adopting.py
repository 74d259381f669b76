"""Instances that another manager started, on fakes."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from cnap_runner import AgentSpec
from cnap_runner.errors import StoreBusy
from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.runner import chronicle
from cnap_runner.runner.instances import adopting


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_an_adoption_that_does_not_come_to_its_end_leaves_no_connection(
    house: Any, spec: AgentSpec, monkeypatch: pytest.MonkeyPatch, *, is_cancelled: bool
) -> None:
    """Whether it fails or is cancelled as it is written down: its client is closed, and the next use adopts anew."""
    async with house.manager(on_shutdown="leave") as manager:
        await manager.create_runner(spec)
        await manager.start_runner("alice")
    async with house.manager() as manager:
        instances, scope = manager.parts.instances, anyio.CancelScope()
        made: list[OpenCodeClient] = []
        connect = instances._booter.connect

        async def connected(*arguments: Any) -> Any:
            made.append(await connect(*arguments))
            return made[-1]

        async def fail(*_: object) -> None:
            monkeypatch.setattr(adopting, "note_adoption", chronicle.note_adoption)
            if not is_cancelled:
                raise StoreBusy("busy")
            scope.cancel()
            await anyio.sleep_forever()

        monkeypatch.setattr(instances._booter, "connect", connected)
        monkeypatch.setattr(adopting, "note_adoption", fail)
        if is_cancelled:
            with scope:
                await manager.start_runner("alice")
        else:
            with pytest.raises(StoreBusy):
                await manager.start_runner("alice")
        assert (len(made), made[0]._http.is_closed, instances.last_used("alice")) == (1, True, None)
        await manager.start_runner("alice")
        assert (len(made), house.starts) == (2, ["alice"])
