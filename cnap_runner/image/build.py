"""Building the image, without a Docker client program: the context is assembled here and sent to the engine."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import anyio.to_thread
import docker
import docker.errors

from cnap_runner.errors import ImageBuildFailed, ImageNotFound, InsufficientResources, InvalidInput
from cnap_runner.image.assets import runner_files
from cnap_runner.image.base import choose_base, is_present, pull
from cnap_runner.image.cache import cache_dir, locked
from cnap_runner.image.context import INPUTS_LABEL, OPENCODE_LABEL, BuildInputs
from cnap_runner.image.engine import connected, find_image, followed
from cnap_runner.image.packages import NPM, OPENCODE, Package, Progress, host_platform, silent
from cnap_runner.image.way_out import WayOut

_DEFAULT_BASE = "default"
_LOG_LINES = 20
_STEP_WIDTH = 100


@dataclass(frozen=True)
class BuiltImage:
    """An image that is on the engine and current."""

    tag: str
    id: str
    size_bytes: int
    opencode_version: str
    was_built: bool
    """False: the engine had it already."""


async def build_image(
    tag: str,
    *,
    base: str | None = None,
    platform: str | None = None,
    is_forced: bool = False,
    way: WayOut | None = None,
    progress: Progress = silent,
) -> BuiltImage:
    """Build the image and give it a tag, unless the engine has it already, made of the same.

    ``base`` names an image based on Debian; by default it is `base.PUBLIC_BASE`, or a Debian made here where that cannot be
    pulled. ``platform`` is ``linux/amd64`` or ``linux/arm64``, by default the engine's own. ``is_forced`` builds anew, on
    a fresh base where none is named. ``way`` says through which proxies, and whom build and image trust. Idempotent, safe in several processes at once. ``progress`` is called from a worker thread; cancelling ends
    the build at its next word. Raises `EngineUnavailable`, `EnginePermissionDenied`, `InsufficientResources`,
    `InvalidInput` for a platform without a pinned OpenCode, and `ImageBuildFailed` with the log's last lines.
    """
    build = partial(
        _build, tag, base=base, platform=platform, is_forced=is_forced, way=way or WayOut(), progress=progress
    )
    return await anyio.to_thread.run_sync(build)


async def image_version(tag: str) -> str:
    """Start OpenCode in a throw-away container of the image and return the version it says.

    Raises `ImageNotFound`, `ImageBuildFailed` where it does not start, and as `connected` does.
    """
    return await anyio.to_thread.run_sync(_image_version, tag)


def opencode_for(platform: str) -> Package:
    """Give the pinned OpenCode for an engine's platform, such as ``linux/arm64``; raises `InvalidInput` where there is none."""
    if platform == "linux/arm64":
        return OPENCODE["linux-arm64"]
    if platform == "linux/amd64":
        # The engine's processor is taken to be like ours, which is so wherever it runs beside us.
        is_old = os.uname().machine == "x86_64" and host_platform() == "linux-x64-baseline"
        return OPENCODE["linux-x64-baseline" if is_old else "linux-x64"]
    raise InvalidInput(f"There is no pinned OpenCode for {platform}.", hint="Build for linux/amd64 or linux/arm64.")


def _build(
    tag: str, *, base: str | None, platform: str | None, is_forced: bool, way: WayOut, progress: Progress
) -> BuiltImage:
    with connected() as engine, locked(cache_dir() / "image-build"):
        own_platform = _platform_of(engine)
        target = platform or own_platform
        opencode = opencode_for(target)
        identity = _DEFAULT_BASE if base is None else _require_base(engine, base, target, progress)
        inputs = BuildInputs(
            files=runner_files(),
            opencode=opencode,
            npm=NPM,
            base=f"{target} {identity}",
            certificates=way.certificates(),
        )
        current = None if is_forced else _find(engine, tag, inputs)
        if current is not None:
            return current
        name = base or choose_base(
            engine, engine_platform=target, is_fresh=is_forced, environment=way.environment(), progress=progress
        )
        options: dict[str, Any] = {"nocache": is_forced}
        if target != own_platform:
            options["platform"] = target
        _send_build(engine, tag, inputs, base=name, way=way, options=options, progress=progress)
        built = _find(engine, tag, inputs)
        if built is None:
            raise ImageBuildFailed(f"The engine says that it built {tag}, but does not have it.")
        return replace(built, was_built=True)


def _send_build(  # noqa: PLR0913 - one call of the engine
    engine: docker.APIClient,
    tag: str,
    inputs: BuildInputs,
    *,
    base: str,
    way: WayOut,
    options: dict[str, Any],
    progress: Progress,
) -> None:
    with tempfile.TemporaryFile(dir=cache_dir()) as context:
        inputs.write_context(context, way=way, progress=progress)
        context.seek(0)
        progress(f"Building {tag} on {base} with OpenCode {inputs.opencode.version}")
        chunks = engine.build(
            fileobj=context,
            custom_context=True,
            decode=True,
            tag=tag,
            buildargs={**way.build_arguments(), **inputs.arguments, "BASE_IMAGE": base},
            labels=inputs.labels,
            rm=True,
            forcerm=True,
            **options,
        )
        _follow_build(chunks, progress)


def _follow_build(chunks: Any, progress: Progress) -> None:
    log: deque[str] = deque(maxlen=_LOG_LINES)
    try:
        for chunk in followed(chunks):
            for line in str(chunk.get("stream", "")).splitlines():
                if line.startswith("Step "):
                    progress(line[:_STEP_WIDTH])
                if line.strip():
                    log.append(line.rstrip())
    except InsufficientResources:
        raise
    except ImageBuildFailed as error:
        raise ImageBuildFailed("\n".join([error.message, "Last lines of the log:", *log])) from error


def _require_base(engine: docker.APIClient, base: str, platform: str, progress: Progress) -> str:
    """Make sure that the engine has this base, and return its id: the same name may mean another image tomorrow."""
    if not is_present(engine, base, platform):
        pull(base, platform, progress=progress)
    found = find_image(engine, base)
    if found is None:
        raise ImageBuildFailed(f"{base} was pulled, but the engine does not have it.")
    return str(found["Id"])


def _find(engine: docker.APIClient, tag: str, inputs: BuildInputs) -> BuiltImage | None:
    """Report the image of this tag, if it was made of these inputs."""
    found = find_image(engine, tag)
    labels = (found or {}).get("Config", {}).get("Labels") or {}
    if found is None or labels.get(INPUTS_LABEL) != inputs.digest():
        return None
    return BuiltImage(
        tag=tag,
        id=str(found["Id"]),
        size_bytes=int(found["Size"]),
        opencode_version=str(labels[OPENCODE_LABEL]),
        was_built=False,
    )


def _platform_of(engine: docker.APIClient) -> str:
    about = engine.version()
    return f"{about['Os']}/{about['Arch']}"


def _image_version(tag: str) -> str:
    with connected() as engine:
        try:
            container = engine.create_container(tag, ["--version"], network_disabled=True)["Id"]
        except docker.errors.ImageNotFound as error:
            raise ImageNotFound(f"The engine has no image {tag}.") from error
        try:
            engine.start(container)
            status = engine.wait(container)["StatusCode"]
            said = engine.logs(container).decode(errors="replace").strip()
        finally:
            engine.remove_container(container, force=True)
    if status != 0:
        raise ImageBuildFailed(f"OpenCode in {tag} ended with exit status {status}: {said}")
    return said
