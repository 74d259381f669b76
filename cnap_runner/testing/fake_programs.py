"""Commands that a `FakeBackend` understands: few, and as the real ones. They see an instance's folders and secrets, nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import anyio

from cnap_runner.model.instance import ExecResult, InstanceSpec, Layout, VolumeRole

MAX_OUTPUT_BYTES = 1 << 20


class FakeFiles:
    """The files of a fake instance: its volumes are folders of this machine, its secrets are kept in memory."""

    def __init__(self, spec: InstanceSpec, layout: Layout) -> None:
        inside = {
            VolumeRole.WORKSPACE: layout.workspace,
            VolumeRole.STATE: layout.state,
            VolumeRole.HOME: layout.home,
            VolumeRole.SETTINGS: layout.settings,
        }
        self._sources = {PurePosixPath(inside[volume.role]): volume.source for volume in spec.volumes}
        self._secrets_folder = PurePosixPath(layout.secrets)
        self.workspace = PurePosixPath(layout.workspace)
        self.secrets: dict[str, bytes] = {}

    def read(self, path: str) -> bytes:
        """Read a file. Raises `OSError`."""
        place = self.workspace / path
        if place.is_relative_to(self._secrets_folder):
            name = str(place.relative_to(self._secrets_folder))
            if name not in self.secrets:
                raise FileNotFoundError(path)
            return self.secrets[name]
        return self._outside(place).read_bytes()

    def touch(self, path: str) -> None:
        """Make an empty file. Raises `OSError`."""
        self._outside(self.workspace / path).touch()

    def _outside(self, place: PurePosixPath) -> Path:
        for target, source in self._sources.items():
            if place.is_relative_to(target):
                return source / place.relative_to(target)
        raise FileNotFoundError(str(place))


Program = Callable[[FakeFiles, Sequence[str]], Awaitable[ExecResult]]
"""Gets an instance's files and its arguments, without its own name."""


async def run_program(programs: Mapping[str, Program], files: FakeFiles, argv: Sequence[str]) -> ExecResult:
    """Run one command; an unknown one ends with 127, as in a shell."""
    program = programs.get(argv[0])
    if program is None:
        return ExecResult(exit_code=127, output=f"{argv[0]}: not found\n".encode())
    try:
        result = await program(files, argv[1:])
    except OSError as error:
        return ExecResult(exit_code=1, output=f"{argv[0]}: {error}\n".encode())
    is_truncated = len(result.output) > MAX_OUTPUT_BYTES
    return ExecResult(result.exit_code, result.output[:MAX_OUTPUT_BYTES], is_truncated=is_truncated)


async def _echo(_: FakeFiles, words: Sequence[str]) -> ExecResult:
    return ExecResult(0, (" ".join(words) + "\n").encode())


async def _cat(files: FakeFiles, paths: Sequence[str]) -> ExecResult:
    return ExecResult(0, b"".join(files.read(path) for path in paths))


async def _touch(files: FakeFiles, paths: Sequence[str]) -> ExecResult:
    for path in paths:
        files.touch(path)
    return ExecResult(0, b"")


async def _pwd(files: FakeFiles, _: Sequence[str]) -> ExecResult:
    return ExecResult(0, f"{files.workspace}\n".encode())


async def _seq(_: FakeFiles, bounds: Sequence[str]) -> ExecResult:
    first, last = (int(bound) for bound in bounds)
    return ExecResult(0, "".join(f"{number}\n" for number in range(first, last + 1)).encode())


async def _sleep(_: FakeFiles, words: Sequence[str]) -> ExecResult:
    await anyio.sleep(float(words[0]))
    return ExecResult(0, b"")


async def _true(_: FakeFiles, __: Sequence[str]) -> ExecResult:
    return ExecResult(0, b"")


async def _false(_: FakeFiles, __: Sequence[str]) -> ExecResult:
    return ExecResult(1, b"")


PROGRAMS: Mapping[str, Program] = {
    "cat": _cat,
    "echo": _echo,
    "false": _false,
    "pwd": _pwd,
    "seq": _seq,
    "sleep": _sleep,
    "touch": _touch,
    "true": _true,
}
