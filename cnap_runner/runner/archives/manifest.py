"""What an archive says of itself: its first member."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import ConfigDict, Field

from cnap_runner.errors import ArchiveInvalid, InvalidInput
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.edge import EdgeModel
from cnap_runner.model.ids import TaskId

FORMAT = 2
"""Counts up with each change that an older version cannot read. Since 2 the checksum covers the manifest."""

MANIFEST = "manifest.json"
END = "end.json"
"""The last member: without it an archive is cut short."""

MAX_MANIFEST = 16 << 20
"""Bytes. A spec may hold files of its own."""

MAX_NAME = 4000
"""Longest name of a member, in characters."""

TREES: tuple[Literal["workspace", "state", "home"], ...] = ("workspace", "state", "home")


class Manifest(EdgeModel):
    """What an archive holds. Fields that a later version adds without need are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int
    agent: dict[str, Any]
    """The spec; secrets by reference only."""
    tasks: dict[TaskId, Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,200}$")]] = Field(default_factory=dict)
    """Task → OpenCode's session."""
    needs: dict[str, str] = Field(default_factory=dict)
    """Name of a secret that the agent uses → where it came from. Its value is not in the archive."""
    trees: tuple[Literal["workspace", "state", "home"], ...] = TREES
    """The folders it holds."""
    files: int = Field(0, ge=0)
    """Files, folders and links, counted before they were written."""
    size_bytes: int = Field(0, ge=0)
    """Their contents' size, likewise: for progress, and to refuse early what does not fit."""
    workspace_path: str
    """Where the agent's sessions believe their workspace to be."""
    opencode_version: str
    package_version: str
    made_at: datetime

    @property
    def spec(self) -> AgentSpec:
        """The spec. Raises `ArchiveInvalid` where this version cannot read it."""
        try:
            return AgentSpec.parse(self.agent)
        except (InvalidInput, TypeError) as error:
            raise ArchiveInvalid(f"The archive's agent cannot be used here: {error}") from error

    def to_json(self) -> bytes:
        """Write it down."""
        return self.model_dump_json(indent=2).encode()


class Entry(NamedTuple):
    """One member of an archive, as far as it counts."""

    name: str
    kind: str
    """``file``, ``folder`` or ``link``."""
    mode: int
    size: int
    target: str = ""
    """Of a link."""


class Tally:
    """Counts and sums up what goes by, so that the end can tell whether all of it came. ``head``: the manifest, which is summed up first."""

    def __init__(self, head: bytes = b"") -> None:
        self.files = 0
        self.bytes = 0
        self._digest = hashlib.sha256(head)

    def begin(self, entry: Entry) -> None:
        """Count a member; a file's contents follow."""
        self.files += 1
        self._digest.update(repr(tuple(entry)).encode("utf-8", "surrogateescape"))

    def add(self, data: bytes) -> None:
        """Count a piece of a file."""
        self.bytes += len(data)
        self._digest.update(data)

    def to_json(self) -> bytes:
        """Write down what the last member says."""
        return json.dumps({"files": self.files, "bytes": self.bytes, "sha256": self._digest.hexdigest()}).encode()


def manifest_from(data: bytes) -> Manifest:
    """Read a manifest. Raises `ArchiveInvalid`; one of a newer format is told apart before anything else is read."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArchiveInvalid("The archive's manifest is not JSON.") from error
    found = values.get("format") if isinstance(values, Mapping) else None
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise ArchiveInvalid("This is no archive of an agent.", hint="`cnap-runner export AGENT` makes one.")
    if found > FORMAT:
        raise ArchiveInvalid(
            f"The archive has format {found}, and this version reads up to {FORMAT}.", hint="Upgrade cnap-runner."
        )
    try:
        return Manifest.parse(dict(values))
    except InvalidInput as error:
        raise ArchiveInvalid(f"The archive's manifest cannot be read: {error.message}") from error


def check_name(name: str) -> PurePosixPath:
    """Return a member's name as a path below one of the trees. Raises `ArchiveInvalid` for one that leads elsewhere."""
    parts = name.split("/")
    if parts[0] not in TREES or any(part in {"", ".", ".."} for part in parts) or "\0" in name or len(name) > MAX_NAME:
        raise ArchiveInvalid(f"The archive holds {name[:200]!r}, which belongs nowhere in an agent's folders.")
    return PurePosixPath(name)
