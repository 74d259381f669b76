"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Everything runs on asyncio: SQLAlchemy's async engine needs it."""
    return "asyncio"


@pytest.fixture(scope="session")
def opencode_binary() -> Path:
    """The real OpenCode server, of the pinned version, fetched and verified once."""
    from cnap_runner.image.packages import opencode_binary

    return opencode_binary()
