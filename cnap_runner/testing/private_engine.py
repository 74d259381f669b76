"""A Docker Engine of one's own, to be killed: its data, its socket and its bridge are apart from those of any other engine of the machine.

It runs without packet-filter rules (containers are reached through Docker's userland proxy and reach the host by its bridge) and with
``live-restore``, so that containers outlive it. Needs root, ``dockerd`` and ``ip``; `why_not` says what is missing.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Self

import docker
from docker.errors import DockerException, ImageNotFound

from cnap_runner.image.cache import cache_dir

PATIENCE_SECONDS = 60
_RANGES = [ipaddress.IPv4Network(f"10.{number}.0.0/16") for number in range(213, 250)]
"""Of which the first that the machine does not use is taken."""


def why_not() -> str | None:
    """Say what keeps this machine from having a private engine; None where nothing does."""
    if os.geteuid() != 0:
        return "a private engine needs root"
    missing = [program for program in ("dockerd", "ip", "umount") if shutil.which(program) is None]
    return f"a private engine needs {', '.join(missing)}" if missing else None


class PrivateEngine:
    """An engine by its name: one of each name runs at a time on a machine, a second user waits. Images are kept from use to use.

    A context manager. All methods block.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._kept = cache_dir() / "engines" / name
        self._run = Path("/run/cnap-runner-engines") / name
        self._bridge = f"cnapt-{name}"[:15]
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._range = _RANGES[0]

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self._run / "docker.sock"

    @property
    def host(self) -> str:
        """Its address, as ``DOCKER_HOST`` has it."""
        return f"unix://{self.socket}"

    @property
    def log(self) -> Path:
        """What it says itself."""
        return self._kept / "dockerd.log"

    def __enter__(self) -> Self:
        self._kept.mkdir(parents=True, exist_ok=True)
        self._lock = (self._kept / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            self._end_earlier()
            self._run.mkdir(parents=True, exist_ok=True)
            self._range = _free_range()
            _call("ip", "link", "add", "name", self._bridge, "type", "bridge")
            _call("ip", "address", "add", f"{self._range[-2]}/24", "dev", self._bridge)
            _call("ip", "link", "set", self._bridge, "up")
            self.start()
            self.remove_everything()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    # --- what is done to it -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it and wait until it answers. Containers that outlived it are taken over."""
        for left in (self._run / "docker.pid", self._run / "exec" / "containerd" / "containerd.pid"):
            left.unlink(missing_ok=True)  # else it waits for a containerd that is dead, and gives up
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._argv(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        _until(self.answers, what=f"the engine {self._name} answers")

    def kill(self) -> None:
        """End it as a crash does; its containers go on."""
        pids = [self._pid_of(name) for name in ("docker.pid", "exec/containerd/containerd.pid")]
        for pid in pids:
            if pid is not None:
                _signal(pid, signal.SIGKILL)
        self._reap()

    def kill_with_containers(self) -> None:
        """End it and all that runs on it at the same moment, as a power cut does."""
        with self.client() as client:
            running = [container.attrs["State"]["Pid"] for container in client.containers.list()]
        self.freeze()
        for pid in running:
            _signal(pid, signal.SIGKILL)
        self.kill()

    def freeze(self) -> None:
        """Let it accept connections and answer nothing."""
        _signal(self._daemon, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        _signal(self._daemon, signal.SIGCONT)

    def load(self, image: str) -> None:
        """Copy an image from the machine's usual engine, unless it is there already."""
        with contextlib.closing(docker.from_env()) as usual, self.client() as client:
            wanted = usual.images.get(image)
            try:
                if client.images.get(image).id == wanted.id:
                    return
            except ImageNotFound:
                pass
            chunks: Any = wanted.save(named=True)  # taken as they come, whatever the SDK's types say
            client.images.load(chunks)
            client.images.prune(filters={"dangling": True})

    def remove_everything(self) -> None:
        """Remove all containers, and all networks that are not the engine's own."""
        with self.client() as client:
            for container in client.containers.list(all=True, ignore_removed=True):
                container.remove(force=True, v=True)
            client.networks.prune()

    # --- what is seen of it -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def client(self) -> Iterator[docker.DockerClient]:
        """Give the SDK's client."""
        with contextlib.closing(docker.DockerClient(base_url=self.host, timeout=PATIENCE_SECONDS)) as client:
            yield client

    def answers(self) -> bool:
        """Tell whether it answers. Raises where its process has ended."""
        if self._process is None or self._process.poll() is not None:
            last = self.log.read_text(errors="replace").splitlines()[-3:]
            raise RuntimeError("The private engine has ended: " + " / ".join(last))
        # Not by the SDK, which leaves a socket open when nobody answers on it.
        with socket.socket(socket.AF_UNIX) as asking, contextlib.suppress(OSError):
            asking.settimeout(5)
            asking.connect(str(self.socket))
            asking.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 OK" in asking.recv(64)
        return False

    # --- parts --------------------------------------------------------------------------------------------------------

    @property
    def _daemon(self) -> int:
        assert self._process is not None  # noqa: S101 - whoever uses it has entered it
        return self._process.pid

    def _argv(self) -> list[str]:
        pools, run = next(self._range.subnets(new_prefix=17)), self._run
        return [
            "dockerd",
            *("--data-root", str(self._kept / "root"), "--exec-root", str(run / "exec")),
            *("--pidfile", str(run / "docker.pid"), "-H", self.host),
            *("--bridge", self._bridge, "--default-address-pool", f"base={pools},size=26"),
            # Said, because 20.10 forgets it when it takes over running containers: then `host-gateway` is no address.
            *("--host-gateway-ip", str(self._range[-2])),
            *("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"),
            *("--live-restore", "--shutdown-timeout", "5"),
        ]

    def _pid_of(self, name: str) -> int | None:
        """Read a pid file; None where that process is gone, or is somebody else's by now."""
        try:
            pid = int((self._run / name).read_text())
            told = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if str(self._run).encode() in told else None

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait(PATIENCE_SECONDS)
            self._process = None

    def _end_earlier(self) -> None:
        """End what a process left that used this name and was killed."""
        self.kill()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                told = (folder / "cmdline").read_bytes()
                if b"containerd-shim" in told.split(b"\0", 1)[0] and str(self._run).encode() in told:
                    self._end_shim(int(folder.name))
        self._remove_remains()

    def _end_shim(self, pid: int) -> None:
        """End a container of an engine that is gone: its processes are the shim's children."""
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            _signal(int(child), signal.SIGKILL)
        _signal(pid, signal.SIGKILL)

    def _close(self) -> None:
        try:
            if self._process is not None:
                self.thaw()
                with contextlib.suppress(DockerException, OSError):
                    self.remove_everything()
                self._process.terminate()
                self._reap()
        finally:
            self._end_earlier()
            if self._lock is not None:
                self._lock.close()

    def _remove_remains(self) -> None:
        """Remove mounts, networks and files that the engine leaves behind, all below folders of its own."""
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in sorted(mounts, reverse=True):
            if Path(mount).is_relative_to(self._kept) or Path(mount).is_relative_to(self._run):
                _call("umount", "--lazy", mount)
        shutil.rmtree(self._run, ignore_errors=True)
        for link in json.loads(_call("ip", "-json", "link", "show", "type", "bridge") or "[]"):
            if link["ifname"] == self._bridge:
                _call("ip", "link", "delete", self._bridge)


def _free_range() -> ipaddress.IPv4Network:
    """Find a range of addresses that no route of the machine leads to."""
    taken = [ipaddress.IPv4Network(route["dst"]) for route in _routes() if route["dst"] != "default"]
    return next(one for one in _RANGES if not any(one.overlaps(other) for other in taken))


def _routes() -> list[dict[str, str]]:
    routes: list[dict[str, str]] = json.loads(_call("ip", "-4", "-json", "route", "show") or "[]")
    return routes


def _call(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS).stdout


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _until(is_so: Callable[[], bool], *, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"It never happened that {what}.")
        time.sleep(0.05)
