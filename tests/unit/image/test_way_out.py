"""How a build reaches the world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cnap_runner.image.context import BuildInputs
from cnap_runner.image.packages import Package, fetch
from cnap_runner.image.way_out import WayOut
from cnap_runner.settings import Settings


def way(tmp_path: Path, **values: Any) -> WayOut:
    return WayOut.of(Settings(data_dir=tmp_path, **values))


@pytest.fixture(autouse=True)
def _no_proxies_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "ftp_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_the_settings_proxies_win_over_the_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own serve where the settings are silent."""
    monkeypatch.setenv("HTTP_PROXY", "http://machine:1")
    monkeypatch.setenv("https_proxy", "http://machine:2")
    chosen = way(tmp_path, http_proxy="http://company:3")
    assert chosen.build_arguments() == {"http_proxy": "http://company:3", "https_proxy": "http://machine:2"}
    assert chosen.environment()["HTTP_PROXY"] == chosen.environment()["http_proxy"] == "http://company:3"


def test_a_proxy_on_loopback_does_not_reach_into_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs here use it; inside of a build that address is the build's own."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:3128")
    assert way(tmp_path).build_arguments() == {}
    assert way(tmp_path).environment()["http_proxy"] == "http://127.0.0.1:3128"


def test_packages_are_fetched_the_way_the_settings_say(
    tmp_path: Path, package: Package, npm_calls: Path, authority: Any
) -> None:
    """npm gets the proxy and the authorities."""
    npm = npm_calls.parent / "bin" / "npm"
    told = tmp_path / "told"
    npm.write_text(npm.read_text() + f'echo "$https_proxy $NODE_EXTRA_CA_CERTS" >{told}\n')
    fetch(package, way=way(tmp_path, https_proxy="http://company:3", ca_file=authority.ca_file))
    assert told.read_text().split() == ["http://company:3", str(authority.ca_file)]


def test_another_authority_makes_another_image(tmp_path: Path, package: Package, authority: Any) -> None:
    """An image trusts what the settings named when it was built, so it is not current when they name another."""
    trusted = way(tmp_path, ca_file=authority.ca_file).certificates()
    assert trusted == (authority.ca_file.read_text(),)
    plain = BuildInputs(files=tmp_path, opencode=package, npm=package, base="any")
    assert BuildInputs(tmp_path, package, package, "any", trusted).digest() != plain.digest()
