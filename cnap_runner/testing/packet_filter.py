"""The packet filter's rules that installs leave which are removed without ``purge``, as tests do it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

_JUMP = re.compile(r"-A (?P<rest>(?:PREROUTING|INPUT) -i (?P<interface>\S+) .*-j (?P<chain>CNAP-[0-9a-f]{12}-[COI]))$")
_TABLES = (("iptables", "mangle"), ("iptables", "filter"), ("ip6tables", "mangle"))


def remove_dead_rules() -> None:
    """Remove rules of ours whose bridge is gone, whichever install they are of: nothing passes them any more. Needs root; else does nothing."""
    if os.geteuid() != 0:
        return
    for program, table in _TABLES:
        if shutil.which(program) is not None:
            for line in _call(program, table, "-S").splitlines():
                _remove_if_dead(program, table, line)


def _remove_if_dead(program: str, table: str, line: str) -> None:
    found = _JUMP.fullmatch(line)
    if found is None or (Path("/sys/class/net") / found["interface"]).exists():
        return
    _call(program, table, "-D", *found["rest"].replace('"', "").split())
    for change in ("-F", "-X"):
        _call(program, table, change, found["chain"])


def _call(program: str, table: str, *arguments: str) -> str:
    argv = [program, "-w", "10", "-t", table, *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30).stdout
