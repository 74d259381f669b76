"""The fake's sessions and the events it publishes, in OpenCode's JSON."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

Publish = Callable[[str, Json], None]

_numbers = itertools.count(1)


def new_id(prefix: str) -> str:
    """Make an id; later ones sort after earlier ones, as OpenCode's do."""
    return f"{prefix}_{next(_numbers):012x}fake"


def now() -> int:
    """The time as OpenCode writes it: milliseconds since 1970."""
    return int(time.time() * 1000)


@dataclass(eq=False, slots=True)
class FakeSession:
    """One session: its messages as the server would return them, and what it does now."""

    id: str
    publish: Publish
    title: str = ""
    messages: list[Json] = field(default_factory=list)
    status: Json | None = None
    """None while idle: then the server does not list it."""
    turn: asyncio.Task[None] | None = None

    def set_status(self, status: Json) -> None:
        """Change the status and publish it; idle also as ``session.idle``."""
        is_idle = status["type"] == "idle"
        self.status = None if is_idle else status
        self.publish("session.status", {"sessionID": self.id, "status": status})
        if is_idle:
            self.publish("session.idle", {"sessionID": self.id})

    def fail(self, error: Json) -> None:
        """Publish an error of the session."""
        self.publish("session.error", {"sessionID": self.id, "error": error})

    def add_user_message(self, texts: list[str], model: Json) -> Json:
        """Store and publish a user message."""
        info = {"role": "user", "model": model, "agent": "build", "time": {"created": now()}}
        message = self._add(info)
        for text in texts:
            self.add_part(message, {"type": "text", "text": text})
        return message

    def add_answer(self, parent_id: str, model: Json) -> Json:
        """Store and publish an assistant message that begins."""
        tokens = {"input": 0, "output": 0, "reasoning": 0, "cache": {"read": 0, "write": 0}}
        info = {"role": "assistant", "parentID": parent_id, "cost": 0, "tokens": tokens, "time": {"created": now()}}
        return self._add({**info, **model})

    def _add(self, info: Json) -> Json:
        message = {"info": {"id": new_id("msg"), "sessionID": self.id, **info}, "parts": []}
        self.messages.append(message)
        self.publish_info(message)
        return message

    def publish_info(self, message: Json) -> None:
        """Publish a message as it is now."""
        self.publish("message.updated", {"sessionID": self.id, "info": message["info"]})

    def add_part(self, message: Json, part: Json) -> Json:
        """Store and publish a part of a message."""
        part = {"id": new_id("prt"), "sessionID": self.id, "messageID": message["info"]["id"], **part}
        message["parts"].append(part)
        self.publish_part(part)
        return part

    def publish_part(self, part: Json) -> None:
        """Publish a part as it is now."""
        self.publish("message.part.updated", {"sessionID": self.id, "part": part, "time": now()})

    def publish_delta(self, part: Json, text: str) -> None:
        """Publish more of a part's text, which is not stored before the part ends."""
        ids = {"sessionID": self.id, "messageID": part["messageID"], "partID": part["id"]}
        self.publish("message.part.delta", {**ids, "field": "text", "delta": text})

    def complete(self, message: Json, finish: str | None, *, error: Json | None = None) -> None:
        """End an assistant message."""
        info = message["info"]
        if finish is not None:
            self.add_part(message, {"type": "step-finish", "reason": finish})
            info["finish"] = finish
            info["tokens"] = {"input": 7, "output": 3, "reasoning": 1, "cache": {"read": 2, "write": 0}}
            info["cost"] = 0.5
            self.publish_info(message)
        if error is not None:
            info["error"] = error
        info["time"] = {**info["time"], "completed": now()}
        self.publish_info(message)
