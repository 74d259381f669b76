"""What a scripted model remembers of the requests it got, in memory and, for tests that kill processes, in a file."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import anyio.to_thread


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request that asked for a reply. The key it came with is not kept."""

    at: datetime
    model: str
    prompt: str
    """The last user message."""
    session_id: str | None
    """OpenCode's session; None from a client that does not say."""
    number: int
    """Which request of its turn this is; 0 is the one that brought the prompt."""
    attempt: int
    """How often this same request has come; 1 is the first time, more are retries."""
    is_title: bool
    """Whether OpenCode asks for a title of the session. Its text is no prompt of the user's."""

    @property
    def is_prompt(self) -> bool:
        """Whether this request brought a new prompt: no title, no tool results, no retry."""
        return not self.is_title and self.number == 0 and self.attempt == 1


class RequestLog:
    """The requests in the order they came. With a path, each is also appended to that file as a line of JSON before it is answered."""

    def __init__(self, path: Path | None = None) -> None:
        self.requests: list[RecordedRequest] = []
        self._path = path
        self._attempts: dict[tuple[str | None, str], int] = {}

    def count_attempt(self, session_id: str | None, fingerprint: str) -> int:
        """Count this request; returns how often it has come, this time included."""
        key = (session_id, fingerprint)
        self._attempts[key] = self._attempts.get(key, 0) + 1
        return self._attempts[key]

    async def add(self, request: RecordedRequest) -> None:
        """Remember a request."""
        self.requests.append(request)
        if self._path is not None:
            line = json.dumps({**asdict(request), "at": request.at.isoformat()}) + "\n"
            await anyio.to_thread.run_sync(_append, self._path, line)


def read_log(path: Path) -> list[RecordedRequest]:
    """The requests in a log file, the oldest first; none where the file is not there yet."""
    if not path.exists():
        return []
    entries = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [RecordedRequest(**{**entry, "at": datetime.fromisoformat(entry["at"])}) for entry in entries]


def now() -> datetime:
    """The present time, aware."""
    return datetime.now(UTC)


def _append(path: Path, line: str) -> None:
    """One write of the whole line, so that several processes may share a file and a reader never sees half a line."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)
