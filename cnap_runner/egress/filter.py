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
import itertools
import re
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
_JUMP = re.compile(r" -j CNAP-[0-9a-f]{12}-[COI]$")
"""How the line of a rule ends that leads to a chain of some install."""


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
        # In this direction alone: what an instance began while the rules were flushed ends when they are back.
        answers = ["-m", "conntrack", "--ctstate", "ESTABLISHED", "--ctdir", "REPLY", "-j", "RETURN"]
        for program in _programs():
            admitted = [[*to_proxy, "-j", "RETURN"]] if program == "iptables" else []
            place = _Place(program, "mangle", "PREROUTING", self._closed)
            self._assure(place, [answers, *admitted, ["-j", "DROP"]], interface)
        # A firewall of the host that drops what it does not know must let the proxy's clients in.
        self._assure(_Place("iptables", "filter", "INPUT", self._input), [[*to_proxy, "-j", "ACCEPT"]], interface)

    def guard_metadata(self, interface: str) -> None:
        """Close cloud metadata addresses to instances behind a bridge. Idempotent; mends what was flushed. Raises `BackendError`."""
        for program in _programs():
            version = 4 if program == "iptables" else 6
            closed = [str(network) for network in METADATA if network.version == version]
            names = [["-p", protocol, "-m", protocol, "--dport", _DNS, "-j", "RETURN"] for protocol in ("udp", "tcp")]
            place = _Place(program, "mangle", "PREROUTING", self._open)
            self._assure(place, [*names, *(["-d", network, "-j", "DROP"] for network in closed)], interface)

    def remove(self) -> None:
        """Remove all rules of the install. Idempotent; where there is no filter, or no right to it, there is nothing to remove."""
        if why_no_filter() is not None:
            return
        chains = [
            ("mangle", "PREROUTING", self._closed),
            ("mangle", "PREROUTING", self._open),
            ("filter", "INPUT", self._input),
        ]
        for program in _programs():
            for place in (_Place(program, *chain) for chain in chains):
                listed = place.listed()
                for words in _leading(listed, place):
                    place.call("-D", *words[1:])
                if f"-N {place.chain}" in listed:
                    place.call("-F", place.chain)
                    place.call("-X", place.chain)

    def _assure(self, place: _Place, rules: Sequence[Sequence[str]], interface: str) -> None:
        """Make a chain hold exactly these rules, and be passed by what comes in from one interface and no other."""
        listed = place.listed()
        # The comment of each rule tells whether all are as they should be.
        comment = f"{self._comment}:{hashlib.sha256(repr(rules).encode()).hexdigest()[:12]}"
        found = [line for line in listed if line.startswith(f"-A {place.chain} ")]
        if len(found) != len(rules) or not all(comment in line for line in found):
            place.write([[*rule, "-m", "comment", "--comment", comment] for rule in rules])
        leading = _leading(listed, place)
        if [words[2:4] for words in leading] != [["-i", interface]] or not place.is_in_front(listed):
            jump = ["-i", interface, "-m", "comment", "--comment", self._comment, "-j", place.chain]
            place.lead_anew(leading, jump)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one chain of ours is."""

    program: str
    table: str
    hook: str
    """The kernel's own chain that leads to ours."""
    chain: str

    def listed(self) -> list[str]:
        """Give the table's chains and rules as ``iptables`` writes them."""
        return _call(self.program, "-t", self.table, "-S").splitlines()

    def call(self, *arguments: str) -> None:
        """Change something in the table."""
        _call(self.program, "-t", self.table, *arguments)

    def is_in_front(self, listed: Sequence[str]) -> bool:
        """Whether packets come to our chain before any other rule: one in front could let through what ours drops.

        Other installs' rules are no others: each is for its own bridge. In the ``filter`` table ours only lets in, and may stand anywhere.
        """
        if self.table != "mangle":
            return True
        before = itertools.takewhile(lambda line: not line.endswith(f" -j {self.chain}"), listed)
        return all(_JUMP.search(line) for line in before if line.startswith(f"-A {self.hook} "))

    def lead_anew(self, leading: Sequence[Sequence[str]], jump: Sequence[str]) -> None:
        """Put one rule that leads to our chain in front, in place of all that do now, in one step: no packet passes in between."""
        lines = [*(["-D", *words[1:]] for words in leading), ["-I", self.hook, "1", *jump]]
        self._restore([" ".join(words) for words in lines])

    def write(self, rules: Sequence[Sequence[str]]) -> None:
        """Replace the chain's rules in one step."""
        self._restore([f":{self.chain} - [0:0]", *(" ".join(["-A", self.chain, *rule]) for rule in rules)])

    def _restore(self, lines: Sequence[str]) -> None:
        text = "\n".join([f"*{self.table}", *lines, "COMMIT", ""])
        _call(f"{self.program}-restore", "--noflush", input_text=text)


def _leading(listed: Sequence[str], place: _Place) -> list[list[str]]:
    """Give the rules that lead from the kernel's chain to ours, in words."""
    rules = [
        shlex.split(line)
        for line in listed
        if line.startswith(f"-A {place.hook} ") and line.endswith(f" {place.chain}")
    ]
    return [words for words in rules if words[-2:] == ["-j", place.chain]]


def _programs() -> list[str]:
    return ["iptables", "ip6tables"] if _IPV6_IN_KERNEL.exists() else ["iptables"]


def _call(program: str, *arguments: str, input_text: str = "") -> str:
    done = _run([program, "-w", str(_WAIT_SECONDS), *arguments], input_text)
    if done.returncode != 0:
        words = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise BackendError(f"{program} failed: {words[:300]}", hint="`cnap-runner doctor` tells more.")
    return done.stdout


def _run(argv: list[str], input_text: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv, input=input_text, capture_output=True, text=True, check=False, timeout=2 * _WAIT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"{argv[0]} cannot be run: {error}.") from error
