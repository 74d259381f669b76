"""What surrounds every agent of an install."""

from __future__ import annotations

import os
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cnap_runner.model.instance import Layout
from cnap_runner.runner.surroundings import proxy_variables, read_authorities, surroundings
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
    told = surroundings(settings(tmp_path), layout(tmp_path), authorities=None).environment
    assert (told["TZ"], told["LANG"]) == ("UTC", "C.UTF-8")
    told = surroundings(
        settings(tmp_path, timezone="Asia/Tokyo", locale="de_DE.UTF-8"), layout(tmp_path), authorities=None
    ).environment
    assert (told["TZ"], told["LANG"]) == ("Asia/Tokyo", "de_DE.UTF-8")


@pytest.mark.parametrize("name", ["Ada Lovelace", 'A "quoted" \\ name # ; ', "名前"])
def test_git_reads_the_author_as_it_was_written(tmp_path: Path, name: str) -> None:
    """Whatever signs the name has; a repository's own author is stronger."""
    made = surroundings(settings(tmp_path, git_name=name, git_email="a@b.c"), layout(tmp_path), authorities=None)
    (tmp_path / "gitconfig").write_text(made.files["gitconfig"])
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **made.environment}

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
    bundle = read_authorities(settings(tmp_path, ca_file=authority.ca_file))
    assert bundle is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=bundle)
    assert len(context.get_ca_certs()) > 50
    assert any("A company of the tests" in str(found["subject"]) for found in context.get_ca_certs())
    made = surroundings(settings(tmp_path), layout(tmp_path), authorities=bundle)
    assert made.files["ca-certificates.crt"] == bundle
    assert made.environment["SSL_CERT_FILE"] == made.environment["GIT_SSL_CAINFO"] == f"{tmp_path}/ca-certificates.crt"


def test_without_a_ca_file_programs_trust_what_their_image_trusts(tmp_path: Path) -> None:
    """An image with authorities of its own keeps them."""
    assert read_authorities(settings(tmp_path)) is None
    assert "SSL_CERT_FILE" not in surroundings(settings(tmp_path), layout(tmp_path), authorities=None).environment
