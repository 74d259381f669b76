"""Bringing OpenCode into an image that is not ours, read-only and without a rebuild (docs/image.md, ADR 0017).

Our own image holds all that is needed, and is on every engine that runs agents. It is copied out of it once, into the cache; what of
it an image then needs is decided by looking into that image once.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import docker
import docker.errors

from cnap_runner.errors import ImageBuildFailed, ImageNotFound, InstanceStartFailed, InvalidInput
from cnap_runner.image.cache import cache_dir, locked
from cnap_runner.image.engine import connected
from cnap_runner.image.probe import (
    LIBRARY_FOLDERS,
    LOADERS,
    Contents,
    ImageFacts,
    facts_of,
    look_into,
    take_out,
)
from cnap_runner.model.kit import Kit, KitMount

KIT_FOLDER = "/usr/local/lib/cnap"
"""Where our image has its launcher and tools. It appears at the same place in every other: scripts name it."""
OPENCODE_PATH = "/usr/local/bin/opencode"

NEEDED_GLIBC = (2, 17)
"""Oldest GNU C library that has all symbols OpenCode 1.18 asks for; a test compares it with the program."""

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What the engine gives a container whose image says nothing."""
_AGENT_PREFIX = "/agent/home/.local"
"""Where the agent's own programs land, as in our image."""
_TAKEN_OUT = (KIT_FOLDER, OPENCODE_PATH, "/etc/ssl/certs/ca-certificates.crt", "/usr/share/zoneinfo")
# What an agent's commands expect anywhere: filled from the kit where an image has nothing there.
_FILLINGS = {
    "/bin/sh": "cnap/busybox",
    "/usr/bin/env": "cnap/busybox",
    "/etc/ssl/certs/ca-certificates.crt": "ca-certificates.crt",
    "/usr/share/zoneinfo": "zoneinfo",
}
_DISTURBING_PREFIXES = ("OPENCODE_", "XDG_", "BUN_", "CNAP_")
_DISTURBING = frozenset({"LD_PRELOAD", "LD_AUDIT", "TMPDIR"})


def prepare_kit(image: str, own_image: str) -> Kit | None:
    """Work out what must be brought into an image; None for one that has OpenCode, ours or one built on it.

    Blocks: the first time for some seconds, while the kit is copied out of ``own_image``. Idempotent, and safe in several processes
    at once. Raises `ImageNotFound` where the engine lacks one of the two, `InvalidInput` where OpenCode cannot run in the image,
    `InstanceStartFailed` for what else the engine refuses, and as `connected` does. Leaves nothing on the engine.
    """
    try:
        with connected() as engine:
            wanted = facts_of(engine, image)
            if wanted.is_ours:
                return None
            ours = _own_facts(engine, own_image, wanted=image)
            check_platform(wanted, ours)
            return choose_kit(wanted, _contents(engine, wanted), _kit_folder(engine, ours))
    except ImageBuildFailed as error:  # what `connected` calls a refusal of the engine, and nothing is built here
        raise InstanceStartFailed(f"Image {image} could not be looked into: {error.message}") from error


def check_platform(image: ImageFacts, ours: ImageFacts) -> None:
    """Raise `InvalidInput` for an image of another system or processor than that of our image."""
    if image.system != "linux":
        raise InvalidInput(f"Image {image.name} is for {image.system}; agents run on Linux.")
    if image.architecture != ours.architecture or image.architecture not in LOADERS:
        raise InvalidInput(
            f"Image {image.name} is for {image.architecture}, and {ours.name} for {ours.architecture}.",
            hint=f"Pull it for the engine's own processor: `docker pull --platform linux/{ours.architecture} {image.name}`.",
        )


def choose_kit(image: ImageFacts, contents: Contents, folder: Path) -> Kit:
    """Decide what of the kit in ``folder`` an image needs. Pure. Raises `InvalidInput` where OpenCode cannot run in it."""
    mounts = [KitMount(folder / "cnap", KIT_FOLDER), KitMount(folder / "opencode", OPENCODE_PATH)]
    if contents.glibc is None:
        mounts += _loader(image, contents, folder)
    elif contents.glibc < NEEDED_GLIBC:
        raise InvalidInput(
            f"The GNU C library of image {image.name} is {_version(contents.glibc)}, older than the {_version(NEEDED_GLIBC)} OpenCode needs.",
            hint="Use a newer image of the same project.",
        )
    mounts += [KitMount(folder / _FILLINGS[place], place) for place in _FILLINGS if place not in contents.present]
    path = image.environment.get("PATH") or _DEFAULT_PATH
    return Kit(
        mounts=tuple(mounts),
        launcher=(f"{KIT_FOLDER}/busybox", "sh", f"{KIT_FOLDER}/entrypoint", "serve"),
        # Ours last: the image's own tools are the ones its project was made with.
        environment={"PATH": f"{path}:{_AGENT_PREFIX}/bin:{KIT_FOLDER}/bin", "NPM_CONFIG_PREFIX": _AGENT_PREFIX},
        dropped=tuple(sorted(filter(_is_disturbing, image.environment))),
        volumes=image.volumes,
    )


def _loader(image: ImageFacts, contents: Contents, folder: Path) -> list[KitMount]:
    """Bring our loader and its libraries to where OpenCode looks for them."""
    if contents.loader is not None and "musl" in contents.loader:
        # A mount would land on what the link leads to, and so break every program of the image.
        raise InvalidInput(
            f"In image {image.name} the GNU loader's place is a link to musl's ({contents.loader}).",
            hint="Remove libc6-compat from the image, or put gcompat in its place.",
        )
    loader = LOADERS[image.architecture]
    return [
        KitMount(folder / "cnap" / "lib" / Path(loader).name, loader),
        KitMount(folder / "cnap" / "lib", LIBRARY_FOLDERS[image.architecture]),
    ]


def _is_disturbing(variable: str) -> bool:
    """Whether a variable of an image would change what OpenCode reads or where it writes."""
    return variable in _DISTURBING or variable.startswith(_DISTURBING_PREFIXES)


def _own_facts(engine: docker.APIClient, own_image: str, *, wanted: str) -> ImageFacts:
    try:
        return facts_of(engine, own_image)
    except ImageNotFound as error:
        raise ImageNotFound(f"The engine has no image {own_image}, which brings OpenCode into {wanted}.") from error


def _kit_folder(engine: docker.APIClient, ours: ImageFacts) -> Path:
    """Give the folder of what was copied out of our image, copying it the first time, whole or not at all."""
    target = cache_dir() / "kits" / _short(ours.id)
    with locked(target):
        if not target.is_dir():
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".kit-") as scratch:
                draft = Path(scratch) / "kit"
                draft.mkdir()
                _copy_out(engine, ours, draft)
                draft.replace(target)
    return target


def _copy_out(engine: docker.APIClient, ours: ImageFacts, folder: Path) -> None:
    try:
        take_out(engine, ours.id, _TAKEN_OUT, folder)
    except docker.errors.NotFound as error:
        raise ImageNotFound(
            f"Image {ours.name} has no kit to bring OpenCode into others.",
            hint="Build it anew with `cnap-runner image build`.",
        ) from error


def _contents(engine: docker.APIClient, image: ImageFacts) -> Contents:
    """Look into an image, or read what was seen the first time: an id stands for the same files for ever."""
    kept = cache_dir() / "images" / f"{_short(image.id)}.json"
    with locked(kept):
        try:
            return Contents.load(kept.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            seen = look_into(engine, image, _FILLINGS)
            kept.write_text(seen.dump(), encoding="utf-8")
            return seen


def _short(image_id: str) -> str:
    return image_id.removeprefix("sha256:")[:24]


def _version(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
