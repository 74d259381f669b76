"""Gives every AI coding agent its own long-lived OpenCode container.

The names below are the public face; everything else may change. `cnap_runner.sync` has the same for blocking callers,
`cnap_runner.errors` draws the tree of errors, `cnap_runner.model.events` the union of run events.
"""

from cnap_runner.errors import RunnerError
from cnap_runner.model.agent import AgentSpec, Answers, Egress, Life, Resources, Workspace
from cnap_runner.model.events import RunEvent
from cnap_runner.model.run import Attachment, Message, Outcome, RunRecord, RunRequest, RunResult, RunState, Usage
from cnap_runner.model.runner import RunnerStatus
from cnap_runner.runner.callbacks import StatusCallback
from cnap_runner.runner.runner import Runner
from cnap_runner.settings import Settings
from cnap_runner.wiring import RunnerManager

__all__ = [
    "AgentSpec",
    "Answers",
    "Attachment",
    "Egress",
    "Life",
    "Message",
    "Outcome",
    "Resources",
    "RunEvent",
    "RunRecord",
    "RunRequest",
    "RunResult",
    "RunState",
    "Runner",
    "RunnerError",
    "RunnerManager",
    "RunnerStatus",
    "Settings",
    "StatusCallback",
    "Usage",
    "Workspace",
]
