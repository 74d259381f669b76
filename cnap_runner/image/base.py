"""The image everything is built on: the public Node image, or a Debian made here where that cannot be pulled."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import docker

from cnap_runner.errors import ImageBuildFailed, RunnerError
from cnap_runner.image.assets import runner_files
from cnap_runner.image.cache import cache_dir, locked
from cnap_runner.image.engine import connected, find_image, followed, meaning_of
from cnap_runner.image.packages import Progress

PUBLIC_BASE = "node:24-slim"
"""Pulled from the engine's default registry."""
DEBIAN_SUITE = "bookworm"
LOCAL_BASE = f"cnap-runner-base:{DEBIAN_SUITE}"
"""Made by `make_debian_base`."""

_PULL_SILENCE_LIMIT = timedelta(seconds=20)
"""A registry behind a firewall that drops packets says nothing for minutes; a pull that works speaks all the time."""
_COMMAND_TIMEOUT = timedelta(minutes=20)
_NOT_IN_AN_IMAGE = ("usr/share/doc", "usr/share/info", "usr/share/lintian", "usr/share/locale", "usr/share/man")
_LEFTOVERS = ("var/cache/apt", "var/lib/apt/lists", "var/log", "var/cache/debconf")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def choose_base(
    engine: docker.APIClient,
    *,
    engine_platform: str,
    is_fresh: bool,
    environment: Mapping[str, str],
    progress: Progress,
) -> str:
    """Give the name of a default base that is on the engine: the public one, pulled if need be, else `LOCAL_BASE`.

    Blocks. ``environment`` is that of programs which fetch something here. ``is_fresh`` pulls and makes anew what is there already. Raises `ImageBuildFailed` where neither can be had.
    """
    if not is_fresh and is_present(engine, PUBLIC_BASE, engine_platform):
        return PUBLIC_BASE
    try:
        pull(PUBLIC_BASE, engine_platform, progress=progress)
    except RunnerError as error:
        return _choose_local(
            engine, engine_platform, is_fresh=is_fresh, environment=environment, progress=progress, pull_error=error
        )
    return PUBLIC_BASE


def is_present(engine: docker.APIClient, name: str, engine_platform: str) -> bool:
    """Tell whether the engine has this image for this platform (``os/architecture``)."""
    found = find_image(engine, name)
    return found is not None and f"{found['Os']}/{found['Architecture']}" == engine_platform


def pull(name: str, engine_platform: str, *, progress: Progress) -> None:
    """Pull an image. Blocks; raises `ImageBuildFailed`, or what `connected` raises."""
    progress(f"Pulling {name}")
    repository, separator, tag = name.rpartition(":")
    if not separator or "/" in tag:
        repository, tag = name, "latest"
    with connected(silence_limit=_PULL_SILENCE_LIMIT) as patient:
        for _chunk in followed(patient.pull(repository, tag, stream=True, decode=True, platform=engine_platform)):
            pass


def make_debian_base(engine: docker.APIClient, *, environment: Mapping[str, str], progress: Progress) -> None:
    """Make `LOCAL_BASE` with debootstrap from Debian's default mirror and give it to the engine.

    Blocks for about a minute; needs root, and installs debootstrap where it is missing. Nothing is left on the disk. Raises
    `ImageBuildFailed` with the last lines of the tool that failed.
    """
    _require_debootstrap(environment, progress)
    with tempfile.TemporaryDirectory(dir=cache_dir(), prefix="base-") as scratch:
        root = Path(scratch) / "root"
        progress(f"Making a Debian {DEBIAN_SUITE} base with debootstrap")
        _run(environment, "debootstrap", "--variant=minbase", "--include=ca-certificates", DEBIAN_SUITE, str(root))
        _bring_up_to_date(environment, root)
        _make_slim(root)
        archive = Path(scratch) / "root.tar"
        _run(
            environment,
            "tar",
            "--numeric-owner",
            "--xattrs",
            "--one-file-system",
            "-C",
            str(root),
            "-cf",
            str(archive),
            ".",
        )
        engine.import_image(str(archive), repository=LOCAL_BASE.partition(":")[0], tag=DEBIAN_SUITE)


def _choose_local(
    engine: docker.APIClient,
    engine_platform: str,
    *,
    is_fresh: bool,
    environment: Mapping[str, str],
    progress: Progress,
    pull_error: RunnerError,
) -> str:
    reason = " ".join(pull_error.message.split())
    if engine_platform != f"linux/{_MACHINES.get(platform.machine())}":
        raise ImageBuildFailed(f"{PUBLIC_BASE} cannot be pulled for {engine_platform}: {reason}") from pull_error
    if os.geteuid() != 0 and not is_present(engine, LOCAL_BASE, engine_platform):
        raise ImageBuildFailed(
            f"{PUBLIC_BASE} cannot be pulled: {reason}. Making a Debian base in its place needs root.",
            hint="Build as root once, or name a Debian-based image that the engine has or can pull as the base.",
        ) from pull_error
    with locked(cache_dir() / "debian-base"):
        if is_present(engine, LOCAL_BASE, engine_platform) and (not is_fresh or os.geteuid() != 0):
            progress(f"{PUBLIC_BASE} cannot be pulled ({reason}): using {LOCAL_BASE}")
        else:
            progress(f"{PUBLIC_BASE} cannot be pulled ({reason}): using a Debian base made here")
            make_debian_base(engine, environment=environment, progress=progress)
    return LOCAL_BASE


def _require_debootstrap(environment: Mapping[str, str], progress: Progress) -> None:
    if shutil.which("debootstrap") is not None:
        return
    if shutil.which("apt-get") is None:
        raise ImageBuildFailed(
            "A Debian base cannot be made here: there is neither debootstrap nor apt-get.",
            hint="Name a Debian-based image that the engine has or can pull as the base.",
        )
    progress("Installing debootstrap")
    _run(environment, "apt-get", "update", "-qq")
    # On Ubuntu the keys of Debian's archive are a package of their own.
    _run(
        environment,
        "apt-get",
        "install",
        "-y",
        "-qq",
        "--no-install-recommends",
        "debootstrap",
        "debian-archive-keyring",
    )


def _bring_up_to_date(environment: Mapping[str, str], root: Path) -> None:
    """Add the suites of fixes to the one debootstrap knows, on the same mirror, and install what they have."""
    sources = root / "etc/apt/sources.list"
    release = sources.read_text(encoding="utf-8").strip()
    updates = release.replace(f" {DEBIAN_SUITE} ", f" {DEBIAN_SUITE}-updates ")
    security = updates.replace(f" {DEBIAN_SUITE}-updates ", f" {DEBIAN_SUITE}-security ").replace(
        f"/debian {DEBIAN_SUITE}-", f"/debian-security {DEBIAN_SUITE}-"
    )
    sources.write_text(f"{release}\n{updates}\n{security}\n", encoding="utf-8")
    shutil.copy(runner_files() / "dpkg-slim.cfg", root / "etc/dpkg/dpkg.cfg.d/cnap-slim")
    _run(environment, "chroot", str(root), "apt-get", "update", "-qq")
    _run(environment, "chroot", str(root), "apt-get", "upgrade", "-y", "-qq")


def _make_slim(root: Path) -> None:
    """Remove what debootstrap wrote before dpkg's exclusions held. Licences stay."""
    for folder in (root / name for name in _NOT_IN_AN_IMAGE):
        for path in folder.rglob("*"):
            if not path.is_dir() and path.name != "copyright":
                path.unlink()
    for folder in (root / name for name in _LEFTOVERS):
        for path in folder.rglob("*"):
            if not path.is_dir():
                path.unlink()
    # Both are this machine's; the engine writes its own into each container.
    for name in ("etc/resolv.conf", "etc/hostname"):
        (root / name).unlink(missing_ok=True)


def _run(environment: Mapping[str, str], *argv: str) -> None:
    """Run one command in a mount namespace of its own, so that what it mounts ends with it and is never swept away with the folder."""
    path = environment.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    done = subprocess.run(
        ["unshare", "--mount", *argv],
        env={**environment, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C", "PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=_COMMAND_TIMEOUT.total_seconds(),
        check=False,
    )
    if done.returncode != 0:
        last = "\n".join(done.stdout.strip().splitlines()[-8:])
        raise meaning_of(f"{' '.join(argv[:3])} failed with exit status {done.returncode}:\n{last}")
