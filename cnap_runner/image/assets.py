"""Where the files that are not Python are: the image's build files and the templates of settings.

In a wheel they lie inside the package, in ``_assets``; in a checkout, installed editable, beside it.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def runner_files() -> Path:
    """Give the folder of the image's Dockerfile and scripts."""
    return _first_folder(_PACKAGE / "_assets" / "docker" / "runner", _PACKAGE.parent / "docker" / "runner")


def config_templates() -> Path:
    """Give the folder of settings templates; its ``opencode/default-config.json`` is where an agent's settings begin."""
    return _first_folder(_PACKAGE / "_assets" / "configs", _PACKAGE.parent / "data" / "configs")


def _first_folder(*candidates: Path) -> Path:
    return next((folder for folder in candidates if folder.is_dir()), candidates[0])
