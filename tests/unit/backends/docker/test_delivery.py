"""Which archives of secrets are handed to a container that runs."""

from __future__ import annotations

import io
import tarfile

import pytest

from cnap_runner.backends.docker.delivery import check_archive
from cnap_runner.errors import InvalidInput
from cnap_runner.testing.backend_harness import secrets


def test_plain_files_are_handed_over() -> None:
    """As they are made for a start."""
    check_archive(secrets(token="value"))


@pytest.mark.parametrize("name", ["../token", "/etc/token", "folder/token", ".new"])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    """Whoever fills the archive cannot name what is outside of the folder, nor what is there in passing."""
    with pytest.raises(InvalidInput, match="no plain file"):
        check_archive(secrets(**{name: "value"}))


def test_links_are_refused() -> None:
    """A link would lead elsewhere under a plain name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("token")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)

    with pytest.raises(InvalidInput, match="no plain file"):
        check_archive(buffer.getvalue())
