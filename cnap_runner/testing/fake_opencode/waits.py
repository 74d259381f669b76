"""What a fake turn waits for: its permissions and questions, and the replies to them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from cnap_runner.testing.fake_opencode.http import Request, Response, answer
from cnap_runner.testing.fake_opencode.sessions import Json, Publish


@dataclass(eq=False, slots=True)
class Wait:
    """One permission or question that waits."""

    kind: str
    """``permission`` or ``question``."""
    info: Json
    publish: Publish
    replied: asyncio.Event = field(default_factory=asyncio.Event)


class Waits:
    """All that waits on one server. Those of aborted turns stay, as they do on the real one."""

    def __init__(self) -> None:
        self._waits: dict[str, Wait] = {}
        self.replies: dict[str, Json] = {}
        """The reply to each request that was answered, as it came."""

    def add(self, kind: str, info: Json, publish: Publish) -> Wait:
        """Raise a request: list it and tell it."""
        wait = self._waits[info["id"]] = Wait(kind, info, publish)
        publish(f"{kind}.asked", info)
        return wait

    def forget(self) -> None:
        """Forget all, as when the process ends."""
        self._waits.clear()

    def answer(self, request: Request, parts: list[str]) -> Response:
        """Answer ``/permission`` and ``/question`` and what is below them."""
        match (request.method, parts):
            case ("GET", [kind]):
                return answer([wait.info for wait in self._waits.values() if wait.kind == kind])
            case ("POST", [kind, request_id, verb]):
                return self._reply(kind, request_id, {} if verb == "reject" else request.json(), verb=verb)
        return Response(404)

    def _reply(self, kind: str, request_id: str, said: Json, *, verb: str) -> Response:
        wait = self._waits.pop(request_id, None)
        if wait is None or wait.kind != kind:
            return answer({"_tag": "NotFoundError", "requestID": request_id}, 404)
        self.replies[request_id] = {"rejected": True} if verb == "reject" else said
        told = {"sessionID": wait.info["sessionID"], "requestID": request_id}
        wait.publish(f"{kind}.{'rejected' if verb == 'reject' else 'replied'}", {**told, **said})
        wait.replied.set()
        return answer(value=True)
