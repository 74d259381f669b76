"""What surrounds every agent of an install."""

from __future__ import annotations

import os
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cnap_runner.model.instance import Layout
from cnap_runner.runner.provisioning.surroundings import proxy_variables, surrounding_environment, surrounding_files
from cnap_runner.settings import Settings


def settings(tmp_path: Path, **values: Any) -> Settings:
    return Settings(data_dir=tmp_path, **values)


def layout(folder: Path) -> Layout:
    return Layout(workspace="/w", state="/state", home="/home", settings=str(folder), secrets="/secrets")


def test_a_proxy_is_named_in_capitals_and_in_small_letters(tmp_path: Path) -> None:
    """curl reads only small letters, others only capitals."""
    named = proxy_variables(
        settings(tmp_path, http_proxy="http://p:1", https_proxy="http://p:2", no_proxy="git.corp, .lan")
    )
    direct = "git.corp,.lan,localhost,127.0.0.1,::1,host.docker.internal"
    expected = {"http_proxy": "http://p:1", "https_proxy": "http://p:2", "no_proxy": direct}
    assert named == expected | {name.upper(): value for name, value in expected.items()}


def test_without_a_proxy_nothing_is_said_of_any(tmp_path: Path) -> None:
    """A variable without a proxy would only make programs wonder."""
    assert proxy_variables(settings(tmp_path, no_proxy="git.corp")) == {}


def test_time_zone_and_locale_are_always_told(tmp_path: Path) -> None:
    """An image's own never decides."""
    told = surrounding_environment(settings(tmp_path), layout(tmp_path))
    assert (told["TZ"], told["LANG"]) == ("UTC", "C.UTF-8")
    told = surrounding_environment(settings(tmp_path, timezone="Asia/Tokyo", locale="de_DE.UTF-8"), layout(tmp_path))
    assert (told["TZ"], told["LANG"]) == ("Asia/Tokyo", "de_DE.UTF-8")


@pytest.mark.parametrize("name", ["Ada Lovelace", 'A "quoted" \\ name # ; ', "名前"])
def test_git_reads_the_author_as_it_was_written(tmp_path: Path, name: str) -> None:
    """Whatever signs the name has; a repository's own author is stronger."""
    with_author = settings(tmp_path, git_name=name, git_email="a@b.c")
    (tmp_path / "gitconfig").write_text(surrounding_files(with_author)["gitconfig"])
    variables = surrounding_environment(with_author, layout(tmp_path))
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **variables}

    def git(*argv: str) -> str:
        done = subprocess.run(["git", *argv], cwd=tmp_path, env=environment, capture_output=True, check=True)
        return done.stdout.decode().rstrip("\n")

    git("init", "-q")
    assert git("config", "user.name") == name
    assert git("config", "safe.directory") == "*"
    git("config", "user.name", "of this repository")
    assert git("config", "user.name") == "of this repository"


def test_authorities_are_added_to_the_usual_ones(tmp_path: Path, authority: Any) -> None:
    """One file that every program is pointed to: it replaces what the program trusted before."""
    told = settings(tmp_path, ca_file=authority.ca_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=surrounding_files(told)["ca-certificates.crt"])
    assert len(context.get_ca_certs()) > 50
    assert any("A company of the tests" in str(found["subject"]) for found in context.get_ca_certs())
    variables = surrounding_environment(told, layout(tmp_path))
    assert variables["SSL_CERT_FILE"] == variables["GIT_SSL_CAINFO"] == f"{tmp_path}/ca-certificates.crt"


def test_without_a_ca_file_programs_trust_what_their_image_trusts(tmp_path: Path) -> None:
    """An image with authorities of its own keeps them."""
    assert list(surrounding_files(settings(tmp_path))) == ["gitconfig"]
    assert "SSL_CERT_FILE" not in surrounding_environment(settings(tmp_path), layout(tmp_path))
