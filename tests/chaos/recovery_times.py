"""How long an affected agent's next answer took, by fault."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from tests.chaos.crew import Ending


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was done, and to whom."""

    kind: str
    at: float
    agents: list[str]


def times(faults: Iterable[Fault], endings: list[Ending]) -> dict[str, list[float]]:
    """Give, by kind, the seconds from each fault to the next successful answer of each agent that it concerned."""
    found: dict[str, list[float]] = defaultdict(list)
    for fault in faults:
        for agent_id in fault.agents:
            answers = [e.at for e in endings if e.is_success and e.order.agent_id == agent_id and e.at > fault.at]
            if answers:
                found[fault.kind].append(min(answers) - fault.at)
    return found


def table(faults: list[Fault], endings: list[Ending]) -> str:
    """Write the table of docs/reliability.md."""
    lines = ["| fault | times | agents concerned | median | p95 |", "|---|---|---|---|---|"]
    for kind, seconds in sorted(times(faults, endings).items(), key=lambda one: statistics.median(one[1])):
        often = sum(fault.kind == kind for fault in faults)
        p95 = sorted(seconds)[min(len(seconds) - 1, int(0.95 * len(seconds)))]
        lines.append(f"| {kind} | {often} | {len(seconds)} | {statistics.median(seconds):.1f} s | {p95:.1f} s |")
    return "\n".join(lines)
