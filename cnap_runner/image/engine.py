"""A connection to the engine for building, with its errors translated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import anyio.from_thread
import docker
import docker.errors
import requests

from cnap_runner.errors import EnginePermissionDenied, EngineUnavailable, ImageBuildFailed, InsufficientResources

SILENCE_LIMIT = timedelta(minutes=10)
"""Longest silence of the engine that is still believed to be work: a large layer is written without a word."""


@contextmanager
def connected(*, silence_limit: timedelta = SILENCE_LIMIT) -> Iterator[docker.APIClient]:
    """Open a client of the engine that ``DOCKER_HOST`` names, by default the local one; close it at the end.

    Blocks. Inside, the SDK's errors become `EngineUnavailable`, `EnginePermissionDenied`, `InsufficientResources` or
    `ImageBuildFailed`.
    """
    with _translated():
        client = docker.from_env(timeout=int(silence_limit.total_seconds())).api
        try:
            yield client
        finally:
            client.close()


def find_image(engine: docker.APIClient, name: str) -> dict[str, Any] | None:
    """Report an image as the engine's API describes it; None where the engine does not have it. Blocks."""
    try:
        found: dict[str, Any] = engine.inspect_image(name)  # type: ignore[no-untyped-call]
    except docker.errors.ImageNotFound:
        return None
    return found


def followed(chunks: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Pass on what the engine says, ending early where the task that waits for this thread was cancelled.

    The engine ends a build or pull itself when its client goes. Raises what an error among the chunks means.
    """
    failure = None
    for chunk in chunks:
        anyio.from_thread.check_cancelled()
        # Read on to the end, so that the connection goes back to the client and is closed with it.
        if "error" in chunk:
            failure = str(chunk["error"])
        elif failure is None:
            yield chunk
    if failure is not None:
        raise meaning_of(failure)


def meaning_of(message: str) -> ImageBuildFailed | InsufficientResources:
    """Turn an engine's or tool's text into the error it stands for."""
    if "no space left on device" in message.lower():
        return InsufficientResources(f"The disk of the engine is full: {message}")
    return ImageBuildFailed(message)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except docker.errors.APIError as error:
        raise meaning_of(str(error.explanation or error)) from error
    except (docker.errors.DockerException, requests.RequestException) as error:
        if _is_about_permission(error):
            raise EnginePermissionDenied("The engine does not let this user in.") from error
        raise EngineUnavailable("No Docker Engine answers.") from error


def _is_about_permission(error: BaseException | None) -> bool:
    while error is not None:
        # The SDK puts the socket's error into the text of its own, and not always into the chain.
        if isinstance(error, PermissionError) or "PermissionError" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
