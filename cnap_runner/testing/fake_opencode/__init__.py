"""A fake OpenCode server: real HTTP on loopback, scripted turns, and failures to order.

It boots in a millisecond where the real one takes seconds, and speaks as much of the contract as `cnap_runner.opencode` uses, in the
order in which the real one was seen to (docs/opencode.md)::

    async with FakeOpenCode(password="…") as server:
        server.script([Say("Hello ", "world")])
        ...
        assert server.prompts == ["Hi"]
"""

from cnap_runner.testing.fake_opencode.script import (
    Ask,
    AskQuestion,
    Break,
    Cut,
    DropStreams,
    Edit,
    Fail,
    FailUnanswered,
    Hold,
    MuteStreams,
    Retry,
    Say,
    Step,
    Think,
    UseTool,
)
from cnap_runner.testing.fake_opencode.server import FakeOpenCode
from cnap_runner.testing.fake_opencode.troubles import (
    BrokenDatabaseOpenCode,
    DeafOpenCode,
    GarblingOpenCode,
    HangingOpenCode,
    LosesAnswerOpenCode,
    MisreadingOpenCode,
    SilentOpenCode,
    Version2OpenCode,
)

__all__ = [
    "Ask",
    "AskQuestion",
    "Break",
    "BrokenDatabaseOpenCode",
    "Cut",
    "DeafOpenCode",
    "DropStreams",
    "Edit",
    "Fail",
    "FailUnanswered",
    "FakeOpenCode",
    "GarblingOpenCode",
    "HangingOpenCode",
    "Hold",
    "LosesAnswerOpenCode",
    "MisreadingOpenCode",
    "MuteStreams",
    "Retry",
    "Say",
    "SilentOpenCode",
    "Step",
    "Think",
    "UseTool",
    "Version2OpenCode",
]
