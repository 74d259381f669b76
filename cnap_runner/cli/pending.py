"""Changes that do not reach an agent that runs: they must not stay unsaid while its runs go on without them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnap_runner.cli.output import note

if TYPE_CHECKING:
    from cnap_runner.runner.provisioning.changes import PendingChange
    from cnap_runner.runner.runner import Runner


async def warn_of_hindered(runner: Runner) -> list[PendingChange]:
    """Warn of what this process cannot apply, with the reason; return what else is pending."""
    found = await runner.pending_changes()
    hindered: dict[str, list[str]] = {}
    for change in found:
        if change.reason is not None:
            hindered.setdefault(change.reason, []).append(change.what)
    for reason, what in hindered.items():
        text = f"warning: agent {runner.agent_id} runs without its changed {' and '.join(what)}: {reason}"
        note(text, style="yellow")
    return [change for change in found if change.reason is None]
