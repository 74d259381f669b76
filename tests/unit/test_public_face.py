"""The public names, pinned: others call them."""

import subprocess
import sys

import cnap_runner


def test_the_public_names_are_these_and_all_load() -> None:
    """A name that disappears or does not load breaks our users."""
    assert set(cnap_runner.__all__) == {
        *("AgentSpec", "Answers", "Attachment", "Egress", "Life", "Message", "Outcome", "Resources", "RunEvent"),
        *("RunRecord", "RunRequest", "RunResult", "RunState", "Runner", "RunnerError", "RunnerManager"),
        *("RunnerStatus", "Settings", "StatusCallback", "Usage", "Workspace"),
    }
    assert all(getattr(cnap_runner, name) is not None for name in cnap_runner.__all__)


def test_the_blocking_names_are_the_same_ones() -> None:
    """``cnap_runner.sync`` adds no type of its own but the two it fronts."""
    from cnap_runner import sync

    assert set(sync.__all__) == set(cnap_runner.__all__)
    shared = set(sync.__all__) - {"Runner", "RunnerManager"}
    assert all(getattr(sync, name) is getattr(cnap_runner, name) for name in shared)


def test_importing_the_package_loads_nothing_heavy() -> None:
    """A command that needs no database and no engine does not wait for their libraries."""
    code = (
        "import sys, cnap_runner; print([m for m in ('sqlalchemy', 'docker', 'httpx', 'pydantic') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
