"""A container like ours without this package: by ``docker run``, or by the three calls of the engine's API behind it.

All options are read from a container of ours, so that they cannot drift apart. One thing differs: the server's password is a file of
a read-only mount, which is what one does by hand, instead of coming by standard input into the container's memory.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import docker

from benchmarks.bare import BareClient

LABEL = "cnap.bench"
SECRETS = "/run/secrets"
_PORT = "4096/tcp"
_OURS_ALONE = {"Binds", "Mounts", "Tmpfs"}
"""Options that differ by their paths; both are made from the same list."""
_SPELLED_DIFFERENTLY = {"ConsoleSize", "ContainerIDFile"}

Start = Callable[["Template", "Folders"], Awaitable[tuple[str, str]]]
"""Starts a container and gives its id and its server's address."""


@dataclass(frozen=True)
class Template:
    """What ``docker inspect`` says of a container of ours, and the settings files inside: path → text."""

    inspected: Mapping[str, Any]
    settings: Mapping[str, str]

    @property
    def config(self) -> Mapping[str, Any]:
        """What the container runs."""
        config: Mapping[str, Any] = self.inspected["Config"]
        return config

    @property
    def host(self) -> Mapping[str, Any]:
        """What the host grants it."""
        host: Mapping[str, Any] = self.inspected["HostConfig"]
        return host

    @property
    def owner(self) -> tuple[int, int]:
        """Uid and gid inside."""
        uid, _, gid = self.config["User"].partition(":")
        return int(uid), int(gid)

    @property
    def targets(self) -> list[tuple[str, bool]]:
        """Where folders are mounted inside, and whether they are read-only there."""
        return [(mount["Target"], bool(mount.get("ReadOnly"))) for mount in self.host["Mounts"]] + [(SECRETS, True)]

    @property
    def tmpfs(self) -> dict[str, str]:
        """File systems in memory, without the one that our secrets are in."""
        return {path: options for path, options in self.host["Tmpfs"].items() if path != SECRETS}

    @cached_property
    def environment(self) -> list[str]:
        """The environment, without the word that secrets come by standard input."""
        return [entry for entry in self.config["Env"] if not entry.startswith("CNAP_SECRETS=")]

    def host_config(self, folders: Folders) -> dict[str, Any]:
        """Give the same options for other folders."""
        mounts = [
            {"Type": "bind", "Source": str(folders.of(target)), "Target": target, "ReadOnly": is_read_only}
            for target, is_read_only in self.targets
        ]
        return {**self.host, "Mounts": mounts, "Tmpfs": self.tmpfs}


@dataclass(frozen=True)
class Folders:
    """The folders of one plain container, made as one would make them by hand."""

    root: Path
    password: str

    def of(self, target: str) -> Path:
        """Give the folder that is mounted there."""
        return self.root / target.strip("/").replace("/", "-")

    def make(self, template: Template) -> None:
        """Create all of them, with the settings and the password inside."""
        for target, _ in template.targets:
            self.of(target).mkdir(parents=True)
            if os.geteuid() == 0:
                os.chown(self.of(target), *template.owner)
        for name, text in template.settings.items():
            file = self.of("/agent/settings") / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        password = self.of(SECRETS) / "server-password"
        password.write_text(self.password, encoding="utf-8")
        password.chmod(0o400)
        if os.geteuid() == 0:
            os.chown(password, *template.owner)


@asynccontextmanager
async def plain_container(template: Template, *, folder: Path, start: Start) -> AsyncIterator[str]:
    """Bring a container up and wait until its server is ready; gives its id. It and its folders are gone afterwards."""
    folders = Folders(folder / secrets.token_hex(4), password=secrets.token_hex(32))
    container_id = ""
    try:
        folders.make(template)
        container_id, address = await start(template, folders)
        async with BareClient(address, folders.password) as client:
            await client.wait_until_ready()
        yield container_id
    finally:
        with anyio.CancelScope(shield=True):
            if container_id:
                await _docker("rm", "--force", "--volumes", container_id)
            await anyio.to_thread.run_sync(shutil.rmtree, folders.root)


async def by_docker_run(template: Template, folders: Folders) -> tuple[str, str]:
    """``docker run``, then ``docker port``."""
    container_id = await _docker(*run_arguments(template, folders))
    return container_id, f"http://{await _docker('port', container_id, _PORT)}"


def by_api(engine: docker.APIClient) -> Start:
    """Create, start and inspect, by a client of the engine that is connected already."""

    def start(template: Template, folders: Folders) -> tuple[str, str]:
        config = {
            **{key: template.config[key] for key in ("Image", "User", "WorkingDir", "ExposedPorts", "Healthcheck")},
            "Env": template.environment,
            "Labels": {LABEL: "api"},
            "HostConfig": template.host_config(folders),
        }
        container_id = str(engine.create_container_from_config(config)["Id"])  # type: ignore[no-untyped-call]
        engine.start(container_id)
        ports = engine.inspect_container(container_id)["NetworkSettings"]["Ports"]
        return container_id, f"http://{ports[_PORT][0]['HostIp']}:{ports[_PORT][0]['HostPort']}"

    async def in_thread(template: Template, folders: Folders) -> tuple[str, str]:
        return await anyio.to_thread.run_sync(start, template, folders)

    return in_thread


def run_arguments(template: Template, folders: Folders) -> list[str]:
    """Write the options of a container as ``docker run`` takes them."""
    host, config = template.host, template.config
    log = host["LogConfig"]
    return [
        *("run", "--detach", "--label", f"{LABEL}=run", "--init", "--read-only", "--no-healthcheck"),
        *("--user", config["User"], "--workdir", config["WorkingDir"], "--network", host["NetworkMode"]),
        *("--memory", str(host["Memory"]), "--memory-swap", str(host["MemorySwap"])),
        *("--cpus", str(host["NanoCpus"] / 1e9), "--pids-limit", str(host["PidsLimit"])),
        *("--publish", f"127.0.0.1::{_PORT}", "--restart", host["RestartPolicy"]["Name"]),
        *("--cgroupns", host["CgroupnsMode"], "--ipc", host["IpcMode"], "--shm-size", str(host["ShmSize"])),
        *("--oom-score-adj", str(host["OomScoreAdj"])),
        *_each("--cap-drop", host["CapDrop"]),
        *_each("--security-opt", host["SecurityOpt"]),
        *_each("--add-host", host["ExtraHosts"]),
        *_each("--env", template.environment),
        *_each("--log-driver", [log["Type"]]),
        *_each("--log-opt", [f"{name}={value}" for name, value in log["Config"].items()]),
        *_each("--tmpfs", [f"{path}:{options}" for path, options in template.tmpfs.items()]),
        *_each(
            "--mount", [_mount(folders, target, is_read_only=is_read_only) for target, is_read_only in template.targets]
        ),
        config["Image"],
    ]


async def check_same_options(template: Template, container_id: str) -> None:
    """Raise `RuntimeError` where a plain container's options differ from those of ours by more than its folders."""
    theirs: Mapping[str, Any] = json.loads(await _docker("inspect", container_id))[0]["HostConfig"]
    ignored = _OURS_ALONE | _SPELLED_DIFFERENTLY
    different = [
        key for key in template.host if key not in ignored and (template.host[key] or None) != (theirs.get(key) or None)
    ]
    if different:
        raise RuntimeError(f"The plain container is not comparable, it differs in {', '.join(different)}.")


async def inspect(container_id: str) -> Mapping[str, Any]:
    """Read all that the engine says of a container."""
    said: Mapping[str, Any] = json.loads(await _docker("inspect", container_id))[0]
    return said


def _each(option: str, values: list[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


def _mount(folders: Folders, target: str, *, is_read_only: bool) -> str:
    return f"type=bind,source={folders.of(target)},target={target}" + (",readonly" if is_read_only else "")


async def _docker(*arguments: str) -> str:
    done = await anyio.run_process(["docker", *arguments], check=False)
    if done.returncode != 0:
        raise RuntimeError(f"docker {arguments[0]} failed: {done.stderr.decode().strip()}")
    return done.stdout.decode().strip()
