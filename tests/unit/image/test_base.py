"""Which base an image is built on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import docker
import docker.errors
import pytest

from cnap_runner.errors import ImageBuildFailed
from cnap_runner.image import base
from cnap_runner.image.base import LOCAL_BASE, PUBLIC_BASE, choose_base
from cnap_runner.image.cache import cache_dir
from cnap_runner.image.packages import silent

PLATFORM = "linux/amd64"


@dataclass(frozen=True)
class EngineWith:
    """An engine that has these images and no others."""

    images: frozenset[str]

    def inspect_image(self, name: str) -> dict[str, Any]:
        if name not in self.images:
            raise docker.errors.ImageNotFound(name)
        return {"Os": "linux", "Architecture": "amd64"}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was made or pulled; pulls fail, root is given, and the machine is the engine's."""
    done: list[str] = []

    def refuse(name: str, *_args: Any, **_kwargs: Any) -> None:
        done.append(f"pull {name}")
        raise ImageBuildFailed("no such\nhost")

    monkeypatch.setattr(base, "pull", refuse)
    monkeypatch.setattr(base, "make_debian_base", lambda *_args, **_kwargs: done.append("debootstrap"))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    cache_dir().mkdir(parents=True)
    return done


def choose(*images: str, is_fresh: bool = False, lines: list[str] | None = None) -> str:
    engine = cast("docker.APIClient", EngineWith(frozenset(images)))
    told = lines.append if lines is not None else silent
    return choose_base(engine, engine_platform=PLATFORM, is_fresh=is_fresh, environment={}, progress=told)


def test_the_public_base_is_used_without_asking_a_registry_where_the_engine_has_it(made: list[str]) -> None:
    """No pull where the image is there."""
    assert choose(PUBLIC_BASE) == PUBLIC_BASE
    assert made == []


def test_a_pull_that_fails_leads_to_a_base_made_here_and_says_so_in_one_line(made: list[str]) -> None:
    """The line names what could not be had, why, and what is used."""
    lines: list[str] = []
    assert choose(lines=lines) == LOCAL_BASE
    assert made == [f"pull {PUBLIC_BASE}", "debootstrap"]
    assert lines == [f"{PUBLIC_BASE} cannot be pulled (no such host): using a Debian base made here"]


def test_a_base_made_before_is_used_again(made: list[str]) -> None:
    """debootstrap does not run twice."""
    assert choose(LOCAL_BASE) == LOCAL_BASE
    assert made == [f"pull {PUBLIC_BASE}"]


def test_a_fresh_base_is_pulled_or_made_anew(made: list[str]) -> None:
    """What the engine has does not count then."""
    assert choose(PUBLIC_BASE, LOCAL_BASE, is_fresh=True) == LOCAL_BASE
    assert made == [f"pull {PUBLIC_BASE}", "debootstrap"]


def test_without_root_the_error_says_what_to_do(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """debootstrap needs root; nobody is left with a failed chroot."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ImageBuildFailed, match=r"needs root\. Build as root once"):
        choose()
    assert choose(LOCAL_BASE) == LOCAL_BASE
    assert "debootstrap" not in made


def test_another_architecture_is_never_made_here(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A base of the host's architecture would not fit the platform asked for."""
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(ImageBuildFailed, match="cannot be pulled for linux/amd64"):
        choose(LOCAL_BASE)
    assert "debootstrap" not in made
