"""Running a command beside an instance's server, with its folders, its variables and its mark."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio
from anyio.to_thread import run_sync

from cnap_runner.model.instance import ExecResult

MAX_OUTPUT_BYTES = 1 << 20
_CHUNK = 64 << 10
EXIT_NOT_FOUND = 127
EXIT_NOT_EXECUTABLE = 126


async def run_command(argv: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> ExecResult:
    """Run a command to its end. Cancelled, it is killed with its process group.

    As a shell would, gives exit code 127 for a program that is not there and 126 for one that cannot be executed.
    """
    reader, writer = os.pipe()
    try:
        try:
            process = await run_sync(_popen, argv, cwd, environment, writer)
        finally:
            os.close(writer)
        return await _finish(process, _Output(reader))
    except OSError as error:
        code = EXIT_NOT_FOUND if isinstance(error, FileNotFoundError) else EXIT_NOT_EXECUTABLE
        return ExecResult(exit_code=code, output=f"{argv[0]}: {error.strerror}\n".encode())
    finally:
        os.close(reader)


class _Output:
    """What comes out of a pipe, up to the limit; the rest is taken and dropped, so that the command never blocks."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self.kept = bytearray()
        self.is_truncated = False

    async def follow(self) -> None:
        """Take all until the end of the pipe."""
        while self.take():
            await anyio.wait_readable(self._descriptor)

    def take(self) -> bool:
        """Take one part of what is there now. False at the end of the pipe."""
        try:
            data = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return True
        room = MAX_OUTPUT_BYTES - len(self.kept)
        self.kept += data[:room]
        self.is_truncated = self.is_truncated or len(data) > room
        return bool(data)

    def take_rest(self) -> None:
        """Take what a command left in the pipe when it ended. A pipe holds 1 MiB at most; more was written by others since."""
        for _ in range(MAX_OUTPUT_BYTES // _CHUNK):
            if not self.take():
                return


async def _finish(process: subprocess.Popen[bytes], output: _Output) -> ExecResult:
    """Collect the output until the command itself has ended; what it left running may hold the pipe open for ever."""
    try:
        await _follow_until_exit(process.pid, output)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        with anyio.CancelScope(shield=True):
            code = await run_sync(process.wait)
    output.take_rest()
    return ExecResult(
        exit_code=code if code >= 0 else 128 - code, output=bytes(output.kept), is_truncated=output.is_truncated
    )


async def _follow_until_exit(pid: int, output: _Output) -> None:
    pidfd = os.pidfd_open(pid)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(output.follow)
            await anyio.wait_readable(pidfd)
            tasks.cancel_scope.cancel()
    finally:
        os.close(pidfd)


def _popen(argv: Sequence[str], cwd: Path, environment: Mapping[str, str], output: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env=environment,
        start_new_session=True,
    )
