"""``python -m cnap_runner.egress FOLDER ADDRESS [PROXY [NO_PROXY]]``: start the proxy, detached, and return once it listens. For `process.ensure_proxy` alone."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path

from cnap_runner.egress.proxy_process import READY, run
from cnap_runner.egress.proxy_state import ProxyState


def main(folder: Path, address: str, http_proxy: str = "", no_proxy: str = "") -> int:
    """Start the proxy in a session of its own, without any stream of whoever asked; give the exit code."""
    ready, tell = os.pipe()
    if os.fork() != 0:
        os.close(tell)
        return 0 if os.read(ready, len(READY)) == READY else 1
    os.close(ready)
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    run(folder, wanted=ProxyState(address, 0, 0, http_proxy, no_proxy, version("cnap-runner")), ready=tell)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:5]))
