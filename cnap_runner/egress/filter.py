"""The packet filter around an install's two networks, in the host's ``iptables``.

What agents send is judged where it comes in from their bridge (table ``mangle``, hook ``PREROUTING``): before any rule may rewrite or route it,
whoever it is for, and out of the way of the chains that the engine writes anew when it restarts.

- From the closed bridge come answers to what the host asked, and connections to the proxy. Everything else is dropped, so nothing else of the
  host is reachable, and nothing is forwarded.
- From the open bridge nothing goes to cloud metadata addresses but questions to their name service, which is the only one that some clouds have.

Each chain and rule carries the install's id. Nothing but those is ever changed or removed. All functions block and need the right to
change the filter (``CAP_NET_ADMIN``); changes happen under ``install.lock``.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnap_runner.egress.addresses import METADATA
from cnap_runner.errors import BackendError

_WAIT_SECONDS = 10
"""For the lock that all programs that change the filter share."""
_IPV6_IN_KERNEL = Path("/proc/net/if_inet6")
_DNS = "53"


@dataclass(frozen=True, slots=True)
class Port:
    """Where the proxy listens on the closed network."""

    address: str
    number: int


def why_no_filter() -> str | None:
    """Say why this process cannot filter what agents send; None where it can. Changes nothing."""
    for program in _programs():
        if shutil.which(program) is None:
            return f"{program} is not installed."
        try:
            _call(program, "-t", "mangle", "-S", "PREROUTING")
        except BackendError as error:
            return f"{program} cannot be used: it needs root, or the capability CAP_NET_ADMIN ({error.message})."
    return None


class PacketFilter:
    """The rules of one install."""

    def __init__(self, install_id: str) -> None:
        tag = hashlib.sha256(install_id.encode()).hexdigest()[:12]
        self._comment = f"cnap-runner:{install_id}"
        self._closed, self._open, self._input = f"CNAP-{tag}-C", f"CNAP-{tag}-O", f"CNAP-{tag}-I"

    def close(self, interface: str, proxy: Port) -> None:
        """Let instances behind a bridge reach the proxy, and nothing else. Idempotent; mends what was flushed. Raises `BackendError`."""
        to_proxy = ["-d", f"{proxy.address}/32", "-p", "tcp", "-m", "tcp", "--dport", str(proxy.number)]
        answers = ["-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "RETURN"]
        for program in _programs():
            is_ipv4 = program == "iptables"
            rules = [answers, [*to_proxy, "-j", "RETURN"], ["-j", "DROP"]] if is_ipv4 else [answers, ["-j", "DROP"]]
            self._assure(program, "mangle", self._closed, rules)
            self._lead(program, "mangle", "PREROUTING", self._closed, interface)
        # A firewall of the host that drops what it does not know must let the proxy's clients in.
        self._assure("iptables", "filter", self._input, [[*to_proxy, "-j", "ACCEPT"]])
        self._lead("iptables", "filter", "INPUT", self._input, interface)

    def guard_metadata(self, interface: str) -> None:
        """Close cloud metadata addresses to instances behind a bridge. Idempotent; mends what was flushed. Raises `BackendError`."""
        for program in _programs():
            version = 4 if program == "iptables" else 6
            closed = [str(network) for network in METADATA if network.version == version]
            names = [["-p", protocol, "-m", protocol, "--dport", _DNS, "-j", "RETURN"] for protocol in ("udp", "tcp")]
            rules = [*names, *(["-d", network, "-j", "DROP"] for network in closed)]
            self._assure(program, "mangle", self._open, rules)
            self._lead(program, "mangle", "PREROUTING", self._open, interface)

    def remove(self) -> None:
        """Remove all rules of the install. Idempotent; where there is no filter, or no right to it, there is nothing to remove."""
        if why_no_filter() is not None:
            return
        for program in _programs():
            for table, hook, chain in self._places():
                self._lead(program, table, hook, chain, None)
                if _listed(program, table, chain):
                    _call(program, "-t", table, "-F", chain)
                    _call(program, "-t", table, "-X", chain)

    def _places(self) -> list[tuple[str, str, str]]:
        return [
            ("mangle", "PREROUTING", self._closed),
            ("mangle", "PREROUTING", self._open),
            ("filter", "INPUT", self._input),
        ]

    def _assure(self, program: str, table: str, chain: str, rules: Sequence[Sequence[str]]) -> None:
        """Make a chain hold exactly these rules: in one step, or not at all."""
        # The comment of the last rule tells whether all are as they should be.
        digest = hashlib.sha256(repr(rules).encode()).hexdigest()[:12]
        written = [[*rule, "-m", "comment", "--comment", f"{self._comment}:{digest}"] for rule in rules]
        found = _listed(program, table, chain)
        if len(found) == len(rules) + 1 and all(digest in line for line in found[1:]):
            return
        lines = [
            f"*{table}",
            f":{chain} - [0:0]",
            *(" ".join(["-A", chain, *rule]) for rule in written),
            "COMMIT",
            "",
        ]
        _call(f"{program}-restore", "--noflush", input_text="\n".join(lines))

    def _lead(self, program: str, table: str, hook: str, chain: str, interface: str | None) -> None:
        """Send what comes in from one interface, and from no other, through a chain; None: nothing."""
        leading = [shlex.split(line) for line in _listed(program, table, hook)]
        leading = [words for words in leading if words[-2:] == ["-j", chain]]
        wanted = [words for words in leading if interface is not None and ["-i", interface] == words[2:4]]
        for words in leading:
            if words not in wanted[:1]:
                _call(program, "-t", table, "-D", *words[1:])
        if interface is not None and not wanted:
            rule = ["-i", interface, "-m", "comment", "--comment", self._comment, "-j", chain]
            _call(program, "-t", table, "-I", hook, "1", *rule)


def _programs() -> list[str]:
    return ["iptables", "ip6tables"] if _IPV6_IN_KERNEL.exists() else ["iptables"]


def _listed(program: str, table: str, chain: str) -> list[str]:
    """Give a chain as ``iptables`` writes it, its declaration first; nothing where it is not there."""
    done = _run([program, "-w", str(_WAIT_SECONDS), "-t", table, "-S", chain])
    return done.stdout.splitlines() if done.returncode == 0 else []


def _call(program: str, *arguments: str, input_text: str = "") -> None:
    done = _run([program, "-w", str(_WAIT_SECONDS), *arguments], input_text)
    if done.returncode != 0:
        words = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise BackendError(f"{program} failed: {words[:300]}", hint="`cnap-runner doctor` tells more.")


def _run(argv: list[str], input_text: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv, input=input_text, capture_output=True, text=True, check=False, timeout=2 * _WAIT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"{argv[0]} cannot be run: {error}.") from error
