"""A reply in the chat-completions protocol: the chunks of a stream, the body of one that is not streamed, and errors."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from cnap_runner.testing.scripted_model.conversation import Conversation
from cnap_runner.testing.scripted_model.script import CallTool, CutStream, Reply, Say, Think, TokenUsage

DONE = b"data: [DONE]\n\n"
_CHARACTERS_PER_TOKEN = 4
_ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def pieces(say: Say) -> list[str]:
    """The chunks a text is streamed in; together they are the text."""
    if say.chunk_size is None:
        return re.findall(r"\s*\S+\s*$|\s*\S+|\s+$", say.text)
    return [say.text[at : at + say.chunk_size] for at in range(0, len(say.text), say.chunk_size)]


def event(data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(data).encode() + b"\n\n"


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every chunk of one reply carries."""

    reply_id: str
    model: str
    created: int
    """Seconds since the epoch, as the protocol has it."""

    def chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        """A chunk of the stream with that delta."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return event({**self._head("chat.completion.chunk"), "choices": [choice]})

    def usage_chunk(self, usage: TokenUsage) -> bytes:
        """The last chunk, which has no choices."""
        return event({**self._head("chat.completion.chunk"), "choices": [], "usage": usage_body(usage)})

    def whole(self, reply: Reply, usage: TokenUsage) -> dict[str, Any]:
        """The body of a reply that is not streamed."""
        content = "".join(step.text for step in reply.steps if isinstance(step, Say))
        reasoning = "".join(step.text for step in reply.steps if isinstance(step, Think))
        calls = [step for step in reply.steps if isinstance(step, CallTool)]
        message: dict[str, Any] = {"role": "assistant", "content": content or None}
        if reasoning:
            message["reasoning_content"] = reasoning
        if calls:
            message["tool_calls"] = [tool_call(call, self.call_id(at)) for at, call in enumerate(calls)]
        choice = {"index": 0, "message": message, "finish_reason": finish_reason(reply)}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage_body(usage)}

    def call_id(self, index: int) -> str:
        """The id of the reply's tool call of that index."""
        return f"call_{self.reply_id}_{index}"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": f"chatcmpl-{self.reply_id}", "object": kind, "created": self.created, "model": self.model}


@dataclass(slots=True)
class ToolCallIndex:
    """Numbers the tool calls of one streamed reply."""

    envelope: Envelope
    next: int = field(default=0, init=False)

    def chunk(self, call: CallTool) -> bytes:
        """The chunk of the next tool call."""
        index, self.next = self.next, self.next + 1
        return self.envelope.chunk({"tool_calls": [{"index": index, **tool_call(call, self.envelope.call_id(index))}]})


def tool_call(call: CallTool, call_id: str) -> dict[str, Any]:
    """A tool call as the protocol has it: its arguments are JSON in a text."""
    function = {"name": call.name, "arguments": json.dumps(dict(call.arguments))}
    return {"id": call_id, "type": "function", "function": function}


def finish_reason(reply: Reply) -> str:
    """Why the reply ended."""
    return "tool_calls" if reply.calls_tools else "stop"


def used(reply: Reply, conversation: Conversation) -> TokenUsage:
    """What the reply reports as used: what its script says, else an estimate from the length of the texts."""
    if reply.usage is not None:
        return reply.usage
    said = sum(_length(step) for step in reply.steps)
    thought = sum(len(step.text) for step in reply.steps if isinstance(step, Think))
    return TokenUsage(
        input_tokens=_tokens(conversation.length), output_tokens=_tokens(said), reasoning_tokens=_tokens(thought)
    )


def usage_body(usage: TokenUsage) -> dict[str, Any]:
    """Usage as the protocol has it."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def error_body(status: int, message: str) -> dict[str, Any]:
    """An error as providers send it."""
    kind = _ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": kind}}


def _length(step: object) -> int:
    match step:
        case Say(text=text) | Think(text=text) | CutStream(after=text):
            return len(text)
        case CallTool(arguments=arguments):
            return len(json.dumps(dict(arguments)))
        case _:
            return 0


def _tokens(characters: int) -> int:
    return -(-characters // _CHARACTERS_PER_TOKEN)
