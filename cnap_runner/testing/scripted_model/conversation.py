"""Reads a chat-completions request: whose turn it is and which reply of it is due, from the conversation alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Conversation:
    """The part of a request that scripts are chosen by."""

    model: str
    prompt: tuple[str, ...]
    """The texts of the last user message; one for each part."""
    number: int
    """How many replies the turn has had; 0 for the first request of a prompt."""
    is_title: bool
    """Whether OpenCode asks for a title of the session, which it does once beside the first turn."""
    fingerprint: str
    """Equal for the same request sent again, as agents do after an error."""
    length: int
    """Characters of all messages."""

    @property
    def text(self) -> str:
        """The last user message as one text."""
        return "\n".join(self.prompt)


def read_conversation(body: dict[str, Any]) -> Conversation:
    """Understand the body of a request. Unknown and missing fields are let pass: agents differ."""
    messages = [message for message in body.get("messages") or [] if isinstance(message, dict)]
    last_user = max((at for at, message in enumerate(messages) if message.get("role") == "user"), default=-1)
    since = messages[last_user + 1 :]
    whole = json.dumps(messages, sort_keys=True)
    return Conversation(
        model=str(body.get("model", "")),
        prompt=_texts(messages[last_user]) if last_user >= 0 else (),
        number=sum(message.get("role") == "assistant" for message in since),
        is_title=_asks_for_title(messages, has_tools=bool(body.get("tools"))),
        fingerprint=hashlib.sha256(whole.encode()).hexdigest(),
        length=len(whole),
    )


def _texts(message: dict[str, Any]) -> tuple[str, ...]:
    content = message.get("content")
    if isinstance(content, str):
        return (content,)
    parts = content if isinstance(content, list) else []
    return tuple(str(part["text"]) for part in parts if isinstance(part, dict) and part.get("type") == "text")


def _asks_for_title(messages: list[dict[str, Any]], *, has_tools: bool) -> bool:
    """OpenCode 1.18's request for a title has no tools and the system prompt "You are a title generator. …" (seen)."""
    if has_tools:
        return False
    system = (text for message in messages if message.get("role") == "system" for text in _texts(message))
    return any("title generator" in text for text in system)
