"""Giving an image to a registry."""

from __future__ import annotations

from functools import partial

import anyio.to_thread
from docker.utils import parse_repository_tag

from cnap_runner.errors import ImageNotFound
from cnap_runner.image.engine import connected, find_image, followed
from cnap_runner.image.packages import Progress, silent


async def push_image(tag: str, target: str, *, progress: Progress = silent) -> None:
    """Give the image another name, ``target`` (registry/name, and :tag unless it is latest), and push it there with the logins of Docker's own configuration.

    Idempotent. ``progress`` is called from a worker thread. Raises `ImageNotFound`, and as `build.build_image` does; what the
    registry refuses is an `ImageBuildFailed` in its words.
    """
    await anyio.to_thread.run_sync(partial(_push, tag, target, progress))


def _push(tag: str, target: str, progress: Progress) -> None:
    repository, version = parse_repository_tag(target)
    version = version or "latest"
    with connected() as engine:
        if find_image(engine, tag) is None:
            raise ImageNotFound(f"The engine has no image {tag}.")
        engine.tag(tag, repository, version)
        progress(f"Pushing {target}")
        for _chunk in followed(engine.push(repository, version, stream=True, decode=True)):
            pass
