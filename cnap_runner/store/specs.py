"""An agent's spec as the store keeps it: text, which is read only where somebody looks into it.

Reading one takes a tenth of a millisecond; going through a thousand agents to see how they are need not take a tenth of a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from pydantic import ValidationError
from pydantic_core import from_json

from cnap_runner.errors import StoreError
from cnap_runner.model.agent import AgentSpec

KEPT = 512
"""Specs that are kept as read: as many as one process may drive at the same time, at some kilobytes each."""


@lru_cache(maxsize=KEPT)
def spec_from_text(text: str) -> AgentSpec:
    """The spec that `codec.spec_to_text` wrote. The same for the same text: it is frozen, and each turn begins with reading it."""
    return AgentSpec.model_validate_json(text)


@dataclass(frozen=True, slots=True)
class StoredSpec:
    """A spec that may not have been read yet. Reading it raises `StoreError` where this version cannot."""

    agent_id: str
    text: str

    @property
    def spec(self) -> AgentSpec:
        """All of it."""
        try:
            return spec_from_text(self.text)
        except ValidationError as error:
            raise self._unreadable(error) from None

    @property
    def model(self) -> str:
        """The agent's model alone, which is no reason to read the rest."""
        try:
            return str(from_json(self.text)["model"])
        except (ValueError, KeyError, TypeError) as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> StoreError:
        """Say whose it is and where: what it holds there may be a secret."""
        where = "it names no model"
        if isinstance(error, ValidationError):
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            place, told = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
            where = f"{place}: {told}" if place else told
        return StoreError(
            f"The stored settings of agent {self.agent_id} cannot be read ({where}).",
            hint=f"A newer version may have written them. `cnap-runner rm {self.agent_id}` forgets the agent and keeps its files.",
        )
