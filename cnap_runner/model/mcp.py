"""MCP servers of an agent, as OpenCode's own configuration names their fields."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from cnap_runner.errors import InvalidInput
from cnap_runner.model.edge import EdgeModel


class LocalMcpServer(EdgeModel):
    """A program inside the agent's instance, spoken to by its standard input and output."""

    type: Literal["local"] = "local"
    command: tuple[str, ...] = Field(min_length=1)
    """Program and arguments."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Variables of that program alone. ``${NAME}`` stands for a secret."""
    cwd: str | None = None
    """Its working folder inside; None: the workspace."""
    enabled: bool = True
    timeout: int | None = Field(None, gt=0)
    """Milliseconds that its answers may take; None: OpenCode's own default."""

    @field_validator("command", mode="before")
    @classmethod
    def _command_is_a_list(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise InvalidInput("it is a list of words, the program and its arguments: [npx, -y, server].")
        return value


class RemoteMcpServer(EdgeModel):
    """A server reached by HTTP."""

    type: Literal["remote"] = "remote"
    url: str
    headers: dict[str, str] = Field(default_factory=dict)
    """Sent with each request. ``${NAME}`` stands for a secret."""
    oauth: dict[str, Any] | Literal[False] | None = None
    """OpenCode's own settings of OAuth; False switches its detection off."""
    enabled: bool = True
    timeout: int | None = Field(None, gt=0)
    """Milliseconds that its answers may take; None: OpenCode's own default."""

    @field_validator("url")
    @classmethod
    def _url_is_an_address(cls, value: str) -> str:
        if not re.fullmatch(r"https?://\S+", value):
            raise InvalidInput("it is no address: it begins with http:// or https://.")
        return value


def _with_type(value: Any) -> Any:
    """Tell the kind of a server from its fields where it is not named."""
    if not isinstance(value, dict) or "type" in value:
        return value
    if "command" in value and "url" not in value:
        return {**value, "type": "local"}
    if "url" in value and "command" not in value:
        return {**value, "type": "remote"}
    raise InvalidInput("an MCP server has either a command (a program inside) or a url.")


McpServer = Annotated[
    Annotated[LocalMcpServer | RemoteMcpServer, Field(discriminator="type")], BeforeValidator(_with_type)
]
"""One MCP server; ``type`` may be left out."""


@dataclass(frozen=True, slots=True)
class McpState:
    """How one MCP server of an agent is."""

    name: str
    status: str
    """OpenCode's own word: ``connected``, ``disabled``, ``failed``, ``needs_auth``, ``needs_client_registration``; ours:
    ``starting``, and ``not_running`` where the agent has no live instance."""
    error: str | None = None
    """Why it failed, in OpenCode's words."""
