"""Making sure that an install's proxy lives, and ending it. All functions block; callers hold ``install.lock``."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

from cnap_runner.egress.proxy_state import LOG_FILE, WANTED_FILE, ProxyState, is_alive, read_state
from cnap_runner.egress.rights import make_folder
from cnap_runner.errors import BackendError
from cnap_runner.model.versions import release_of

_START = timedelta(seconds=20)
_END = timedelta(seconds=5)
_PAUSE_SECONDS = 0.02
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV", "TZ")
"""All that the proxy gets of a manager's environment: the rest may hold keys."""


def ensure_proxy(folder: Path, *, address: str, http_proxy: str = "", no_proxy: str = "") -> ProxyState:
    """Make sure that the install's proxy lives, listens at an address of this host, and goes through a company's own; tell where.

    Idempotent; costs a look at two files where it lives. Raises `BackendError` where it cannot be started.
    """
    make_folder(folder)
    (folder / WANTED_FILE).touch()
    wanted = (address, http_proxy, no_proxy)
    state = living_proxy(folder)
    if state is not None and (state.address, state.http_proxy, state.no_proxy) == wanted and not _is_older(state):
        return state
    end_proxy(folder)  # it listens on a network that is no more, was told another way out, or is from before an upgrade
    _start(folder, *wanted)
    state = living_proxy(folder)
    if state is None:
        raise BackendError("The egress proxy ended at once.", hint=f"See {folder / LOG_FILE}.")
    return state


def _is_older(state: ProxyState) -> bool:
    """Whether a proxy is of an older version. A newer one stays: managers of two versions would end each other's for ever."""
    return release_of(state.version) < release_of(version("cnap-runner"))


def living_proxy(folder: Path) -> ProxyState | None:
    """Tell where the install's proxy listens; None where none lives."""
    return read_state(folder) if is_alive(folder) else None


def end_proxy(folder: Path) -> None:
    """End the install's proxy, politely first. None lives: nothing happens."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _END.total_seconds()
        _signal(folder, number)
        while is_alive(folder) and time.monotonic() < deadline:
            time.sleep(_PAUSE_SECONDS)


def _signal(folder: Path, number: signal.Signals) -> None:
    state = read_state(folder)
    if state is None:
        return
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(state.pid)
        try:
            # Its lock is still held, so the process that was opened is the one that wrote its number down, and no later one.
            if is_alive(folder):
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def _start(folder: Path, *wanted: str) -> None:
    argv = [sys.executable, "-P", "-m", "cnap_runner.egress", str(folder.absolute()), *wanted]
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    try:
        # It returns once the proxy, which detaches, listens.
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            cwd="/",
            env=environment,
            timeout=_START.total_seconds(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"The egress proxy could not be started: {error}.") from error
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip()[-500:]
        raise BackendError(f"The egress proxy could not be started. {words}".rstrip(), hint=f"See {folder / LOG_FILE}.")
