"""A workspace that both the agent and the host's user can work in.

Where the manager is an ordinary user, the agent has its uid and nothing is to be done. Where it is root, the agent is uid 10000, and what
others put into the workspace would be theirs alone. So the folder carries a default access list (acl(5)) with the agent and the host's
user: what is made in it with the usual modes (editors, shells, git) is writable for both. A file copied with its own narrow mode
(``cp`` of 0644) is not; those are given to the agent by `give_all`. All functions block.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import struct
from collections.abc import Callable, Collection
from pathlib import Path

from cnap_runner.model.workspace import Mended
from cnap_runner.runner.workspaces.confined import Step, Walk, opened_folder, path_of_pin, pinned

Owner = tuple[int, int]

MOST_AT_ONCE = 1000
"""Names directly in a workspace that a start looks at; more are left to `give_all`."""

_VERSION = 2
_NOBODY = 0xFFFFFFFF
_OWNER, _USER, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
_ALL, _LOOK = 0o7, 0o5


def host_user(data_dir: Path) -> int:
    """Tell who works with the workspaces on the host: the owner of the data folder."""
    return data_dir.stat().st_uid


def share(folder: int, users: Collection[int]) -> bool:
    """Let these users write to an open folder and what will be made in it; false where its file system knows no access lists."""
    entries = [(_OWNER, _ALL, _NOBODY), *((_USER, _ALL, user) for user in sorted(users))]
    entries += [(_GROUP, _LOOK, _NOBODY), (_MASK, _ALL, _NOBODY), (_OTHER, _LOOK, _NOBODY)]
    wanted = struct.pack("<I", _VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        for name in ("system.posix_acl_default", "system.posix_acl_access"):
            with contextlib.suppress(OSError):
                if os.getxattr(folder, name) == wanted:
                    continue
            os.setxattr(folder, name, wanted)
    except OSError:  # EOPNOTSUPP, or no right to; `give_all` is left
        return False
    return True


def give_top(workspace: Path, owner: Owner) -> Mended:
    """Give the agent what root put directly into its workspace; what is deeper is left to `give_all`. Cheap."""
    given = Mended()
    with opened_folder(workspace) as top, os.scandir(top) as entries:
        for entry in itertools.islice(entries, MOST_AT_ONCE):
            with contextlib.suppress(FileNotFoundError):
                given = _add(given, _give(entry.name, top, owner, is_meant=lambda status: status.st_uid == 0))
    return given


def give_all(workspace: Path, owner: Owner, users: Collection[int]) -> Mended:
    """Give the agent all of its workspace, and share each folder in it. Safe while the agent works, and repeatable."""
    given = Mended()
    with opened_folder(workspace) as top:
        for found in Walk(top):
            if found.step is Step.FILE:
                with contextlib.suppress(FileNotFoundError):
                    given = _add(given, _give(found.name, found.folder, owner, is_meant=lambda _: True))
            elif found.step is Step.ENTER:
                if (found.status.st_uid, found.status.st_gid) != owner:
                    os.fchown(found.folder, *owner)
                    given = _add(given, Mended(count=1))
                share(found.folder, users)
    return given


def _give(name: str, folder: int, owner: Owner, *, is_meant: Callable[[os.stat_result], bool]) -> Mended:
    """Give one file, link or folder to the agent. It is pinned first: a name may mean something else a moment later."""
    with pinned(name, folder) as pin:
        status = os.fstat(pin)
        if (status.st_uid, status.st_gid) == owner or not is_meant(status):
            return Mended()
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            return Mended(left=1)
        os.chown(path_of_pin(pin), *owner)
        return Mended(count=1)


def _add(one: Mended, other: Mended) -> Mended:
    return Mended(one.count + other.count, one.left + other.left)
