"""The wheel works outside of the checkout: the files that are not Python travel inside it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_carries_the_image_the_templates_and_the_migrations(tmp_path: Path) -> None:
    """What the image is built from and what agents' settings begin with is in it, and nothing of the tests."""
    argv = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, env={**os.environ, "NO_COLOR": "1"})
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {
        "cnap_runner/_assets/docker/runner/Dockerfile",
        "cnap_runner/_assets/docker/runner/entrypoint",
        "cnap_runner/_assets/docker/runner/healthcheck",
        "cnap_runner/_assets/configs/opencode/default-config.json",
        "cnap_runner/_assets/configs/opencode/default-mcp.json",
        "cnap_runner/store/migrations/versions/0001_first.py",
        "cnap_runner/py.typed",
    } <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
