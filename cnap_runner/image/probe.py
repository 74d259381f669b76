"""What an image has of what OpenCode needs, looked up in a container of it that is made and never started."""

from __future__ import annotations

import base64
import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import docker
import docker.errors
import requests

from cnap_runner.errors import ImageNotFound
from cnap_runner.image.context import OPENCODE_LABEL
from cnap_runner.image.engine import find_image

PROBE_LABEL = "cnap.image.probe"
"""On the containers that are made to look into an image, in case one is left behind by a killed process."""

LOADERS = {"amd64": "/lib64/ld-linux-x86-64.so.2", "arm64": "/lib/ld-linux-aarch64.so.1"}
"""Where programs for glibc look for their loader: an address fixed by each processor's ABI."""
LIBRARY_FOLDERS = {"amd64": "/lib/x86_64-linux-gnu", "arm64": "/lib/aarch64-linux-gnu"}
"""Where the loader of our image, a Debian's, looks for libraries."""

_LIBC_FOLDERS = (*LIBRARY_FOLDERS.values(), "/lib64", "/usr/lib64", "/lib", "/usr/lib")
_LIBC_LIMIT = 16 << 20
"""Bytes of a libc.so.6; it has about 2 million."""
_GLIBC_VERSION = re.compile(rb"GLIBC_2\.(\d+)\0")
_LINK_BIT = 1 << 27
"""``os.ModeSymlink`` of Go, in which the engine tells modes."""
_TYPE_BITS = 0b1000_1111_0010_1000 << 16
"""``os.ModeType`` of Go: none of them is set in a regular file's mode."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What counts of one image."""

    name: str
    id: str
    system: str
    architecture: str
    environment: Mapping[str, str]
    volumes: tuple[str, ...]
    is_ours: bool
    """Built from our Dockerfile, or on such an image: OpenCode is inside."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What an image's files say."""

    present: frozenset[str]
    """Which of the places that were asked for it has."""
    loader: str | None = None
    """Where the glibc loader's path leads; None: there is no such path."""
    glibc: tuple[int, int] | None = None
    """Version of its GNU C library; None: it has none, or one that cannot be read."""

    def dump(self) -> str:
        """Write it down as JSON."""
        return json.dumps({"present": sorted(self.present), "loader": self.loader, "glibc": self.glibc})

    @classmethod
    def load(cls, text: str) -> Contents:
        """Read what `dump` wrote; raises `ValueError` or `KeyError` for anything else."""
        data = json.loads(text)
        glibc = None if data["glibc"] is None else (int(data["glibc"][0]), int(data["glibc"][1]))
        return cls(frozenset(data["present"]), data["loader"], glibc)


def facts_of(engine: docker.APIClient, name: str) -> ImageFacts:
    """Ask the engine about an image. Blocks. Raises `ImageNotFound`: images are pulled by their users, not by a start."""
    found = find_image(engine, name)
    if found is None:
        raise ImageNotFound(f"The engine has no image {name}.", hint=f"Get it with `docker pull {name}`, or build it.")
    config: dict[str, Any] = found.get("Config") or {}
    return ImageFacts(
        name=name,
        id=str(found["Id"]),
        system=str(found["Os"]),
        architecture=str(found["Architecture"]),
        environment=dict(entry.partition("=")[::2] for entry in config.get("Env") or ()),
        volumes=tuple(sorted(config.get("Volumes") or ())),
        is_ours=OPENCODE_LABEL in (config.get("Labels") or {}),
    )


def look_into(engine: docker.APIClient, image: ImageFacts, places: Iterable[str]) -> Contents:
    """Look into an image's files: which ``places`` it has, and which C library. Blocks for a few tenths of a second. Nothing of the image is run."""
    loader_path = LOADERS[image.architecture]
    with _unstarted(engine, image.id) as container:
        where = partial(_real_path, engine, container)
        loader = where(loader_path)
        libc = None if loader is None else next(filter(None, (where(f"{f}/libc.so.6") for f in _LIBC_FOLDERS)), None)
        return Contents(
            present=frozenset(place for place in places if where(place) is not None),
            loader=loader,
            glibc=None if libc is None else glibc_version(_read(engine, container, libc)),
        )


def glibc_version(library: bytes) -> tuple[int, int] | None:
    """Tell the newest version whose symbols a ``libc.so.6`` has, which is its own; None for another library."""
    minors = [int(match[1]) for match in _GLIBC_VERSION.finditer(library)]
    return (2, max(minors)) if minors else None


def take_out(engine: docker.APIClient, image_id: str, paths: Iterable[str], folder: Path) -> None:
    """Copy files and folders out of an image into a folder, under their last names.

    Blocks. Raises `docker.errors.NotFound` for a path that the image does not have.
    """
    with _unstarted(engine, image_id) as container:
        for path in paths:
            chunks, _stat = engine.get_archive(container, path)
            with tarfile.open(fileobj=_Chunks(chunks), mode="r|") as archive:
                archive.extractall(folder, filter="tar")


@contextmanager
def _unstarted(engine: docker.APIClient, image_id: str) -> Iterator[str]:
    # An image may have no command of its own, and the engine wants one; it is never run.
    made = engine.create_container(image_id, ["none"], network_disabled=True, labels={PROBE_LABEL: "true"})
    try:
        yield str(made["Id"])
    finally:
        engine.remove_container(made["Id"], v=True, force=True)


def _real_path(engine: docker.APIClient, container: str, path: str) -> str | None:
    """Tell where a path leads inside of an image; None where there is nothing."""
    stat = _stat(engine, container, path)
    if stat is None or not stat["mode"] & _LINK_BIT:
        return None if stat is None else path
    # The engine has followed the link to its end, links on the way included.
    target = str(stat["linkTarget"])
    return None if _stat(engine, container, target) is None else target


def _stat(engine: docker.APIClient, container: str, path: str) -> dict[str, Any] | None:
    """Ask for a file's facts alone; the SDK knows only how to ask for its contents."""
    url = f"{engine.base_url}/v{engine.api_version}/containers/{container}/archive"
    answer = engine.head(url, params={"path": path}, timeout=engine.timeout)
    if answer.status_code == requests.codes.not_found:
        return None
    try:
        answer.raise_for_status()
    except requests.HTTPError as error:
        raise docker.errors.APIError(str(error), response=answer) from error
    stat: dict[str, Any] = json.loads(base64.b64decode(answer.headers["X-Docker-Container-Path-Stat"]))
    return stat


def _read(engine: docker.APIClient, container: str, path: str) -> bytes:
    """Read a regular file of usual size; nothing of anything else, which could be a folder without end."""
    stat = _stat(engine, container, path)
    if stat is None or stat["mode"] & _TYPE_BITS or stat["size"] > _LIBC_LIMIT:
        return b""
    chunks, _ = engine.get_archive(container, path)
    with tarfile.open(fileobj=_Chunks(chunks), mode="r|") as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is not None and PurePosixPath(member.name).name == PurePosixPath(path).name:
                return content.read(_LIBC_LIMIT)
    return b""


class _Chunks(io.RawIOBase):
    """The engine's answer as a file that is read once, so that no archive of 200 MB is held in memory."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        pieces, missing = [self._rest], size - len(self._rest)
        while missing > 0 or size < 0:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            pieces.append(chunk)
            missing -= len(chunk)
        whole = b"".join(pieces)
        cut = len(whole) if size < 0 else size
        self._rest = whole[cut:]
        return whole[:cut]
