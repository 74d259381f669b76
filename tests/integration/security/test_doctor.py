"""Where the rights for a defence are missing, ``doctor`` says so: the installed program, without one capability."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

needs_setpriv = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can give up a right of root's"
)


@pytest.mark.engine
@needs_setpriv
def test_doctor_says_what_stays_open_without_the_right_to_filter(tmp_path: Path) -> None:
    """Without ``CAP_NET_ADMIN`` metadata addresses stay open and two modes are refused: doctor warns of both, and says what is missing."""
    less = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    program = [str(Path(sys.executable).with_name("cnap-runner")), "--data-dir", str(tmp_path), "doctor"]
    said = subprocess.run([*less, *program], capture_output=True, text=True, check=False, timeout=60)
    (line,) = [line for line in said.stdout.splitlines() if line.split()[1:2] == ["egress"]]
    assert line.startswith("warn")
    assert all(words in line for words in ("metadata", "none and allowlist are refused", "CAP_NET_ADMIN"))
