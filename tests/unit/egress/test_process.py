"""The proxy's own process: one per install, whatever happens to whoever started it."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pytest

from cnap_runner.egress.log import LOG_BYTES
from cnap_runner.egress.process import end_proxy, ensure_proxy, living_proxy
from cnap_runner.egress.proxy_state import LOG_FILE, STATE_FILE, is_alive
from cnap_runner.egress.rulebook import Entry, Rulebook

HOST = "127.0.0.1"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "egress"
    yield folder
    if folder.exists():
        end_proxy(folder)


def ask(port: int) -> bytes:
    with socket.create_connection((HOST, port), timeout=5) as client:
        client.sendall(b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n")
        return client.makefile("rb").read()


def wait_until_dead(folder: Path) -> None:
    deadline = time.monotonic() + 10
    while is_alive(folder):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_one_proxy_answers_whoever_asks_for_it(folder: Path) -> None:
    """Asked for as often as one likes, one proxy lives; it applies what is written later."""
    first = ensure_proxy(folder, address=HOST)
    assert ensure_proxy(folder, address=HOST) == first == living_proxy(folder)
    assert b"nothing is allowed from this address" in ask(first.port)
    Rulebook(folder).put(HOST, Entry("i-1", "alice", ()))
    assert b"not on the list of agent alice" in ask(first.port)
    events = [json.loads(line)["event"] for line in (folder / LOG_FILE).read_text().splitlines()]
    assert events == ["proxy_started", "refused", "refused"]


def test_proxy_of_an_older_version_gives_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an upgrade the next who needs it starts its own at the same port; an older manager leaves the newer one alone."""
    first = ensure_proxy(folder, address=HOST)
    monkeypatch.setattr("cnap_runner.egress.process.version", lambda _: "0.0.0")
    assert ensure_proxy(folder, address=HOST) == first
    monkeypatch.undo()
    (folder / STATE_FILE).write_text(json.dumps({**json.loads((folder / STATE_FILE).read_text()), "version": ""}))
    second = ensure_proxy(folder, address=HOST)
    assert (second.port, second.pid == first.pid, second.version) == (first.port, False, version("cnap-runner"))


def test_proxy_outlives_who_started_it_and_holds_nothing_of_theirs(folder: Path) -> None:
    """It is in a session of its own, without the manager's streams, secrets or working folder."""
    code = f"from pathlib import Path; from cnap_runner.egress.process import ensure_proxy; ensure_proxy(Path({str(folder)!r}), address={HOST!r})"
    subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PLANTED": "do-not-inherit"}, check=True, timeout=60
    )
    state = living_proxy(folder)
    assert state is not None
    assert os.getsid(state.pid) == state.pid
    process = Path("/proc") / str(state.pid)
    assert b"do-not-inherit" not in (process / "environ").read_bytes()
    assert [(process / "fd" / str(number)).readlink() for number in range(3)] == [Path("/dev/null")] * 3
    assert (process / "cwd").readlink() == folder


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")
def test_proxy_of_a_manager_that_is_root_is_nobody(folder: Path) -> None:
    """What reads the requests of agents has given up root for good, reads its rules all the same, and can change none of them."""
    state = ensure_proxy(folder, address=HOST)
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{state.pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert {*status["Uid"].split(), *status["Gid"].split()} == {"65534"}
    assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == 0
    Rulebook(folder).put(HOST, Entry("i-1", "alice", ()))
    assert b"not on the list of agent alice" in ask(state.port)
    assert (folder.stat().st_mode & 0o777, (folder / "rules.json").stat().st_mode & 0o777) == (0o750, 0o640)
    assert {path.stat().st_uid for path in (folder, folder / "rules.json")} == {0}


def test_log_keeps_to_its_share(folder: Path) -> None:
    """A log that is full is put aside once, and what was put aside before is gone; the proxy goes on writing."""
    log = folder / LOG_FILE
    log.parent.mkdir(parents=True)
    log.write_text("x" * LOG_BYTES)
    state = ensure_proxy(folder, address=HOST)
    ask(state.port)
    assert {path.name for path in log.parent.iterdir()} == {"proxy.log", "proxy.log.1"}
    assert json.loads(log.read_text().splitlines()[-1])["event"] == "refused"


def test_killed_proxy_comes_back_at_its_port(folder: Path) -> None:
    """Instances that live were told the port: a proxy that was killed is started again at the same one."""
    first = ensure_proxy(folder, address=HOST)
    os.kill(first.pid, signal.SIGKILL)
    wait_until_dead(folder)
    assert living_proxy(folder) is None
    second = ensure_proxy(folder, address=HOST)
    assert second.port == first.port
    assert second.pid != first.pid


def test_proxy_without_open_files_left_goes_on_later(folder: Path) -> None:
    """More connections than the process may have open files do not end it: when some are gone it answers again."""
    code = (
        "import resource; from pathlib import Path; from cnap_runner.egress.process import ensure_proxy; "
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24)); ensure_proxy(Path({str(folder)!r}), address={HOST!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    state = living_proxy(folder)
    assert state is not None
    clients = [socket.create_connection((HOST, state.port)) for _ in range(40)]
    time.sleep(0.3)
    for client in clients:
        client.close()
    assert b"nothing is allowed from this address" in ask(state.port)
    assert living_proxy(folder) == state


def test_taken_port_is_given_up(folder: Path) -> None:
    """Where somebody else has taken the port meanwhile, the proxy listens at another."""
    first = ensure_proxy(folder, address=HOST)
    end_proxy(folder)
    with socket.create_server((HOST, first.port)):
        assert ensure_proxy(folder, address=HOST).port != first.port


def test_proxy_of_a_later_version_is_still_the_proxy(folder: Path) -> None:
    """What it wrote down may say more than is known here: it is found, and can be ended."""
    state = ensure_proxy(folder, address=HOST)
    file = folder / STATE_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "of_later": 1}))
    assert living_proxy(folder) == state
    end_proxy(folder)
    assert not is_alive(folder)


def test_proxy_moves_with_its_network(folder: Path) -> None:
    """A network that was made anew has another gateway: the proxy listens there."""
    first = ensure_proxy(folder, address=HOST)
    second = ensure_proxy(folder, address="127.0.0.2")
    assert (second.address, second.pid != first.pid) == ("127.0.0.2", True)


def test_ending_is_idempotent(folder: Path) -> None:
    """A proxy that is ended is ended, and a process that has its old number by now is left alone."""
    end_proxy(folder)
    state = ensure_proxy(folder, address=HOST)
    end_proxy(folder)
    assert not is_alive(folder)
    stranger = {"address": HOST, "port": state.port, "pid": os.getpid()}
    (folder / "proxy.json").write_text(json.dumps(stranger))
    end_proxy(folder)


def test_proxy_ends_with_its_folder(folder: Path) -> None:
    """An install whose data folder was removed by hand leaves no process behind."""
    state = ensure_proxy(folder, address=HOST)
    descriptor = os.pidfd_open(state.pid)
    try:
        shutil.rmtree(folder)
        assert select.select([descriptor], [], [], 10)[0], "the proxy lives on"
    finally:
        os.close(descriptor)


def test_unwanted_proxy_ends(folder: Path) -> None:
    """Without any instance's rules, and long after it was last wanted, the proxy ends by itself."""
    ensure_proxy(folder, address=HOST)
    os.utime(folder / "wanted", (0, 0))
    wait_until_dead(folder)


def test_asking_whether_it_lives_does_not_keep_it_from_starting(folder: Path) -> None:
    """Many that look at the same moment take nothing from the one that starts."""
    folder.mkdir()
    with ThreadPoolExecutor(4) as threads:
        looks = [threads.submit(lambda: [is_alive(folder) for _ in range(5_000)]) for _ in range(4)]
        ensure_proxy(folder, address=HOST)
        assert all(look.result() is not None for look in looks)
    assert is_alive(folder)
