"""What of a kit an image needs, decided from what was seen in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cnap_runner.errors import InvalidInput
from cnap_runner.image.kit import KIT_FOLDER, check_platform, choose_kit
from cnap_runner.image.probe import Contents, ImageFacts, glibc_version

KIT = Path("/cache/kits/1")
IMAGE = ImageFacts(
    name="project:1",
    id="sha256:1",
    system="linux",
    architecture="amd64",
    environment={},
    volumes=(),
    is_ours=False,
)
OURS = replace(IMAGE, name="ours:latest", is_ours=True)
FULL = frozenset({"/bin/sh", "/usr/bin/env", "/etc/ssl/certs/ca-certificates.crt", "/usr/share/zoneinfo"})
DEBIAN = Contents(FULL, "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", (2, 36))
ALPINE = Contents(FULL - {"/usr/share/zoneinfo"})
EMPTY = Contents(frozenset())


def targets(contents: Contents, image: ImageFacts = IMAGE) -> dict[str, str]:
    """Target → source, below the kit."""
    kit = choose_kit(image, contents, KIT)
    return {mount.target: str(mount.source.relative_to(KIT)) for mount in kit.mounts}


def test_a_glibc_image_gets_opencode_and_our_tools_alone() -> None:
    """Its own C library, shell and certificates stay as they are."""
    assert targets(DEBIAN) == {KIT_FOLDER: "cnap", "/usr/local/bin/opencode": "opencode"}


def test_a_musl_image_gets_a_loader_beside_its_own() -> None:
    """Loader and libraries appear where only programs for glibc look."""
    added = targets(ALPINE)
    assert added["/lib64/ld-linux-x86-64.so.2"] == "cnap/lib/ld-linux-x86-64.so.2"
    assert added["/lib/x86_64-linux-gnu"] == "cnap/lib"
    assert added["/usr/share/zoneinfo"] == "zoneinfo"
    assert "/bin/sh" not in added


def test_an_empty_image_gets_a_shell_too() -> None:
    """A script begins with one of these two."""
    added = targets(EMPTY)
    assert added["/bin/sh"] == added["/usr/bin/env"] == "cnap/busybox"
    assert "/etc/ssl/certs/ca-certificates.crt" in added


def test_each_processor_has_its_own_places() -> None:
    """Both are fixed by its ABI."""
    added = targets(EMPTY, replace(IMAGE, architecture="arm64"))
    assert added["/lib/ld-linux-aarch64.so.1"] == "cnap/lib/ld-linux-aarch64.so.1"
    assert "/lib/aarch64-linux-gnu" in added


def test_an_image_too_old_for_opencode_is_refused() -> None:
    """Before anything is created, with both versions."""
    with pytest.raises(InvalidInput, match=r"2\.12, older than the 2\.17"):
        choose_kit(IMAGE, replace(DEBIAN, glibc=(2, 12)), KIT)


def test_a_loader_that_is_a_link_to_musl_is_refused() -> None:
    """A mount on a link lands on what it leads to, and would break all of the image's programs."""
    with pytest.raises(InvalidInput, match="libc6-compat"):
        choose_kit(IMAGE, replace(ALPINE, loader="/lib/libc.musl-x86_64.so.1"), KIT)


def test_the_images_own_programs_come_first() -> None:
    """A project's image was made for its tools; ours only fill gaps."""
    own = choose_kit(replace(IMAGE, environment={"PATH": "/project/bin"}), DEBIAN, KIT).environment["PATH"]
    usual = choose_kit(IMAGE, DEBIAN, KIT).environment["PATH"]
    assert own == f"/project/bin:/agent/home/.local/bin:{KIT_FOLDER}/bin"
    assert usual.startswith("/usr/local/sbin:/usr/local/bin:")
    assert usual.endswith(f":{KIT_FOLDER}/bin")


def test_variables_that_would_mislead_opencode_are_taken_away() -> None:
    """Whatever else the image sets stays."""
    image = replace(IMAGE, environment={"OPENCODE_CONFIG": "/x", "XDG_CONFIG_HOME": "/x", "LD_PRELOAD": "x", "A": "b"})
    assert choose_kit(image, DEBIAN, KIT).dropped == ("LD_PRELOAD", "OPENCODE_CONFIG", "XDG_CONFIG_HOME")


@pytest.mark.parametrize(("system", "architecture"), [("windows", "amd64"), ("linux", "arm64"), ("linux", "s390x")])
def test_an_image_for_another_machine_is_refused(system: str, architecture: str) -> None:
    """The kit is of one system and one processor."""
    with pytest.raises(InvalidInput, match=r"is for"):
        check_platform(replace(IMAGE, system=system, architecture=architecture), OURS)
    check_platform(IMAGE, OURS)


def test_what_was_seen_is_kept_and_read_again() -> None:
    """An image's id stands for the same files for ever."""
    for seen in (DEBIAN, ALPINE, EMPTY):
        assert Contents.load(seen.dump()) == seen
    for damaged in ("", "{}", '{"present": []}'):
        with pytest.raises((ValueError, KeyError)):
            Contents.load(damaged)


def test_a_c_library_tells_its_version_by_its_newest_symbols() -> None:
    """As numbers: 2.9 is older than 2.36."""
    assert glibc_version(b"..GLIBC_2.2.5\0GLIBC_2.9\0GLIBC_2.36\0GLIBC_PRIVATE\0") == (2, 36)
    assert glibc_version(b"musl libc") is None
