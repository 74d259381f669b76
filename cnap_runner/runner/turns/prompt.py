"""A run's request turned into what OpenCode is sent."""

from __future__ import annotations

import mimetypes
import os
import stat
from pathlib import Path

import anyio.to_thread

from cnap_runner.errors import InvalidInput
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.run import MAX_FILE_BYTES, Attachment, RunRequest
from cnap_runner.opencode.wire import FilePart, Prompt
from cnap_runner.runner.workspaces.confined import open_below


async def load_files(request: RunRequest, *, agents_own: Path) -> tuple[FilePart, ...]:
    """Read the attached files of the messages to be sent. Raises `InvalidInput` naming one that cannot be sent.

    Below ``agents_own``, where agents write, no link is followed: it would lead whoever attaches a file to others.
    """
    wanted = [attachment for message in request.to_send() for attachment in message.files]
    if not wanted:
        return ()
    return await anyio.to_thread.run_sync(lambda: tuple(_load(attachment, agents_own) for attachment in wanted))


def make_prompt(spec: AgentSpec, request: RunRequest, files: tuple[FilePart, ...]) -> Prompt:
    """Put together what is sent: the request's own words win over the agent's."""
    system = [request.system_text() or ""]
    if request.system_prompt is None:
        system.insert(0, spec.system_prompt or "")
    return Prompt(
        texts=tuple(message.content for message in request.to_send() if message.content),
        files=files,
        system="\n\n".join(part for part in system if part) or None,
        model=request.model or spec.model,
    )


def _load(attachment: Attachment, agents_own: Path) -> FilePart:
    if attachment.path is None:
        name, content = attachment.name or "", attachment.content or b""
    else:
        name, content = attachment.name or attachment.path.name, _read(attachment.path, agents_own)
    mime = attachment.mime or mimetypes.guess_type(name)[0] or _sniff(content)
    return FilePart(name=name, mime=mime, content=content)


def _read(path: Path, agents_own: Path) -> bytes:
    try:
        with os.fdopen(_open(path, agents_own), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidInput(f"The file {path} cannot be attached: it is no regular file.")
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"The file {path} cannot be attached: {error.strerror}.") from error
    if len(content) > MAX_FILE_BYTES:
        raise InvalidInput(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB; put it into the workspace instead.")
    return content


def _open(path: Path, agents_own: Path) -> int:
    named = path.absolute()
    if named.is_relative_to(agents_own):
        return open_below(agents_own, named.relative_to(agents_own))
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # waits for no pipe


def _sniff(content: bytes) -> str:
    try:
        content[:4096].decode()
    except UnicodeDecodeError as error:
        if error.start < min(len(content), 4096) - 4:
            return "application/octet-stream"
    return "text/plain"
