"""What an image is made of, as one value: its files, packages and arguments, and the hash that tells whether it is current."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO

from cnap_runner.image import packages
from cnap_runner.image.packages import Package, Progress, silent
from cnap_runner.image.way_out import WayOut
from cnap_runner.model.instance import LABEL_OPENCODE

INPUTS_LABEL = "cnap.image.inputs"
"""Hash of everything an image was made of; one with the same hash need not be built again."""
OPENCODE_LABEL = LABEL_OPENCODE
"""Version of OpenCode inside."""

_EXECUTABLES = frozenset({"entrypoint", "healthcheck"})
"""Named, because the way through a wheel loses the executable bit."""


@dataclass(frozen=True)
class BuildInputs:
    """All that decides what an image contains, except what its base and Debian's archive bring."""

    files: Path
    """Folder of the Dockerfile and the scripts."""
    opencode: Package
    npm: Package
    base: str
    """Identity of the base: an image id for one that was asked for, a constant for the default."""
    certificates: tuple[str, ...] = ()
    """Authorities, as PEM, that the build and the image trust besides the usual ones."""

    @property
    def labels(self) -> dict[str, str]:
        """Labels that the built image carries."""
        return {
            INPUTS_LABEL: self.digest(),
            OPENCODE_LABEL: self.opencode.version,
            "org.opencontainers.image.version": version("cnap-runner"),
        }

    @property
    def arguments(self) -> dict[str, str]:
        """Build arguments, without the base."""
        return {"OPENCODE_SHA512": self.opencode.sha512, "NPM_SHA512": self.npm.sha512}

    def digest(self) -> str:
        """Hash of all inputs, in hexadecimal."""
        contents = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self._paths()}
        pins = [self.opencode.specifier, self.opencode.integrity, self.npm.specifier, self.npm.integrity]
        told = json.dumps([contents, pins, self.base, version("cnap-runner"), self.certificates], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()

    def write_context(self, stream: IO[bytes], *, way: WayOut | None = None, progress: Progress = silent) -> None:
        """Write the build context as a tar archive, fetching the packages if need be.

        Blocks. Owners and times are fixed, so that a builder finds its cache again. Raises as `packages.fetch` does.
        """
        tarballs = {
            "packages/opencode.tgz": packages.fetch(self.opencode, way=way, progress=progress),
            "packages/npm.tgz": packages.fetch(self.npm, way=way, progress=progress),
        }
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for path in self._paths():
                _add(archive, path.name, path.read_bytes())
            for name, path in tarballs.items():
                _add(archive, name, path.read_bytes())
            _add_folder(archive, "certificates")
            for number, certificate in enumerate(self.certificates):
                _add(archive, f"certificates/cnap-{number}.crt", certificate.encode())

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.files.iterdir() if path.is_file())


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.mode = 0o755 if name in _EXECUTABLES else 0o644
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _add_folder(archive: tarfile.TarFile, name: str) -> None:
    """Add an empty folder: the builder refuses to copy one that is not there."""
    member = tarfile.TarInfo(name)
    member.type, member.mode = tarfile.DIRTYPE, 0o755
    archive.addfile(member)
