"""The agent's settings folder, as an instance reads it. Only the manager writes there: inside it is read-only."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from cnap_runner.runner.provisioning.configuration import FOLDER
from cnap_runner.runner.workspaces.folders import folder_error


def write_settings(folder: Path, files: Mapping[str, str]) -> None:
    """Write files, by their path below the folder, so that a live instance sees them; readable by everyone inside. Blocks. Idempotent.

    OpenCode's folder is replaced whole; what was in it and is not among ``files`` is gone. Other files are replaced one by one. Nothing
    is read meanwhile: OpenCode reads when it is told to. Raises `InsufficientResources` on a full disk, else `RunnerError`.
    """
    draft, old = folder / f".{FOLDER}.new", folder / f".{FOLDER}.old"
    try:
        for leftover in (draft, old):
            shutil.rmtree(leftover, ignore_errors=True)
        draft.mkdir()
        for path, text in files.items():
            below = path.removeprefix(f"{FOLDER}/")
            if below == path:
                _replace(folder / path, text)
            else:
                _write(draft / below, text)
        for made in (draft, *(each for each in draft.rglob("*") if each.is_dir())):
            made.chmod(0o755)
        present = folder / FOLDER
        if present.exists():
            present.rename(old)
        draft.rename(present)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise folder_error(folder, error) from error


def written_at(folder: Path) -> int | None:
    """Tell when settings were last written, as a number that differs after each time; None where there are none. Blocks.

    Each delivery writes them, also one that changes nothing but a secret's value, and lets the server read them.
    """
    try:
        return (folder / FOLDER).stat().st_mtime_ns
    except OSError:
        return None


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.new")
    _write(draft, text)
    draft.replace(path)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)
