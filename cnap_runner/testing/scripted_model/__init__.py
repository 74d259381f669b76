"""An OpenAI-compatible model server whose replies are written down: text, reasoning, tool calls, delays, errors, cuts and hangs.

Needs the extra ``testing``. `docs/testing.md` shows how to use it; ``python -m cnap_runner.testing.scripted_model`` runs it by itself.
"""

from cnap_runner.testing.scripted_model.language import load_rules, parse_prompt, parse_script
from cnap_runner.testing.scripted_model.log import RecordedRequest, read_log
from cnap_runner.testing.scripted_model.script import (
    CallTool,
    CutStream,
    Fail,
    Hang,
    Malformed,
    Reply,
    Rule,
    Say,
    Step,
    Think,
    TokenUsage,
    Turn,
    Wait,
)
from cnap_runner.testing.scripted_model.server import ScriptedModel, provider_config

__all__ = [
    "CallTool",
    "CutStream",
    "Fail",
    "Hang",
    "Malformed",
    "RecordedRequest",
    "Reply",
    "Rule",
    "Say",
    "ScriptedModel",
    "Step",
    "Think",
    "TokenUsage",
    "Turn",
    "Wait",
    "load_rules",
    "parse_prompt",
    "parse_script",
    "provider_config",
    "read_log",
]
