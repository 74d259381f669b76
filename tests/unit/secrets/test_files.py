"""``file:``: what is read, and what is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cnap_runner.errors import SecretUnavailable
from cnap_runner.secrets.files import LARGEST_FILE, FileSource


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "outside").write_text("outside")
    return tmp_path / "secrets"


@pytest.mark.parametrize(
    ("text", "value"),
    [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a\r", "a\r"), (" a \n", " a "), ("", "")],
)
def test_one_line_end_at_the_end_is_not_part_of_the_secret(folder: Path, text: str, value: str) -> None:
    """Editors add one; nothing else is changed."""
    (folder / "token").write_bytes(text.encode())
    assert FileSource(folder).get("token") == value


def test_an_absolute_path_is_read_wherever_it_is(folder: Path) -> None:
    """Whoever writes the spec names a file of the manager's side."""
    assert FileSource(folder).get(str(folder.parent / "outside")) == "outside"


def test_links_inside_of_the_folder_are_followed(folder: Path) -> None:
    """Kubernetes lays files as links into a dated folder."""
    (folder / "..2026").mkdir()
    (folder / "..2026" / "token").write_text("dated")
    (folder / "..data").symlink_to("..2026")
    (folder / "token").symlink_to("..data/token")
    assert FileSource(folder).get("token") == "dated"


@pytest.mark.parametrize("name", ["../outside", "sub/../../outside", "link", "."])
def test_a_name_does_not_lead_out_of_the_folder(folder: Path, name: str) -> None:
    """Neither by its text nor by a link."""
    (folder / "link").symlink_to(folder.parent / "outside")
    with pytest.raises(SecretUnavailable, match="is not below"):
        FileSource(folder).get(name)


def test_only_plain_files_of_a_sensible_size_are_read(folder: Path) -> None:
    """A folder, a pipe (which would keep its reader waiting), a device, a whole image, bytes that are no text."""
    (folder / "sub").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "large").write_bytes(b"x" * (LARGEST_FILE + 1))
    (folder / "bytes").write_bytes(b"\xff\xfe")
    source = FileSource(folder)
    for name, why in (
        ("sub", "no plain file"),
        ("pipe", "no plain file"),
        ("/dev/zero", "no plain file"),
        ("large", "more than"),
        ("bytes", "not UTF-8"),
        ("missing", "cannot be read"),
    ):
        with pytest.raises(SecretUnavailable, match=why):
            source.get(name)
