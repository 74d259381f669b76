"""The blocking front, where it can be misused."""

from pathlib import Path

import pytest

from cnap_runner.errors import ManagerUnusable
from cnap_runner.settings import Settings
from cnap_runner.sync import RunnerManager


@pytest.fixture
def manager(tmp_path: Path) -> RunnerManager:
    return RunnerManager(Settings(data_dir=tmp_path / "data", backend="process"))


def test_a_manager_that_was_not_entered_says_so(manager: RunnerManager) -> None:
    """As the asynchronous one does."""
    with pytest.raises(ManagerUnusable, match="not entered"):
        manager.list_runners()


def test_a_manager_that_is_closed_says_so(manager: RunnerManager) -> None:
    """So does a second attempt to enter it, before anything is started."""
    with manager:
        assert manager.list_runners() == []
    with pytest.raises(ManagerUnusable, match="closed"):
        manager.list_runners()
    with pytest.raises(ManagerUnusable, match="entered once"), manager:
        pass
