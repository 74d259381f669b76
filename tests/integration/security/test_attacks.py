"""Attacks by a program inside a real container of a real agent: each fails, and its test says how.

Three agents, started once: alice attacks, bob is attacked and exhausts himself, carol has no way out. What else is attacked, and where
the tests are: docs/security.md.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from cnap_runner import Outcome, RunnerError, RunnerStatus
from cnap_runner.egress.filter import why_no_filter
from cnap_runner.egress.process import living_proxy
from cnap_runner.testing.http_server import serving

pytestmark = [pytest.mark.engine, pytest.mark.opencode]

CAN_FILTER = os.geteuid() == 0 and why_no_filter() is None
needs_filter = pytest.mark.skipif(not CAN_FILTER, reason="needs the right to filter packets")
MIB = 1 << 20
CANARY = f"canary-{uuid.uuid4().hex}"
METADATA = "169.254.169.254"
PIDS, MEMORY_MB = 200, 1536

# Says of each (kind, host, port) what came of it.
REACH = """
import socket
def tcp(host, port):
    with socket.create_connection((host, port), timeout=1.5) as link:
        link.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        return link.recv(100).decode(errors="replace").splitlines()[0]
def unix(path, _):
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(path)
        return "connected"
def raw(host, _):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as link:
        return link.sendto(b"", (host, 0))
def packet(_, __):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        return "opened"
def attempt(kind, host, port):
    try:
        return globals()[kind](host, port)
    except OSError as error:
        return type(error).__name__
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(16) as threads:
    print(json.dumps(list(threads.map(lambda asked: attempt(*asked), GIVEN[0]))))
"""

# By the C library's names; the rest by number, on x86-64. Each is a step of known ways out of a container.
SYSCALLS = """
import ctypes, errno, os, platform
libc = ctypes.CDLL(None, use_errno=True)
NEWUSER, NEWNS, PTRACE_ATTACH = 0x10000000, 0x00020000, 16
calls = {
    "mount": lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None),
    "umount": lambda: libc.umount2(b"/proc/sys", 2),
    "chroot": lambda: libc.chroot(b"/tmp"),
    "unshare user": lambda: libc.unshare(NEWUSER),
    "unshare mount": lambda: libc.unshare(NEWNS),
    "setns": lambda: libc.setns(os.open("/proc/1/ns/mnt", os.O_RDONLY), 0),
    "sethostname": lambda: libc.sethostname(b"other", 5),
    "settimeofday": lambda: libc.settimeofday((ctypes.c_long * 2)(1, 1), None),
    "swapon": lambda: libc.swapon(b"/tmp", 0),
    "reboot": lambda: libc.reboot(0),
    "acct": lambda: libc.acct(b"/tmp/acct"),
    "syslog": lambda: libc.klogctl(3, ctypes.create_string_buffer(64), 64),
    "mknod": lambda: libc.mknod(b"/tmp/disk", 0o060666, os.makedev(254, 0)),
    "chown": lambda: libc.chown(os.getcwd().encode(), 0, 0),
    "setuid": lambda: libc.setuid(0),
    "setgroups": lambda: libc.setgroups(1, (ctypes.c_uint * 1)(0)),
    "nice": lambda: libc.setpriority(0, 0, -20),
}
numbered = {"pivot_root": 155, "init_module": 175, "kexec_load": 246, "add_key": 248, "keyctl": 250, "perf_event_open": 298,
    "open_by_handle_at": 304, "finit_module": 313, "bpf": 321, "userfaultfd": 323, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "fsmount": 432, "mount_setattr": 442}
if platform.machine() == "x86_64":
    calls |= {name: lambda number=number: libc.syscall(number, 0, 0, 0, 0, 0) for name, number in numbered.items()}
def attempt(call):
    return "done" if call() >= 0 else errno.errorcode[ctypes.get_errno()]
print(json.dumps({name: attempt(call) for name, call in calls.items()}))
"""

# The mount points below which anything can be written.
WRITABLE = """
import os
mounts = sorted((line.split()[1] for line in open("/proc/mounts")), key=len, reverse=True)
found = set()
for folder, folders, files in os.walk("/"):
    if folder == "/proc":
        folders.clear()
        continue
    for path in (folder, *(os.path.join(folder, name) for name in files)):
        if os.access(path, os.W_OK) and not os.path.islink(path):
            found.add(next(point for point in mounts if path == point or path.startswith(point.rstrip("/") + "/")))
print(json.dumps(sorted(found)))
"""


@pytest.fixture(scope="module")
async def town(house: Any) -> Any:
    """Alice and bob on the open network, carol on the closed one where that can be had."""
    specs = [
        house.spec("alice", resources={"memory_mb": 1024}),
        house.spec(
            "bob",
            resources={"memory_mb": MEMORY_MB, "pids": PIDS},
            secrets={"BOBS": "vault:bobs"},
            mcp={"off": {"command": ["false", "${BOBS}"], "enabled": False}},
        ),
        house.spec("carol", egress={"mode": "none" if CAN_FILTER else "open"}),
    ]
    await house.manager.put_secret("bobs", CANARY)
    async with anyio.create_task_group() as tasks:
        for spec in specs:
            await house.manager.create_runner(spec)
            tasks.start_soon(house.manager.start_runner, spec.agent_id)
    (house.workspace("bob") / CANARY).write_text(CANARY)
    return house


async def usable(town: Any, agent_id: str) -> None:
    """An agent that was exhausted works again."""
    result = await town.turn(agent_id, "bash: echo alive > alive\nsay: fine")
    assert (result.outcome, result.output) == (Outcome.SUCCEEDED, "fine"), result.error
    assert (town.workspace(agent_id) / "alive").read_text() == "alive\n"


# --- root and its powers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "way",
    [
        "su -c 'id -u' </dev/null",
        "sudo -n id -u",
        "unshare --user --map-root-user id -u",
        "nsenter --target 1 --mount --pid id -u",
        "setpriv --reuid 0 id -u",
        "cp /usr/bin/id own; chmod 4755 own; ./own -u",
        "python3 -c 'import os; os.setuid(0); print(os.getuid())'",
    ],
)
async def test_nobody_becomes_root(town: Any, way: str) -> None:
    """Programs with the setuid bit run as the agent (no-new-privileges), and the kernel refuses to change the user or to make a user namespace
    (no capability, seccomp)."""
    assert "0" not in (await town.sh("alice", way)).split()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can plant a program of root's")
async def test_a_program_of_roots_in_the_workspace_gives_no_power(town: Any) -> None:
    """A setuid root program, and one with file capabilities, that came with a seed: the first runs as the agent (no-new-privileges), the second not at all (its
    capabilities are not in the bounding set)."""
    assert await town.sh("alice", "cp /usr/bin/id planted; cp /usr/bin/cat able") == ""
    planted, able = town.workspace("alice") / "planted", town.workspace("alice") / "able"
    os.chown(planted, 0, 0)
    planted.chmod(0o4755)
    every = 0xFFFFFFFF
    os.setxattr(able, "security.capability", struct.pack("<5I", 0x02000001, every, every, every, every))

    assert (await town.sh("alice", "./planted -u")).strip() == "10000"
    assert "Operation not permitted" in await town.sh("alice", "./able /proc/self/status")


async def test_no_process_has_a_capability(town: Any) -> None:
    """Every set of every process is empty, the bounding set too, none may gain any, all are under seccomp, and none is root's."""
    lines = (await town.sh("alice", "cat /proc/[0-9]*/status")).splitlines()
    seen = {key: {line.split(":")[1].strip() for line in lines if line.startswith(f"{key}:")} for key in _STATUS}
    sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    assert {key: seen[key] for key in sets} == {key: {"0" * 16} for key in sets}
    assert (seen["NoNewPrivs"], seen["Seccomp"]) == ({"1"}, {"2"})
    assert all("0" not in ids.split() for ids in seen["Uid"] | seen["Gid"])


_STATUS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid", "Gid")


async def test_privileged_system_calls_are_refused(town: Any) -> None:
    """Mounts, namespaces, devices, modules, keys, BPF, the clock and their like: no capability, and seccomp for what would need none."""
    came_of_it = await town.python("alice", SYSCALLS)
    assert {name: code for name, code in came_of_it.items() if code not in {"EPERM", "EACCES", "ENOSYS"}} == {}


# --- files and the kernel ---------------------------------------------------------------------------------------------


async def test_nothing_is_writable_but_the_agents_own(town: Any) -> None:
    """The root file system is read-only, and so are settings, ``/sys``, cgroups and what the engine mounts; a remount is refused."""
    await town.sh("alice", "mount -o remount,rw /")
    own = {"/agent/home", "/agent/state", "/dev/mqueue", "/dev/shm", "/run/secrets", "/tmp", "/workspace"}  # noqa: S108
    devices = {"/dev", "/dev/pts"}  # the usual harmless ones; their folders are root's
    assert set(await town.python("alice", WRITABLE)) - devices == own
    refused = "echo x >> /usr/local/bin/opencode; echo x >> /etc/passwd; echo x >> /agent/settings/opencode/opencode.json; touch /x"
    said = (await town.sh("alice", refused)).splitlines()
    assert len(said) == 4
    assert all("Read-only file system" in line or "Permission denied" in line for line in said), said


async def test_the_hosts_kernel_shows_and_takes_nothing(town: Any) -> None:
    """Kernel memory, keys, timers and firmware are masked; kernel settings, sysrq and cgroup files are read-only; no device of the
    host is there; the log is refused; and no process makes itself the last to be killed for want of memory."""
    assert await town.sh("alice", "cat /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug 2>/dev/null") == ""
    assert await town.sh("alice", "find /sys/firmware /proc/acpi /proc/scsi -mindepth 1 2>/dev/null") == ""
    assert (
        await town.sh("alice", "find /proc/sys /proc/sysrq-trigger /proc/irq /proc/bus /sys -writable 2>/dev/null")
        == ""
    )
    assert (
        await town.sh("alice", "find /dev -type b; find /dev -type c -name 'sd*' -o -name 'mem' -o -name 'kmsg'") == ""
    )
    refused = [
        "echo h > /proc/sysrq-trigger",
        "echo x > /proc/sys/kernel/core_pattern",
        "echo -1000 > /proc/self/oom_score_adj",
        "echo 1 > $(find /sys/fs/cgroup -name 'memory*max' -o -name memory.limit_in_bytes | head -n 1)",
        "echo x > $(find /sys/fs/cgroup -name release_agent -o -name cgroup.procs | head -n 1)",
        "dmesg",
    ]
    for attack in refused:
        assert await town.sh("alice", f"({attack}) 2>/dev/null && echo done") == "", attack


async def test_the_hosts_processes_are_not_seen(town: Any) -> None:
    """A process namespace of its own: a process of the host has neither an entry in ``/proc`` nor a number inside."""
    marker = str(uuid.uuid4().int)[:9]
    with subprocess.Popen(["sleep", marker]) as host:
        try:
            seen = (await town.sh("alice", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' ' '")).encode()
            numbers = await town.sh("alice", "ls -d /proc/[0-9]* | wc -l")
            alive = await town.sh("alice", f"kill -9 {host.pid}; kill -0 {host.pid} && echo found")
            still = host.poll()
        finally:
            host.kill()
    assert b"opencode" in seen
    assert marker.encode() not in seen
    assert b"cnap_runner.egress" not in seen
    assert int(numbers) < 20
    assert "found" not in alive
    assert still is None


async def test_another_agents_files_are_not_there(town: Any) -> None:
    """Other agents' folders are not mounted, and a link that names one leads to a place inside of the attacker's own container."""
    workspace = town.workspace("bob")
    assert (workspace / CANARY).exists()
    ways = [
        f"find / -name '{CANARY}'",
        f"ln -s {workspace} to-bob; ls to-bob/",
        f"ls /workspace/../{workspace} /workspace/../bob /proc/1/root/{workspace} /proc/1/cwd/../bob",
        f"grep -rl {CANARY} /run/secrets /agent /workspace /tmp /dev/shm",
        "cat /run/secrets/env-BOBS",
    ]
    for way in ways:
        said = await town.sh("alice", f"({way}) 2>/dev/null")
        assert said.strip() == "", way
    assert CANARY in await town.sh("bob", "cat /run/secrets/env-BOBS")


# --- the network ------------------------------------------------------------------------------------------------------


async def test_another_agents_server_is_not_reached(town: Any) -> None:
    """Bob's server is reached neither at his own address (no traffic between containers) nor at the host's port (bound to the host's loopback);
    it would want his password, too."""
    bob = await town.container("bob")
    port = int(bob.attrs["NetworkSettings"]["Ports"]["4096/tcp"][0]["HostPort"])
    (network,) = bob.attrs["NetworkSettings"]["Networks"].values()
    hosts = [network["Gateway"], "host.docker.internal", "127.0.0.1", "::1", *_addresses_of_host()]
    asked = [("tcp", network["IPAddress"], 4096), *(("tcp", host, port) for host in hosts)]
    outcomes = await town.python("alice", REACH, asked)
    assert all(outcome.endswith("Error") for outcome in outcomes), dict(zip(map(str, asked), outcomes, strict=True))


async def test_the_managers_own_ports_are_not_reached(town: Any) -> None:
    """What listens on the host's loopback is not reached by any of the host's names or addresses, nor from the container's own loopback; on
    the closed network nothing of the host is."""
    with serving(address="127.0.0.1") as own, serving(address="0.0.0.0") as public:
        hosts = ["host.docker.internal", "127.0.0.1", *_addresses_of_host()]
        outcomes = await town.python("alice", REACH, [("tcp", host, own) for host in hosts])
        assert all(outcome.endswith("Error") for outcome in outcomes), outcomes
        if CAN_FILTER:
            outcomes = await town.python(
                "carol", REACH, [("tcp", h, p) for h in _addresses_of_host() for p in (own, public)]
            )
            assert all(outcome.lower().endswith("error") for outcome in outcomes), outcomes


@needs_filter
async def test_the_proxy_of_closed_agents_helps_nobody_else(town: Any) -> None:
    """It knows who asks by the address: one of the open network has no rules, and carol's own admit neither bob's server nor the host's ports."""
    bob = await town.container("bob")
    (network,) = bob.attrs["NetworkSettings"]["Networks"].values()
    port = int(bob.attrs["NetworkSettings"]["Ports"]["4096/tcp"][0]["HostPort"])
    proxy = living_proxy(town.data_dir / "egress")
    assert proxy is not None
    with serving(address="0.0.0.0") as public:
        curl = f"curl -s -o /dev/null -m 5 -w '%{{http_code}} ' -x http://{proxy.address}:{proxy.port}"
        places = [
            f"http://host.docker.internal:{public}/",
            f"http://127.0.0.1:{public}/",
            f"http://127.0.0.1:{port}/",
            f"http://{network['IPAddress']}:4096/",
            f"http://[::ffff:127.0.0.1]:{port}/",
            f"http://{METADATA}/",
        ]
        for agent_id in ("alice", "carol"):
            codes = (await town.sh(agent_id, "; ".join(f"{curl} '{place}'" for place in places))).split()
            assert set(codes) <= {"403", "400", "000"}, (agent_id, codes)


async def test_the_engine_is_not_reached(town: Any) -> None:
    """Its sockets are not mounted, those of its helpers in the host's abstract namespace belong to the host's network, and no port of it is open."""
    name = f"\0cnap-{CANARY}"
    with socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(name)
        abstract.listen()
        paths = ["/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", name]
        ports = [("tcp", host, port) for host in ("host.docker.internal", "127.0.0.1") for port in (2375, 2376)]
        outcomes = await town.python("alice", REACH, [*(("unix", path, 0) for path in paths), *ports])
    assert all(outcome.endswith("Error") for outcome in outcomes), outcomes
    assert await town.sh("alice", "find / -type s -not -path '/proc/*' 2>/dev/null") == ""


async def test_packets_cannot_be_forged(town: Any) -> None:
    """Raw and packet sockets need a capability: no ping, no ARP in a neighbour's name."""
    outcomes = await town.python("alice", REACH, [("raw", "127.0.0.1", 0), ("packet", "", 0)])
    assert outcomes == ["PermissionError", "PermissionError"]


@needs_filter
async def test_metadata_of_a_cloud_is_not_reached(town: Any) -> None:
    """A metadata service that the host reaches is dropped by the host's packet filter for agents of both networks."""
    with _address_on_loopback(METADATA), serving(address=METADATA) as port:
        with socket.create_connection((METADATA, port), timeout=2):
            pass
        for agent_id in ("alice", "carol"):
            (outcome,) = await town.python(agent_id, REACH, [("tcp", METADATA, port)])
            assert outcome.lower().endswith("error"), (agent_id, outcome)


def _addresses_of_host() -> list[str]:
    listed = subprocess.run(["ip", "-o", "-4", "address"], capture_output=True, text=True, check=True).stdout
    return [line.split()[3].partition("/")[0] for line in listed.splitlines() if " lo " not in line]


@contextlib.contextmanager
def _address_on_loopback(address: str) -> Iterator[None]:
    change = partial(subprocess.run, capture_output=True, check=True)
    change(["ip", "address", "add", f"{address}/32", "dev", "lo"])
    try:
        yield
    finally:
        change(["ip", "address", "del", f"{address}/32", "dev", "lo"])


# --- files that lead elsewhere ----------------------------------------------------------------------------------------


async def test_links_of_an_agent_lead_the_manager_nowhere(town: Any, tmp_path: Path) -> None:
    """Links, pipes and hard links in workspace, home and state: the manager's measuring, mending, exporting and removing goes through open folders and
    never through a link, so what they name on the host is neither read, counted, changed nor removed."""
    target = tmp_path / "precious"
    target.mkdir(mode=0o700)
    (target / "file").write_text(CANARY)
    (target / "large").write_bytes(b"x" * 64 * MIB)
    before = {
        path.name: (path.stat().st_mode, path.stat().st_uid, path.stat().st_mtime_ns) for path in target.iterdir()
    }
    size = (await town.manager.measure_workspace("alice")).total_bytes
    plant = (
        f"mkdir -p $d/deep && ln -sfn {target} $d/deep/folder && ln -sf {target}/file $d/file-link && mkfifo $d/pipe"
    )
    plants = "; ".join(
        f"d={folder}; {plant}" for folder in ("/workspace", "/agent/home", "/agent/state", "/agent/state/opencode")
    )
    swaps = f"mv /workspace/demo.txt /workspace/old; ln -s {target}/file /workspace/demo.txt; ln -sfn {target} /agent/home/.cache/x"
    await town.sh("alice", f"{plants}; {swaps}; ln -s / /workspace/root; ln -s ../../.. /workspace/up")
    assert "deep" in await town.sh("alice", "ls /workspace")

    assert (await town.manager.measure_workspace("alice")).total_bytes - size < MIB
    archive = tmp_path / "alice.tar.gz"
    await town.manager.export_agent("alice", archive, with_home=True)
    if os.geteuid() == 0:
        await town.manager.fix_workspace("alice")
    await town.manager.stop_runner("alice")
    await town.manager.remove_workspace("alice")
    unpacked = await anyio.run_process(["gzip", "-dc", str(archive)])
    assert CANARY.encode() not in unpacked.stdout
    assert len(unpacked.stdout) < 32 * MIB
    assert not town.workspace("alice").exists()
    await town.manager.delete_runner("alice", delete_workspace=True)
    after = {path.name: (path.stat().st_mode, path.stat().st_uid, path.stat().st_mtime_ns) for path in target.iterdir()}
    assert after == before


# --- exhaustion -------------------------------------------------------------------------------------------------------


async def test_memory_of_its_own_file_systems_is_bounded(town: Any) -> None:
    """``/tmp``, ``/dev/shm`` and ``/run/secrets`` are file systems of a fixed size, and what is in them counts as the agent's memory."""
    fill = "for d in /tmp /dev/shm /run/secrets; do dd if=/dev/zero of=$d/fill bs=1M count=2000 2>&1 | tail -n 1; du -m $d/fill; rm $d/fill; done"
    said = await town.sh("bob", fill)
    sizes = [int(line.split()[0]) for line in said.splitlines() if line.endswith("/fill")]
    assert sizes == [MEMORY_MB // 4, 64, pytest.approx(8, abs=1)], said
    assert await town.sh("bob", "dd if=/dev/zero of=/dev/fill bs=1k count=1 2>/dev/null || echo refused") == "refused\n"


async def test_an_agent_that_eats_memory_is_killed_inside_its_limit(town: Any) -> None:
    """The kernel kills within the container's own limit, swap included, and what ate is what dies: the turn goes on to its end, the manager and
    the other agents do not notice."""
    eat = 'python3 -c "x = [bytearray(8 << 20) for _ in range(1 << 20)]"; echo ended with $? > eaten'
    result = await town.turn("bob", f"bash: {eat}\nsay: eaten")
    assert result.output == "eaten", result.error
    assert (town.workspace("bob") / "eaten").read_text() == "ended with 137\n"
    # Version 2 of cgroups tells the peak on newer kernels only.
    peaks = "cat /sys/fs/cgroup/memory/memory.max_usage_in_bytes /sys/fs/cgroup/memory.peak 2>/dev/null"
    assert all(int(peak) <= MEMORY_MB * MIB for peak in (await town.sh("bob", peaks)).split())
    await usable(town, "bob")


async def test_f20_an_agent_whose_server_is_killed_for_want_of_memory_is_told_so(town: Any) -> None:
    """Many small eaters make the server the largest process: its container ends, with a verdict that says why (FAILURES row 20); nothing else does."""
    eater = "x = bytearray(100 << 20); import time; time.sleep(30)"
    with contextlib.suppress(RunnerError, TimeoutError):
        await town.sh("carol", f"for n in $(seq 40); do python3 -IS -c '{eater}' & done; wait")
    with anyio.fail_after(30):
        while (runner := await town.manager.get_runner("carol")).status is not RunnerStatus.FAILED:
            await anyio.sleep(0.1)
    assert "killed for want of memory" in str(runner.record.reason)
    await usable(town, "bob")


async def test_f22_a_fork_bomb_is_bounded(town: Any) -> None:
    """The kernel refuses the first process beyond the limit (FAILURES row 22); afterwards the agent works."""
    bomb = "import os, time\nmade = 0\ntry:\n    while os.fork():\n        made += 1\n    time.sleep(20)\n    os._exit(0)\n"
    bomb += "except OSError as error:\n    print(json.dumps([made, error.errno]))\n    import signal; sys.stdout.flush(); os.killpg(0, 9)\n"
    runner = await town.manager.get_runner("bob")
    head = "import json, sys, os\nos.setsid() if os.getpid() != os.getsid(0) else None\n"
    done = await runner.exec(["python3", "-IS", "-c", head + bomb])
    made, number = [int(word) for word in done.output.decode().strip(" []\n").split(", ")]
    assert (50 < made < PIDS, number) == (True, 11)
    await usable(town, "bob")


async def test_output_without_end_is_bounded(town: Any) -> None:
    """Standard output of the server, which anybody of its user can write to, is kept by the engine as three files of 10 MB."""
    container = await town.container("bob")
    config = container.attrs["HostConfig"]["LogConfig"]
    assert config == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}
    await town.sh("bob", "head -c 45000000 /dev/zero | tr '\\0' 'x' | fold -w 4000 > /proc/1/fd/1")
    folder = Path(container.attrs["LogPath"]).parent
    if os.access(folder, os.R_OK):
        kept = sum(path.stat().st_size for path in folder.glob("*-json.log*"))
        assert 10 * MIB < kept < 31 * MIB
    await usable(town, "bob")


async def test_f28_a_bomb_that_never_ends_ends_with_its_container(town: Any) -> None:
    """Processes that hold every place, ignore signals and left their session: nothing more can be started inside, and stopping the agent ends
    all of them. Last of this file, for bob is stopped by it."""
    hold = "import os, signal, time\nfor n in range(1, 65):\n    n in (9, 19, 32, 33) or signal.signal(n, signal.SIG_IGN)\n"
    hold += "while True:\n    try:\n        if not os.fork():\n            os.setsid()\n            while True: time.sleep(60)\n"
    hold += "    except OSError:\n        time.sleep(1)\n"
    (town.workspace("bob") / "hold.py").write_text(hold)
    await town.sh("bob", "setsid python3 -IS hold.py >/dev/null 2>&1 & sleep 2")
    container = await town.container("bob")
    held = await anyio.to_thread.run_sync(container.top)
    assert PIDS // 2 < len(held["Processes"]) <= PIDS

    await town.manager.stop_runner("bob")

    assert (await town.manager.get_runner("bob")).status is RunnerStatus.STOPPED
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "hold.py" not in listed
