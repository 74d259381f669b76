"""What decides that an image is current, and what is sent to the builder."""

from __future__ import annotations

import io
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from cnap_runner.errors import InvalidInput
from cnap_runner.image.assets import config_templates, runner_files
from cnap_runner.image.build import opencode_for
from cnap_runner.image.context import BuildInputs
from cnap_runner.image.packages import NPM, OPENCODE, Package


@pytest.fixture
def inputs(package: Package, tmp_path: Path) -> BuildInputs:
    files = tmp_path / "files"
    shutil.copytree(runner_files(), files)
    return BuildInputs(files=files, opencode=package, npm=replace(package, name="npm-test"), base="linux/amd64 default")


def test_the_hash_stays_while_nothing_changes(inputs: BuildInputs) -> None:
    """A second build of the same is skipped."""
    assert inputs.digest() == replace(inputs).digest()


def test_the_hash_changes_with_each_input(inputs: BuildInputs) -> None:
    """Another pin, another base and another script each make another image."""
    before = inputs.digest()
    others = [
        replace(inputs, opencode=OPENCODE["linux-arm64"]),
        replace(inputs, npm=NPM),
        replace(inputs, base="linux/amd64 sha256:1"),
    ]
    digests = {other.digest() for other in others}
    (inputs.files / "entrypoint").write_text("#!/bin/sh\n")
    assert len({before, inputs.digest(), *digests}) == 5


def test_the_context_holds_files_and_packages_alike_each_time(inputs: BuildInputs, npm_calls: Path) -> None:
    """Byte for byte, so that the builder's cache holds; scripts are executable whatever the way here did to them."""
    (inputs.files / "entrypoint").chmod(0o600)
    first, second = io.BytesIO(), io.BytesIO()
    inputs.write_context(first)
    inputs.write_context(second)
    assert first.getvalue() == second.getvalue()
    first.seek(0)
    with tarfile.open(fileobj=first) as archive:
        modes = {member.name: member.mode for member in archive}
    assert modes == {
        "Dockerfile": 0o644,
        "dpkg-slim.cfg": 0o644,
        "entrypoint": 0o755,
        "healthcheck": 0o755,
        "make-kit": 0o644,
        "packages/opencode.tgz": 0o644,
        "packages/npm.tgz": 0o644,
        "certificates": 0o755,
    }
    assert len(npm_calls.read_text().split()) == 2


def test_each_platform_has_its_own_opencode() -> None:
    """arm64 is built from the same file with another package; a platform without a pin is refused."""
    assert opencode_for("linux/arm64").name == "opencode-linux-arm64"
    assert opencode_for("linux/amd64").name.startswith("opencode-linux-x64")
    with pytest.raises(InvalidInput, match="linux/riscv64"):
        opencode_for("linux/riscv64")


def test_no_step_of_the_build_depends_on_the_processor() -> None:
    """The one file serves every platform: no architecture is named in what the builder or the container runs."""
    told = "".join(path.read_text().lower() for path in runner_files().iterdir())
    assert not [word for word in ("x86", "amd64", "x64", "arm64", "aarch64") if word in told]


def test_the_templates_are_found() -> None:
    """The template every agent's settings begin with is part of the package."""
    assert (config_templates() / "opencode" / "default-config.json").is_file()
