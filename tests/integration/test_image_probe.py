"""Looking into images that are made to be a nuisance: on the real engine, nothing of them is run."""

from __future__ import annotations

import io
import tarfile
import uuid
from collections.abc import Callable, Iterator

import docker
import pytest

from cnap_runner.image.engine import connected
from cnap_runner.image.probe import LIBRARY_FOLDERS, LOADERS, facts_of, look_into

pytestmark = pytest.mark.engine

Make = Callable[..., str]


@pytest.fixture
def engine() -> Iterator[docker.APIClient]:
    with connected() as engine:
        yield engine


@pytest.fixture
def make(engine: docker.APIClient) -> Iterator[Make]:
    """Makes an image of these files: path → contents; None: a folder."""
    made: list[str] = []

    def image(files: dict[str, bytes | None]) -> str:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for path, data in files.items():
                member = tarfile.TarInfo(path.lstrip("/"))
                member.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
                member.size, member.mode = len(data or b""), 0o755
                archive.addfile(member, io.BytesIO(data or b""))
        name = f"cnap-test-{uuid.uuid4().hex[:12]}"
        engine.import_image_from_data(packed.getvalue(), repository=name)
        made.append(name)
        return name

    yield image
    for name in made:
        engine.remove_image(name, force=True)


@pytest.mark.parametrize("big", [b"", b"\0" * (17 << 20)], ids=["folder", "too large"])
def test_c_library_that_is_none_is_not_read(engine: docker.APIClient, make: Make, big: bytes) -> None:
    """A folder in its place could hold anything, under its name too; and no C library is that large."""
    architecture = str(engine.info()["Architecture"]).replace("x86_64", "amd64").replace("aarch64", "arm64")
    libc = f"{LIBRARY_FOLDERS[architecture]}/libc.so.6"
    symbols = b"GLIBC_2.40\0" + big
    files = {libc: symbols} if big else {libc: None, f"{libc}/libc.so.6": symbols}
    name = make({LOADERS[architecture]: b"loader", **files})
    contents = look_into(engine, facts_of(engine, name), ["/bin/sh"])
    assert (contents.loader, contents.glibc, contents.present) == (LOADERS[architecture], None, frozenset())
