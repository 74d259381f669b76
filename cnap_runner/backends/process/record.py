"""What an instance was created as: ``instance.json``. Nothing in it is secret."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cnap_runner.backends.process_launcher.files import INSTANCE_FILE
from cnap_runner.model.instance import (
    LABEL_AGENT,
    LABEL_GENERATION,
    LABEL_INSTALL,
    LABEL_SPEC,
    InstanceSpec,
    Layout,
    Limits,
)


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """One created instance. Its limits are kept for the reader; nothing here applies them."""

    labels: Mapping[str, str]
    layout: Layout
    environment: Mapping[str, str]
    limits: Limits
    created_at: datetime

    @classmethod
    def of(cls, spec: InstanceSpec, layout: Layout) -> InstanceRecord:
        """Record what is wanted, now."""
        return cls(
            labels={**spec.labels, **spec.identity_labels()},
            layout=layout,
            environment=dict(spec.environment),
            limits=spec.limits,
            created_at=datetime.now(UTC),
        )

    @property
    def install_id(self) -> str:
        """Whose instance it is."""
        return self.labels[LABEL_INSTALL]

    @property
    def agent_id(self) -> str:
        """Whom it serves."""
        return self.labels[LABEL_AGENT]

    @property
    def generation(self) -> int:
        """Which of the agent's instances it is."""
        return int(self.labels[LABEL_GENERATION])

    @property
    def spec_hash(self) -> str:
        """Hash of what only a new instance can change."""
        return self.labels[LABEL_SPEC]

    def to_json(self) -> dict[str, Any]:
        """Give it as plain values."""
        return {**asdict(self), "created_at": self.created_at.isoformat()}


def read_record(folder: Path) -> InstanceRecord:
    """Read an instance's record. Raises `FileNotFoundError`, `ValueError` for a damaged one, other `OSError`."""
    data = json.loads((folder / INSTANCE_FILE).read_text(encoding="utf-8"))
    try:
        record = InstanceRecord(
            labels=data["labels"],
            layout=Layout(**data["layout"]),
            environment=data["environment"],
            limits=Limits(**data["limits"]),
            created_at=datetime.fromisoformat(data["created_at"]),
        )
        # Read once here, so that a record without its identity is refused as a whole.
        _ = (record.install_id, record.agent_id, record.generation, record.spec_hash)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not an instance's record: {error!r}") from error
    return record
