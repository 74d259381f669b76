"""The npm packages an image is made of: pinned by version and checksum, fetched once, kept in a cache.

Not every version is published for every platform, so the pin is a table. How to raise one: docs/image.md.
"""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cnap_runner.errors import ImageBuildFailed, NotSupportedYet
from cnap_runner.image import npm_client
from cnap_runner.image.cache import cache_dir, locked
from cnap_runner.image.way_out import WayOut

Progress = Callable[[str], None]
"""Takes one line of text about what happens now. May be called from a worker thread."""


def silent(_line: str) -> None:
    """Take a line of progress and say nothing."""


@dataclass(frozen=True)
class Package:
    """One version of one npm package."""

    name: str
    version: str
    integrity: str
    """The registry's ``dist.integrity``: ``sha512-`` and the tarball's checksum in base64."""

    @property
    def specifier(self) -> str:
        """What npm calls it."""
        return f"{self.name}@{self.version}"

    @property
    def sha512(self) -> str:
        """The checksum in hexadecimal, as ``sha512sum`` writes it."""
        return base64.b64decode(self.integrity.removeprefix("sha512-")).hex()


OPENCODE: Final[dict[str, Package]] = {
    "linux-x64": Package(
        "opencode-linux-x64",
        "1.18.33",
        "sha512-q/t/3p2CTxOT9y2kvjesb/LZab2+1eqlhhWA02Be6mjTtmYtNBcBsrI5yDo4Fw7ZSPBW2oyMIGMNRqiKQjiAWw==",
    ),
    "linux-x64-baseline": Package(
        "opencode-linux-x64-baseline",
        "1.18.33",
        "sha512-1KQGBiiDDeL/VHHbHkOvvFo8Jr97WT5+C1tear+p7IcDTnXgVHXqIjU4O4jM4mHQzykTP2i884FCnW5LDa+zCA==",
    ),
    "linux-arm64": Package(
        "opencode-linux-arm64",
        "1.18.18",
        "sha512-e8D3g0qJEIzawEg2+ygW3vkZjAYL2ssyAx4GbihjwXwZFvlZZy5zRWWzdz5KLBoHSTl0FB73vNtnNeXONyHpVQ==",
    ),
}
"""Platform → OpenCode. ``baseline`` is for processors without AVX2; 1.18.18 is the newest there is for arm64."""

NPM: Final = Package(
    "npm",
    "10.9.9",
    "sha512-1g+6jLQvaIuB4zwvHL7yrXuXcWZwDsCtBX8bbWDqbvJSSr9nPiDDWTHNgwXR27iIcTTW7v3A57hDW9RYv2W4Yg==",
)
"""npm for images on a Debian base: Debian's own pulls in some 400 packages. The 10 line runs on Debian 12's Node 18."""


def host_platform() -> str:
    """Name this machine's entry in `OPENCODE`. Raises `NotSupportedYet` where it has none."""
    machine = platform.machine().lower()
    if platform.system() == "Linux" and machine in {"x86_64", "amd64"}:
        return "linux-x64" if _has_avx2() else "linux-x64-baseline"
    if platform.system() == "Linux" and machine in {"aarch64", "arm64"}:
        return "linux-arm64"
    raise NotSupportedYet(
        f"There is no pinned OpenCode for {platform.system()} on {machine}.",
        hint="Use the docker backend: its containers run on Linux.",
    )


def fetch(package: Package, *, way: WayOut | None = None, progress: Progress = silent) -> Path:
    """Return the package's verified tarball, downloaded if the cache has no good one.

    Blocks. Idempotent, and safe in several processes at once: one downloads, the others wait for it. Raises
    `ImageBuildFailed` where it cannot be had or its checksum is another, `InsufficientResources` where the disk is full.
    """
    target = cache_dir() / "packages" / f"{package.name}-{package.version}.tgz"
    with locked(target):
        if _is_intact(target, package):
            return target
        progress(f"Fetching {package.specifier}")
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
            tarball = npm_client.pack(package.specifier, Path(scratch), environment=(way or WayOut()).environment())
            if not _is_intact(tarball, package):
                raise ImageBuildFailed(
                    f"What the registry gave as {package.specifier} does not have the pinned checksum; it was thrown away.",
                    hint="Look at which registry npm uses: `npm config get registry`.",
                )
            tarball.replace(target)
    return target


def opencode_binary(*, way: WayOut | None = None, progress: Progress = silent) -> Path:
    """Return the OpenCode executable for this machine, fetched, verified and unpacked into the cache if need be.

    Blocks. Idempotent and safe in several processes at once. Raises as `fetch` and `host_platform` do.
    """
    package = OPENCODE[host_platform()]
    # Named after the checksum: another build of the same version never passes for this one.
    target = cache_dir() / "opencode" / f"{package.name}-{package.version}-{package.sha512[:12]}" / "opencode"
    with locked(target):
        if not _is_unpacked(target):
            tarball = fetch(package, way=way, progress=progress)
            progress(f"Unpacking {package.specifier}")
            _unpack_binary(tarball, target)
    return target


def _has_avx2() -> bool:
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    return "avx2" in flags.split()


def _is_intact(tarball: Path, package: Package) -> bool:
    try:
        with tarball.open("rb") as stream:
            return hashlib.file_digest(stream, "sha512").hexdigest() == package.sha512
    except FileNotFoundError:
        return False


def _is_unpacked(binary: Path) -> bool:
    """Compare with the size noted when it was unpacked: hashing 185 MB at every start would cost half a second."""
    try:
        return binary.stat().st_size == int(binary.with_name("size").read_text()) and os.access(binary, os.X_OK)
    except (FileNotFoundError, ValueError):
        return False


def _unpack_binary(tarball: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpack-") as scratch:
        unpacked = Path(scratch) / "opencode"
        with tarfile.open(tarball) as archive, unpacked.open("wb") as stream:
            member = archive.extractfile("package/bin/opencode")
            if member is None:
                raise ImageBuildFailed(f"{tarball.name} holds no OpenCode executable.")
            shutil.copyfileobj(member, stream, 1 << 20)
        unpacked.chmod(0o755)
        target.with_name("size").write_text(str(unpacked.stat().st_size))
        unpacked.replace(target)
