"""A look at the session while the run's entry is written and its instance made sure of, so that none waits for the other.

Who looks has no lease yet, so somebody else's turn may end in between. That shows: it sets the agent's ``last_active_at``, which
comes with the claimed entry. Only if it still is what this manager's own last turn set, what was seen is as good as seen under the lease.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import timedelta

import anyio

from cnap_runner.errors import ServerError
from cnap_runner.opencode.sessions import Rest, at_rest
from cnap_runner.runner.boot import LastTurn, LiveInstance
from cnap_runner.store.base import Intent, TurnContext

LIMIT = timedelta(seconds=0.25)
"""A look takes milliseconds; one that takes longer is not worth waiting for."""


@dataclass(frozen=True, slots=True)
class HeadStart:
    """What was seen of a session."""

    live: LiveInstance
    after: LastTurn
    rest: Rest

    def holds(self, live: LiveInstance, context: TurnContext) -> bool:
        """Whether it is true under the lease: the same instance and session, and nobody ended a turn of the agent since."""
        return (
            live is self.live
            and context.session_id == self.after.session_id
            and context.agent.last_active_at == self.after.ended_at
        )


@dataclass(frozen=True, slots=True)
class Claimed:
    """What is known of a run when its turn is claimed."""

    context: TurnContext
    head_start: Awaitable[HeadStart | None] | None = None

    async def rest_of(self, live: LiveInstance) -> Rest | None:
        """Wait for the head start, and give what it saw of the session, where that holds in this instance."""
        ahead = None if self.head_start is None else await self.head_start
        return ahead.rest if ahead is not None and ahead.holds(live, self.context) else None


def intent_of(live: LiveInstance | None, task_id: str) -> Intent | None:
    """Tell where the next prompt of a task will go if its last turn was the agent's last; None where that is not known."""
    last = None if live is None else live.last_turn
    if live is None or last is None or last.task_id != task_id or last.last_message_id is None:
        return None
    return Intent(last.session_id, live.ref.instance_id, last.last_message_id, last.ended_at)


async def take_head_start(live: LiveInstance | None, task_id: str) -> HeadStart | None:
    """Look at the session of a task whose turn was the last one; None where there is nothing to be seen. Raises nothing."""
    last = None if live is None else live.last_turn
    if live is None or last is None or last.task_id != task_id or not live.life.can_serve:
        return None
    with contextlib.suppress(ServerError), anyio.move_on_after(LIMIT.total_seconds()):
        rest = await at_rest(live.client, last.session_id)
        return None if rest is None else HeadStart(live, last, rest)
    return None
