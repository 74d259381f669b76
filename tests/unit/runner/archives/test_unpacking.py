"""Archives that anybody may have made: nothing of them gets where it should not."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cnap_runner.errors import ArchiveInvalid
from cnap_runner.runner.archives.listener import ArchiveListener
from cnap_runner.runner.archives.manifest import END, MANIFEST, Entry, Manifest, Tally
from cnap_runner.runner.archives.packing import Stopped
from cnap_runner.runner.archives.reading import read_manifest
from cnap_runner.runner.archives.unpacking import Target, unpack

MIB = 1 << 20

Member = tuple[tarfile.TarInfo, bytes]


class Heard(ArchiveListener):
    """What was said."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def on_warning(self, text: str) -> None:
        self.warnings.append(text)


def file(name: str, data: bytes = b"x", **fields: Any) -> Member:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    for field, value in fields.items():
        setattr(member, field, value)
    return member, data


def folder(name: str, mode: int = 0o755) -> Member:
    return file(name, b"", type=tarfile.DIRTYPE, mode=mode)


def link(name: str, to: str) -> Member:
    return file(name, b"", type=tarfile.SYMTYPE, linkname=to)


def manifest(**fields: Any) -> bytes:
    values: dict[str, Any] = {
        "format": 1,
        "agent": {"agent_id": "alice", "model": "fake/demo"},
        "workspace_path": "/workspace",
        "opencode_version": "1.0.0",
        "package_version": "0.1.0",
        "made_at": datetime.now(UTC).isoformat(),
    }
    return json.dumps(values | fields).encode()


def end_of(members: list[Member], head: bytes = b"") -> bytes:
    tally = Tally(head)
    kinds = {tarfile.DIRTYPE: "folder", tarfile.SYMTYPE: "link"}
    for member, data in members:
        kind = kinds.get(member.type, "file")
        tally.begin(Entry(member.name, kind, member.mode, len(data), member.linkname if kind == "link" else ""))
        tally.add(data)
    return tally.to_json()


def archive(tmp_path: Path, *members: Member, head: bytes | None = None, tail: bytes | None = None) -> Path:
    """An archive as ours are, around these members."""
    path = tmp_path / "agent.tar.gz"
    everything = [
        file(MANIFEST, manifest() if head is None else head),
        *members,
        *([] if tail == b"" else [file(END, end_of(list(members)) if tail is None else tail)]),
    ]
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as made:
        for member, data in everything:
            made.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def target(tmp_path: Path) -> Target:
    trees = {name: tmp_path / "target" / name for name in ("workspace", "state", "home")}
    for path in trees.values():
        path.mkdir(parents=True)
    return Target(trees, None, max_bytes=10 * MIB)


@pytest.fixture
def unpacked(target: Target, heard: Heard) -> Callable[[Path], Path]:
    def run(path: Path) -> Path:
        unpack(path, target, listener=heard, should_stop=lambda: False)
        return target.trees["workspace"].parent

    return run


def everything_below(path: Path) -> set[str]:
    return {str(each.relative_to(path)) for each in path.rglob("*")}


def test_what_was_packed_is_there(tmp_path: Path, unpacked: Callable[[Path], Path]) -> None:
    """Files, folders, links, modes."""
    root = unpacked(
        archive(
            tmp_path,
            folder("workspace"),
            file("workspace/run.sh", b"echo hi", mode=0o755),
            folder("workspace/read-only", mode=0o555),
            file("workspace/read-only/a.txt", b"a", mode=0o400),
            link("workspace/to-a", "read-only/a.txt"),
            folder("state"),
            file("state/opencode.db", b"data"),
        )
    )
    assert (root / "workspace" / "run.sh").read_bytes() == b"echo hi"
    assert (root / "workspace" / "run.sh").stat().st_mode & 0o7777 == 0o755
    assert (root / "workspace" / "to-a").read_bytes() == b"a"
    assert (root / "workspace" / "read-only").stat().st_mode & 0o7777 == 0o755
    assert (root / "state" / "opencode.db").read_bytes() == b"data"


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../outside",
        "workspace/../../outside",
        "workspace/./x",
        "workspace//x",
        "elsewhere/x",
        "settings/opencode.json",
        "workspace/" + "x/" * 3000 + "y",
    ],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, unpacked: Callable[[Path], Path], name: str) -> None:
    """Nothing is written outside of the three trees."""
    with pytest.raises(ArchiveInvalid):
        unpacked(archive(tmp_path, folder("workspace"), file(name)))
    assert not (tmp_path / "outside").exists()
    assert everything_below(tmp_path / "target") == {"workspace", "state", "home"}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (tarfile.LNKTYPE, {"linkname": "workspace/a"}),
        (tarfile.LNKTYPE, {"linkname": "/etc/passwd"}),
        (tarfile.CHRTYPE, {"devmajor": 1, "devminor": 5}),
        (tarfile.BLKTYPE, {"devmajor": 8}),
        (tarfile.FIFOTYPE, {}),
        (tarfile.CONTTYPE, {}),
        (tarfile.GNUTYPE_SPARSE, {}),
    ],
)
def test_kinds_that_no_agent_needs_are_refused(
    tmp_path: Path, unpacked: Callable[[Path], Path], kind: bytes, fields: dict[str, Any]
) -> None:
    """Hard links, devices, pipes and sparse files do not come in."""
    with pytest.raises(ArchiveInvalid):
        unpacked(
            archive(tmp_path, folder("workspace"), file("workspace/a"), file("workspace/b", b"", type=kind, **fields))
        )
    assert not (tmp_path / "target" / "workspace" / "b").exists()


def test_a_sparse_file_in_the_newer_format_is_refused(tmp_path: Path, unpacked: Callable[[Path], Path]) -> None:
    """A header of a few bytes must not become terabytes."""
    hollow, data = file(
        "workspace/hollow",
        b"0\n",
        pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 42)},
    )
    with pytest.raises(ArchiveInvalid):
        unpacked(archive(tmp_path, folder("workspace"), (hollow, data.ljust(512, b"\0"))))


def test_map_of_a_sparse_file_is_not_read(tmp_path: Path, unpacked: Callable[[Path], Path]) -> None:
    """Its length is what the archive says, and it would be in memory as a whole: it is refused before a number of it is read."""
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    endless = file("workspace/hollow", b"9999999999\n" + b"1\n" * (1 << 20), pax_headers=sparse)
    with pytest.raises(ArchiveInvalid, match="a sparse file"):
        unpacked(archive(tmp_path, folder("workspace"), endless))


def test_links_can_be_stopped(tmp_path: Path, target: Target, heard: Heard) -> None:
    """Finding out where links lead may take long; whoever cancels an import is heard there too."""
    looks = iter([False] * 4)
    many = [link(f"workspace/{number}", "x") for number in range(3)]
    with pytest.raises(Stopped):
        unpack(archive(tmp_path, *many), target, listener=heard, should_stop=lambda: next(looks, True))


def test_nothing_is_written_through_a_link(tmp_path: Path, unpacked: Callable[[Path], Path]) -> None:
    """A link is made after everything else, so no name in the archive can lead over it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    with pytest.raises(ArchiveInvalid):
        unpacked(archive(tmp_path, folder("workspace"), link("workspace/out", str(outside)), file("workspace/out/x")))
    assert list(outside.iterdir()) == []


def test_the_same_name_twice_is_refused(tmp_path: Path, unpacked: Callable[[Path], Path]) -> None:
    """The second could replace what was looked at before."""
    for second in (file("workspace/a"), link("workspace/a", "b"), folder("workspace/a")):
        with pytest.raises(ArchiveInvalid):
            unpacked(archive(tmp_path, file("workspace/a"), second))
        (tmp_path / "target" / "workspace" / "a").unlink()


def test_links_that_lead_out_are_not_made_and_are_named(
    tmp_path: Path, unpacked: Callable[[Path], Path], heard: Heard
) -> None:
    """Whoever works in the workspace on the host does not stumble over them; even where they lead out over others."""
    root = unpacked(
        archive(
            tmp_path,
            folder("workspace"),
            folder("workspace/p"),
            folder("workspace/p/q"),
            link("workspace/absolute", "/etc/passwd"),
            link("workspace/climbs", "../../../etc"),
            link("workspace/over", "p/q/up/.."),
            link("workspace/p/q/up", "../.."),
            link("workspace/loop", "loop"),
            link("workspace/fine", "p/q"),
        )
    )
    assert everything_below(root / "workspace") == {"p", "p/q", "p/q/up", "loop", "fine"}
    assert [warning.split("'")[1] for warning in heard.warnings] == [
        "workspace/absolute",
        "workspace/climbs",
        "workspace/over",
    ]


def test_modes_that_give_rights_away_are_not_taken_over(tmp_path: Path, unpacked: Callable[[Path], Path]) -> None:
    """No setuid, no setgid, and nothing that everybody may write to."""
    root = unpacked(
        archive(tmp_path, folder("workspace", 0o7777), file("workspace/a", mode=0o6777), folder("workspace/d", 0o3777))
    )
    assert (root / "workspace" / "a").stat().st_mode & 0o7777 == 0o755
    assert (root / "workspace" / "d").stat().st_mode & 0o7777 == 0o755


def test_owners_in_the_archive_count_for_nothing(tmp_path: Path, unpacked: Callable[[Path], Path]) -> None:
    """Files belong to the agent's user of this host."""
    root = unpacked(archive(tmp_path, folder("workspace"), file("workspace/a", uid=4242, gid=4242, uname="root")))
    assert (root / "workspace" / "a").stat().st_uid == os.geteuid()


def test_more_than_is_allowed_is_refused_while_it_is_unpacked(tmp_path: Path, unpacked: Callable[[Path], Path]) -> None:
    """What an archive says of its size is not believed, and a bomb ends at the bound."""
    bomb = [file(f"workspace/{index}", bytes(MIB)) for index in range(11)]
    path = archive(tmp_path, folder("workspace"), *bomb)
    assert path.stat().st_size < MIB
    with pytest.raises(ArchiveInvalid, match="more than 10 MiB"):
        unpacked(path)


def test_a_header_cannot_take_the_memory(tmp_path: Path, unpacked: Callable[[Path], Path]) -> None:
    """The library would read an extended header of any size as a whole."""
    path = tmp_path / "agent.tar.gz"
    long = tarfile.TarInfo("x")
    long.type, long.size = tarfile.XHDTYPE, 1 << 40
    with gzip.open(path, "wb") as raw:
        raw.write(long.tobuf(tarfile.GNU_FORMAT))
        raw.write(bytes(MIB))
    with pytest.raises(ArchiveInvalid):
        unpacked(path)


@pytest.mark.parametrize("tail", [b"", b'{"files": 1, "bytes": 1, "sha256": ""}'])
def test_an_archive_that_is_cut_or_changed_is_refused(
    tmp_path: Path, unpacked: Callable[[Path], Path], tail: bytes
) -> None:
    """Half of an agent is none."""
    with pytest.raises(ArchiveInvalid):
        unpacked(archive(tmp_path, folder("workspace"), file("workspace/a"), tail=tail))


def test_a_changed_manifest_is_found(tmp_path: Path, unpacked: Callable[[Path], Path]) -> None:
    """The checksum covers what the archive says of itself, too."""
    members = [folder("workspace"), file("workspace/a")]
    head = manifest(format=2)
    unpacked(archive(tmp_path, *members, head=head, tail=end_of(members, head)))
    (tmp_path / "target" / "workspace" / "a").unlink()
    with pytest.raises(ArchiveInvalid, match="not what was packed"):
        unpacked(archive(tmp_path, *members, head=head.replace(b"fake/demo", b"fake/evil"), tail=end_of(members, head)))


@pytest.mark.parametrize("where", [0.5, 0.98])
def test_a_flipped_byte_is_damage_and_no_trouble_with_writing(
    tmp_path: Path, unpacked: Callable[[Path], Path], where: float
) -> None:
    """gzip's own complaint is an OSError, and so is that of a full disk: they are told apart."""
    path = archive(tmp_path, folder("workspace"), file("workspace/a", os.urandom(3 * MIB)))
    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ArchiveInvalid):
        unpacked(path)


@pytest.mark.parametrize(
    "rest", [b"more", gzip.compress(b"more"), gzip.compress(bytes(3 * MIB))], ids=["text", "gzip", "zeros"]
)
def test_what_follows_the_end_is_refused(tmp_path: Path, unpacked: Callable[[Path], Path], rest: bytes) -> None:
    """Nothing is carried along behind the last member; so the file's own checksum, which stands last, is read."""
    path = archive(tmp_path, folder("workspace"))
    path.write_bytes(path.read_bytes() + rest)
    with pytest.raises(ArchiveInvalid):
        unpacked(path)


def test_a_torn_file_is_refused(tmp_path: Path, unpacked: Callable[[Path], Path]) -> None:
    """A copy that did not finish, wherever it broke off."""
    path = archive(tmp_path, folder("workspace"), file("workspace/a", os.urandom(50_000)))
    whole = path.read_bytes()
    for length in (0, 5, 200, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:length])
        with pytest.raises(ArchiveInvalid):
            unpacked(path)
        (tmp_path / "target" / "workspace" / "a").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"not json", "not JSON"),
        (b"[]", "no archive"),
        (manifest(format=3), "Upgrade"),
        (manifest(format=0), "no archive"),
        (manifest(format="1"), "no archive"),
        (manifest(tasks={"../x": "ses"}), "cannot be read"),
        (manifest(tasks={"main": "../../x"}), "cannot be read"),
        (manifest(trees=["workspace", "../../x"]), "cannot be read"),
        (manifest(agent={"agent_id": "../x", "model": "a/b"}), "cannot be used"),
        (manifest(agent={"agent_id": "x", "model": "a/b", "nope": 1}), "no such field"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_manifest_that_cannot_be_believed_is_refused(tmp_path: Path, head: bytes, said: str) -> None:
    """A newer format is told apart from damage, and from something else altogether."""
    with pytest.raises(ArchiveInvalid, match=said):
        assert read_manifest(archive(tmp_path, head=head)).spec.agent_id


def test_what_a_later_version_adds_is_passed_over(tmp_path: Path) -> None:
    """A field more is no new format."""
    found = read_manifest(archive(tmp_path, head=manifest(later="field")))
    assert isinstance(found, Manifest)
    assert found.spec.agent_id == "alice"


@pytest.mark.parametrize("contents", [b"", b"text", gzip.compress(b"no tar"), gzip.compress(bytes(4096))])
def test_any_other_file_is_refused(tmp_path: Path, contents: bytes) -> None:
    """Whatever is named is not opened as an archive by force."""
    path = tmp_path / "other"
    path.write_bytes(contents)
    with pytest.raises(ArchiveInvalid):
        read_manifest(path)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    """A wrong path and a folder are no damage."""
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ArchiveInvalid, match="cannot be read"):
            read_manifest(path)
