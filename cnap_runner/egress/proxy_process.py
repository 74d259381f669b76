"""The proxy's own process: one per install, detached from whoever started it, held by a lock that dies with it.

It ends when it is asked to, when no instance has had rules for a while, and when its folder is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.abc
import structlog

from cnap_runner.egress.log import open_log
from cnap_runner.egress.proxy import Proxy
from cnap_runner.egress.proxy_state import LIFE_FILE, WANTED_FILE, ProxyState, read_state, write_state
from cnap_runner.egress.reaching import Outside
from cnap_runner.egress.rights import become_nobody
from cnap_runner.egress.rulebook import Rulebook
from cnap_runner.egress.upstream import upstream_of

LINGER = timedelta(minutes=10)
"""Time without any instance's rules, and without a manager that wanted it, after which the proxy ends."""
READY = b"ready"
_LOOK_SECONDS = 1.0
_OPEN_FILES = 4096
_ACCEPT_PAUSE_SECONDS = 0.1
_LOCK_TRIES, _LOCK_PAUSE_SECONDS = 20, 0.02


def run(folder: Path, *, wanted: ProxyState, ready: int) -> None:
    """Be the proxy until it is time to end. ``ready``: a pipe that is told once it listens; closed without a word where it cannot.
    ``wanted``: where to listen, on whichever port, and what to go through."""
    os.chdir(folder)  # what is above it may be closed to the user that the proxy becomes
    folder = Path()
    log = open_log(folder)
    with contextlib.suppress(ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(_OPEN_FILES, hard), hard))
    with _life(folder) as is_ours:
        if is_ours:
            try:
                anyio.run(_serve, folder, wanted, ready, log)
            except Exception:
                log.exception("proxy_failed")
                raise


@contextlib.contextmanager
def _life(folder: Path) -> Iterator[bool]:
    """Hold the lock of the one proxy; False where another lives."""
    descriptor = os.open(folder / LIFE_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    for _ in range(_LOCK_TRIES):  # whoever asks `is_alive` has it for microseconds
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_LOCK_PAUSE_SECONDS)
    return False


async def _serve(folder: Path, wanted: ProxyState, ready: int, log: structlog.stdlib.BoundLogger) -> None:
    outside = Outside(wanted.address, upstream=upstream_of(wanted.http_proxy, wanted.no_proxy))
    proxy = Proxy(Rulebook(folder), outside=outside, log=log)
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with await _listen(folder, wanted.address) as listener, anyio.create_task_group() as tasks:
            port = int(listener.extra(anyio.abc.SocketAttribute.local_port))  # noqa: S610 - no database
            write_state(folder, replace(wanted, port=port, pid=os.getpid()))
            become_nobody(folder)
            tasks.start_soon(_accept, listener, proxy.handle)
            log.info("proxy_started", address=wanted.address, port=port, pid=os.getpid())
            os.write(ready, READY)
            os.close(ready)
            tasks.start_soon(_end_on_signal, signals, tasks.cancel_scope)
            await _keep_up(folder, proxy)
            tasks.cancel_scope.cancel()
    log.info("proxy_ended")


async def _accept(
    listener: anyio.abc.SocketListener, handle: Callable[[anyio.abc.SocketStream], Coroutine[Any, Any, None]]
) -> None:
    """Hand on connections for ever. One that cannot be accepted (too many files are open, it was reset) must not end the others."""
    async with anyio.create_task_group() as clients:
        while True:
            try:
                client = await listener.accept()
            except OSError:
                await anyio.sleep(_ACCEPT_PAUSE_SECONDS)
            else:
                clients.start_soon(handle, client)


async def _listen(folder: Path, address: str) -> anyio.abc.SocketListener:
    """Listen where the proxy before did, because living instances were told its port; on another where that is taken."""
    before = read_state(folder)
    if before is not None and before.address == address:
        with contextlib.suppress(OSError):
            return await _listen_at(address, before.port)
    return await _listen_at(address, 0)


async def _listen_at(address: str, port: int) -> anyio.abc.SocketListener:
    (listener,) = (await anyio.create_tcp_listener(local_host=address, local_port=port)).listeners
    return cast("anyio.abc.SocketListener", listener)


async def _end_on_signal(signals: object, scope: anyio.CancelScope) -> None:
    async for _ in signals:  # type: ignore[attr-defined]
        scope.cancel()


async def _keep_up(folder: Path, proxy: Proxy) -> None:
    """Follow the rules; return when nobody needs the proxy any more."""
    while (folder / LIFE_FILE).exists():
        proxy.apply_changes()
        if proxy.is_idle and time.time() - _wanted_at(folder) > LINGER.total_seconds():
            return
        await anyio.sleep(_LOOK_SECONDS)


def _wanted_at(folder: Path) -> float:
    try:
        return (folder / WANTED_FILE).stat().st_mtime
    except OSError:
        return 0.0
