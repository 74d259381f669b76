"""The public names, pinned: others call them."""

import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

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


def test_the_imports_in_the_documentation_work() -> None:
    """Whatever docs/python.md tells to import is there, and every type that a public method names for its caller is told."""
    text = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
    told = re.findall(r"^from (cnap_runner[\w.]*) import ([^#\n]*)", text, re.MULTILINE)
    names = [(module, name.strip()) for module, listed in told for name in listed.split(",")]
    assert all(hasattr(import_module(module), name) for module, name in names)
    shown = {name for _, name in names}
    methods = [
        method
        for owner in (cnap_runner.Runner, cnap_runner.RunnerManager)
        for name, method in inspect.getmembers(owner, inspect.isfunction)
        if not name.startswith("_")
    ]
    hints = [str(method.__annotations__.get("return")) for method in methods]
    returned = {name for hint in hints for name in re.findall(r"[A-Z]\w+", hint)}
    own = set(cnap_runner.__all__) | {"Any", "AsyncGenerator", "AsyncIterator", "None", "NoReturn", "Self"}
    assert returned - own <= shown
