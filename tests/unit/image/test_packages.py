"""Packages are what was pinned, or there are none."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from cnap_runner.errors import ImageBuildFailed, InsufficientResources
from cnap_runner.image import packages
from cnap_runner.image.cache import cache_dir, locked
from cnap_runner.image.packages import NPM, OPENCODE, Package, fetch, host_platform, opencode_binary

_FETCH = """
import sys
from cnap_runner.image.packages import Package, fetch
print(fetch(Package(*sys.argv[1:])))
"""


def test_every_pin_has_a_whole_checksum() -> None:
    """A pin without 64 bytes of SHA-512 would verify nothing."""
    assert all(len(bytes.fromhex(pin.sha512)) == 64 for pin in [*OPENCODE.values(), NPM])


def test_this_machine_has_a_pin() -> None:
    """The platform's name is a key of the table."""
    assert host_platform() in OPENCODE


def test_a_package_is_fetched_once(package: Package, npm_calls: Path) -> None:
    """The second call is served from the cache, without npm."""
    first = fetch(package)
    assert fetch(package) == first
    assert npm_calls.read_text().split() == ["opencode-test@1.2.3"]


def test_a_wrong_checksum_is_refused_and_leaves_nothing(package: Package, npm_calls: Path, cache: Path) -> None:
    """What the registry gave instead of the pinned tarball is thrown away."""
    other = Package(package.name, package.version, NPM.integrity)
    with pytest.raises(ImageBuildFailed, match="checksum"):
        fetch(other)
    assert list(cache.rglob("*.tgz")) == []
    assert npm_calls.read_text().split() == ["opencode-test@1.2.3"]


def test_a_damaged_file_in_the_cache_is_replaced(package: Package, npm_calls: Path, served: Path) -> None:
    """A tarball that was cut is fetched again, not used."""
    tarball = fetch(package)
    tarball.write_bytes(tarball.read_bytes()[:20])
    assert fetch(package).read_bytes() == served.read_bytes()
    assert len(npm_calls.read_text().split()) == 2


def test_two_processes_at_once_fetch_once(package: Package, npm_calls: Path, served: Path) -> None:
    """One downloads, the other waits for it, and both get the whole file."""
    argv = [sys.executable, "-c", _FETCH, package.name, package.version, package.integrity]
    both = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate()[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert told[0] == told[1]
    assert Path(told[0]).read_bytes() == served.read_bytes()
    assert len(npm_calls.read_text().split()) == 1


def test_the_executable_is_unpacked_and_repaired(
    package: Package, npm_calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program runs; one that was cut is unpacked again, from the cached tarball."""
    monkeypatch.setitem(packages.OPENCODE, host_platform(), package)
    program = opencode_binary()
    program.write_bytes(b"")
    assert opencode_binary() == program
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout == "1.2.3\n"
    assert len(npm_calls.read_text().split()) == 1


def test_without_npm_the_error_names_both_ways(
    package: Package, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither npm on PATH nor its copy from PyPI: one error that says how to get either."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ImageBuildFailed, match=r"Install npm, or its copy on PyPI: `pip install 'cnap-runner\[npm\]'`"):
        fetch(package)


def test_what_npm_says_is_in_the_error(package: Package, npm_calls: Path, served: Path) -> None:
    """A registry that does not answer is told in npm's words."""
    served.unlink()
    assert npm_calls.exists()
    with pytest.raises(ImageBuildFailed, match=r"served\.tgz"):
        fetch(package)


def test_an_unusable_cache_folder_is_named(package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where the cache should be: one error that names the folder and the variable."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("CNAP_RUNNER_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(InsufficientResources, match="CNAP_RUNNER_CACHE_DIR"):
        fetch(package)


def test_the_cache_is_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Own variable first, then the XDG folder, then its default; a relative XDG folder does not count."""
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.setenv("CNAP_RUNNER_CACHE_DIR", "/own")
    assert cache_dir() == Path("/own")
    monkeypatch.delenv("CNAP_RUNNER_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path("/xdg/cnap-runner")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == Path("/somewhere/.cache/cnap-runner")


def test_a_full_disk_is_told_and_other_errors_stay_what_they_are(cache: Path) -> None:
    """Only what is about the folder is called so: an HTTP library's error, which is an OSError too, is not."""
    with pytest.raises(InsufficientResources, match="No space left"), locked(cache / "entry"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(requests.ConnectionError), locked(cache / "entry"):
        raise requests.ConnectionError("engine gone")
