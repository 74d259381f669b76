"""The engine, the image its agents run, and what it needs to filter what they send."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio.to_thread

from cnap_runner.cli.checks.finding import Finding, State, failed_by
from cnap_runner.errors import RunnerError

if TYPE_CHECKING:
    from cnap_runner.model.engine import EngineInfo
    from cnap_runner.settings import Settings


async def check_engine(settings: Settings) -> list[Finding]:
    """Whether the engine answers, which it is, and what it cannot do."""
    from cnap_runner.wiring import make_backend

    try:
        backend = await anyio.to_thread.run_sync(make_backend, settings)
        try:
            info = await backend.check()
        finally:
            await backend.aclose()
    except RunnerError as error:
        return [failed_by("engine", error)]
    about = ", ".join(f"{name} {value}" for name, value in info.details.items() if value)
    found = Finding("engine", State.OK, f"{info.name} {info.version}" + (f" ({about})" if about else ""))
    problems = [Finding("engine", State.WARN, problem) for problem in info.problems]
    return [found, *problems, *_runtime(settings, info)]


def _runtime(settings: Settings, info: EngineInfo) -> list[Finding]:
    known = info.details.get("runtimes", "").split()
    if settings.runtime is None or settings.runtime in known:
        return []
    message = f"The engine knows no runtime {settings.runtime!r}; it knows {', '.join(known) or 'none'}."
    return [Finding("runtime", State.FAIL, message, "Register it with the engine, or correct CNAP_RUNNER_RUNTIME.")]


async def check_image(settings: Settings) -> list[Finding]:
    """Whether agents have something to run, of a version this package knows."""
    if settings.backend == "docker":
        return await anyio.to_thread.run_sync(_check_docker_image, settings.image)
    return []


def _check_docker_image(tag: str) -> list[Finding]:
    from cnap_runner.errors import ImageNotFound
    from cnap_runner.image.context import OPENCODE_LABEL
    from cnap_runner.image.engine import connected, find_image
    from cnap_runner.opencode.version import check_version

    try:
        with connected() as engine:
            found = find_image(engine, tag)
        if found is None:
            raise ImageNotFound(f"The engine has no image {tag}.")
        version = (found["Config"].get("Labels") or {}).get(OPENCODE_LABEL)
        if version is None:
            return [
                Finding(
                    "image",
                    State.WARN,
                    f"{tag} does not say which OpenCode it has.",
                    "See `cnap-runner image version`.",
                )
            ]
        check_version(version)
    except RunnerError as error:
        return [failed_by("image", error)]
    return [Finding("image", State.OK, f"{tag}, OpenCode {version}, {found['Size'] / 1e6:.0f} MB")]


async def check_npm(_: Settings) -> list[Finding]:
    """Whether OpenCode could be fetched; only needed to build the image, or for the process backend's first start."""
    from cnap_runner.image.npm_client import npm_command

    try:
        command = npm_command()
    except RunnerError as error:
        return [Finding("npm", State.WARN, f"{error.message} The image cannot be built here.", error.hint)]
    return [Finding("npm", State.OK, command[0])]


async def check_egress(settings: Settings) -> list[Finding]:
    """Whether what agents send can be filtered: for egress modes none and allowlist, and to close cloud metadata addresses."""
    if settings.backend != "docker":
        return []
    return await anyio.to_thread.run_sync(_check_egress, settings)


def _check_egress(settings: Settings) -> list[Finding]:
    from cnap_runner.egress.filter import why_no_filter
    from cnap_runner.egress.process import living_proxy

    if (why := why_no_filter()) is not None:
        message = f"Agents reach cloud metadata addresses, and egress modes none and allowlist are refused: {why}"
        return [Finding("egress", State.WARN, message, "Install it, or run cnap-runner as root or with CAP_NET_ADMIN.")]
    proxy = living_proxy(settings.data_dir / "egress")
    running = f"the proxy listens at {proxy.address}:{proxy.port}" if proxy else "no proxy is needed now"
    return [Finding("egress", State.OK, f"can be filtered; {running}")]
