"""A fake server and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.testing.fake_opencode import FakeOpenCode

PASSWORD = "pass-of-the-tests"


@pytest.fixture
async def server() -> AsyncIterator[FakeOpenCode]:
    async with FakeOpenCode(PASSWORD) as server:
        yield server


@pytest.fixture
async def client(server: FakeOpenCode) -> AsyncIterator[OpenCodeClient]:
    async with OpenCodeClient(server.base_url, PASSWORD) as client:
        yield client
