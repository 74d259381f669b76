"""An agent's spec as the store keeps it: text, which is read only where somebody looks into it.

Reading one takes a tenth of a millisecond; going through a thousand agents to see how they are need not take a tenth of a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from pydantic_core import from_json

from cnap_runner.model.agent import AgentSpec

KEPT = 512
"""Specs that are kept as read: as many as one process may drive at the same time, at some kilobytes each."""


@lru_cache(maxsize=KEPT)
def spec_from_text(text: str) -> AgentSpec:
    """The spec that `codec.spec_to_text` wrote. The same for the same text: it is frozen, and each turn begins with reading it."""
    return AgentSpec.model_validate_json(text)


@dataclass(frozen=True, slots=True)
class StoredSpec:
    """A spec that may not have been read yet."""

    text: str

    @property
    def spec(self) -> AgentSpec:
        """All of it."""
        return spec_from_text(self.text)

    @property
    def model(self) -> str:
        """The agent's model alone, which is no reason to read the rest."""
        return str(from_json(self.text)["model"])
