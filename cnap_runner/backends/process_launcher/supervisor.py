"""One server from its start to its end: output, signals, reaping, and an end that leaves nothing alive."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

from cnap_runner.backends.process_launcher import kernel
from cnap_runner.backends.process_launcher.files import STOP_FILE
from cnap_runner.backends.process_launcher.output import LinePipe, OutputLog
from cnap_runner.backends.process_launcher.proc import ProcessStat, identify
from cnap_runner.backends.process_launcher.secret_files import remove_secrets
from cnap_runner.backends.process_launcher.server import listening_port
from cnap_runner.backends.process_launcher.status import LauncherStatus
from cnap_runner.backends.process_launcher.tree import instance_processes, kill_all, thaw_all

DEFAULT_GRACE = timedelta(seconds=10)
"""For a SIGTERM that no manager announced: the machine goes down."""
_KILL_LIMIT = timedelta(seconds=30)
"""Only a process that hangs inside the kernel outlives SIGKILL that long; the launcher then goes without it."""


class Supervisor:
    """Runs one server. Single-threaded: the kernel kills the server when the thread that started it ends."""

    def __init__(self, folder: Path, status: LauncherStatus, log: OutputLog) -> None:
        self._folder = folder
        self._status = status
        self._log = log
        self._selector = selectors.DefaultSelector()
        self._pipes: list[LinePipe] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._server_pid = 0
        self._wait_status: int | None = None
        self._kill_at: float | None = None

    def run(self, argv: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> None:
        """Start the server and stay until nothing of the instance lives. Raises `OSError` when it cannot be started."""
        self._listen_to_signals()
        self._spawn(argv, cwd=cwd, environment=environment)
        try:
            self._save(server=identify(self._server_pid))
            while self._wait_status is None:
                self._turn()
        finally:
            self._end()

    def _listen_to_signals(self) -> None:
        """Let signals wake the selector; what they mean is read in the loop, where nothing is half done."""
        reader, writer = os.pipe()
        for end in (reader, writer):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        self._selector.register(reader, selectors.EVENT_READ, partial(self._on_signals, reader))

    def _spawn(self, argv: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> None:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=environment,
            # Its own session: a signal it sends to its process group must not reach the launcher.
            start_new_session=True,
            preexec_fn=partial(kernel.die_with, os.getpid()),  # noqa: PLW1509 - there is one thread only
        )
        # Kept and never polled: a Popen that is dropped waits for its child, and we would not learn how it ended.
        self._process = process
        self._server_pid = process.pid
        for name, stream in (("stdout", process.stdout), ("stderr", process.stderr)):
            if stream is not None:
                self._follow(name, os.dup(stream.fileno()))
                stream.close()

    def _follow(self, name: str, descriptor: int) -> None:
        pipe = LinePipe(descriptor, partial(self._on_line, name))
        self._pipes.append(pipe)
        self._selector.register(descriptor, selectors.EVENT_READ, partial(self._on_output, pipe))

    def _turn(self) -> None:
        wait = None if self._kill_at is None else max(0.0, self._kill_at - time.monotonic())
        for key, _ in self._selector.select(wait):
            key.data()
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._signal_server(signal.SIGKILL)
            self._kill_at = None
        self._reap()

    def _on_output(self, pipe: LinePipe) -> None:
        if not pipe.pump():
            self._selector.unregister(pipe.descriptor)

    def _on_line(self, stream: str, line: bytes) -> None:
        self._log.write(stream, line)
        port = listening_port(line) if self._status.port is None and stream == "stdout" else None
        if port is not None:
            self._save(port=port)

    def _on_signals(self, reader: int) -> None:
        received = os.read(reader, 4096)
        if set(received) & {signal.SIGTERM, signal.SIGINT}:
            self._begin_stop()

    def _begin_stop(self) -> None:
        """Ask the server to end, and set the time at which it is killed. Asked again, the newest grace counts."""
        self._kill_at = time.monotonic() + self._grace().total_seconds()
        self._signal_server(signal.SIGTERM)
        # What is paused cannot end politely.
        thaw_all(self._processes())

    def _grace(self) -> timedelta:
        try:
            return timedelta(seconds=json.loads((self._folder / STOP_FILE).read_text())["grace_seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return DEFAULT_GRACE

    def _signal_server(self, number: signal.Signals) -> None:
        # It is our child and not yet waited for, so the pid is still its own.
        if self._wait_status is None:
            os.kill(self._server_pid, number)

    def _reap(self) -> None:
        """Wait for every child that ended, adopted ones too; remember how the server did."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._server_pid:
                    self._wait_status = status

    def _end(self) -> None:
        """Leave nothing alive, then say how the server ended: whoever reads that may start anew."""
        kill_all(self._processes, within=_KILL_LIMIT, reap=self._reap)
        self._reap()
        for pipe in self._pipes:
            pipe.close()
        remove_secrets(self._folder)
        code = os.waitstatus_to_exitcode(self._wait_status) if self._wait_status is not None else None
        killed_by = -code if code is not None and code < 0 else None
        self._status = self._status.ended(code if killed_by is None else 128 + killed_by, signal=killed_by)
        self._status.write(self._folder)

    def _processes(self) -> list[ProcessStat]:
        return instance_processes(self._folder.name, os.getpid())

    def _save(self, **changes: object) -> None:
        self._status = replace(self._status, **changes)  # type: ignore[arg-type]
        self._status.write(self._folder)
