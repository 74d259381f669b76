"""All that is needed to send one prompt."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta

from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.decisions.life import LifeLimits
from cnap_runner.model.run import Usage
from cnap_runner.model.runner import RunnerRecord
from cnap_runner.opencode.wire import Prompt
from cnap_runner.runner.boot import LiveInstance
from cnap_runner.runner.turns.resuming import GoingOn


@dataclass(frozen=True, slots=True)
class Sendable:
    """A prompt, and where it goes."""

    live: LiveInstance
    record: RunnerRecord
    session_id: str
    after_message_id: str | None
    """The session's last message; the turn is what comes after it."""
    prompt: Prompt
    max_run_time: timedelta
    limits: LifeLimits
    spec: AgentSpec
    """As the instance was given it: what decides about what the agent asks."""
    used: Usage = field(default_factory=Usage)
    """By the run before this prompt."""
    is_resumption: bool = False
    """Whether it tells the agent to go on with a turn that was interrupted."""

    def after(self, going_on: GoingOn) -> Sendable:
        """Give what is sent next, after an interruption."""
        return replace(
            self,
            live=going_on.live,
            record=going_on.record,
            after_message_id=going_on.after_message_id,
            prompt=going_on.prompt,
            spec=going_on.row.spec,
            used=going_on.used,
            is_resumption=True,
        )
