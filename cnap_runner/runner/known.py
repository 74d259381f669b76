"""What this manager last saw of each runner, for questions that cannot wait for the store.

Nothing is decided from it: decisions read the store.
"""

from __future__ import annotations

from cnap_runner.model.runner import RunnerRecord


class KnownRunners:
    """The latest record seen of each agent's runner."""

    def __init__(self) -> None:
        self._records: dict[str, RunnerRecord] = {}

    def see(self, record: RunnerRecord) -> None:
        """Remember a record that was just written or read."""
        self._records[record.agent_id] = record

    def get(self, agent_id: str) -> RunnerRecord | None:
        """Return the record last seen."""
        return self._records.get(agent_id)
