"""Gives every AI coding agent its own long-lived OpenCode container.

The names below are the public face; everything else may change. `cnap_runner.sync` has the same for blocking callers,
`cnap_runner.errors` draws the tree of errors, `cnap_runner.model.events` the union of run events.

Each name is loaded when it is first used, so that a command that needs none of them starts at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnap_runner.errors import RunnerError
    from cnap_runner.model.agent import AgentSpec, Answers, Egress, Life, Resources, Workspace
    from cnap_runner.model.events import RunEvent
    from cnap_runner.model.run import Attachment, Message, Outcome, RunRecord, RunRequest, RunResult, RunState, Usage
    from cnap_runner.model.runner import RunnerStatus
    from cnap_runner.runner.runner import Runner
    from cnap_runner.runner.turns.callbacks import StatusCallback
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

_HOMES = {
    "errors": ("RunnerError",),
    "model.agent": ("AgentSpec", "Answers", "Egress", "Life", "Resources", "Workspace"),
    "model.events": ("RunEvent",),
    "model.run": ("Attachment", "Message", "Outcome", "RunRecord", "RunRequest", "RunResult", "RunState", "Usage"),
    "model.runner": ("RunnerStatus",),
    "runner.turns.callbacks": ("StatusCallback",),
    "runner.runner": ("Runner",),
    "settings": ("Settings",),
    "wiring": ("RunnerManager",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
