"""AgentSpec: what is wanted of an agent."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from cnap_runner.errors import InvalidInput, NotSupportedYet
from cnap_runner.model.durations import Duration
from cnap_runner.model.edge import EdgeModel
from cnap_runner.model.ids import AgentId

Reply = Literal["allow", "reject", "ask"]

MIN_MEMORY_MB = 384
"""Below this OpenCode is killed for want of memory while it starts (measured at 256 MB, works slowly at 384 MB)."""


class Resources(EdgeModel):
    """Limits of an agent's instance. What is left out comes from the settings."""

    memory_mb: int | None = Field(None, ge=MIN_MEMORY_MB, le=1 << 20)
    """Memory in MiB, swap included. OpenCode uses 400 to 460 MiB after a few turns, before the agent's own commands."""
    cpus: float | None = Field(None, ge=0.1, le=1024)
    """CPU in cores. Half a core makes a start take 4 s instead of 2."""
    pids: int | None = Field(None, ge=64, le=1 << 20)
    """Processes and threads. OpenCode alone has about 30."""
    disk_mb: int | None = Field(None, ge=1)
    """Soft limit on workspace, state and home, in MiB."""


class Workspace(EdgeModel):
    """What an agent's workspace is seeded with when it is first made."""

    copy_from: str | None = Field(None, alias="copy")
    git: str | None = None
    branch: str | None = None
    depth: int | None = Field(None, ge=1)


class Egress(EdgeModel):
    """What an agent may reach."""

    mode: Literal["open", "none", "allowlist"] = "open"
    allow: tuple[str, ...] = ()


class Answers(EdgeModel):
    """What is replied to permissions and questions the agent raises."""

    permissions: dict[str, Reply] = Field(default_factory=dict)
    questions: str | None = None
    deadline: Duration | None = None
    fallback: Literal["allow", "reject"] = "reject"


class Life(EdgeModel):
    """How long an agent's instance and its turns may live. What is left out comes from the settings."""

    pause_after: Duration | None = None
    idle_timeout: Duration | None = None
    max_age: Duration | None = None
    max_run_time: Duration | None = None
    """Longest turn, counted from the sending of its prompt; then it is aborted and ends as ``timed_out``."""


class AgentSpec(EdgeModel):
    """What is wanted of an agent. Frozen; nested values may be given as plain dictionaries."""

    agent_id: AgentId
    model: str
    """``provider/model``, as OpenCode names them, for example ``anthropic/claude-sonnet-4-5``."""
    system_prompt: str | None = None
    """Added to OpenCode's own system prompt in each turn."""
    image: str | None = None
    opencode: dict[str, Any] = Field(default_factory=dict)
    """OpenCode's own configuration, merged over the template: providers, agents, permissions and so on."""
    mcp: dict[str, Any] = Field(default_factory=dict)
    secrets: dict[str, str] = Field(default_factory=dict)
    resources: Resources = Resources()
    runtime: str | None = None
    workspace: Workspace = Workspace()
    egress: Egress = Egress()
    answers: Answers = Answers()
    life: Life = Life()
    trust_workspace_config: bool = False
    """Let an ``opencode.json`` in the workspace override these settings. Off: whoever writes the workspace would rule the agent."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Put on the agent's container as they are; keys under ``cnap.`` are ours."""

    @field_validator("model")
    @classmethod
    def _model_names_provider(cls, value: str) -> str:
        return check_model(value)

    @field_validator("labels")
    @classmethod
    def _labels_are_not_ours(cls, value: dict[str, str]) -> dict[str, str]:
        if ours := [key for key in value if key.startswith("cnap.") or not key]:
            raise InvalidInput(f"label {ours[0]!r} cannot be set: names under 'cnap.' are ours.")
        return value


def check_model(value: str) -> str:
    """Return ``provider/model`` unchanged, or raise `InvalidInput`."""
    provider, _, name = value.partition("/")
    if not provider or not name or len(value) > 200 or any(c.isspace() or not c.isprintable() for c in value):
        raise InvalidInput(
            f"{value[:80]!r} is not a model: write provider/model, for example anthropic/claude-sonnet-4-5."
        )
    return value


_LATER: tuple[tuple[str, Any], ...] = (
    ("image", None),
    ("mcp", {}),
    ("secrets", {}),
    ("resources.disk_mb", None),
    ("runtime", None),
    ("workspace", Workspace()),
    ("egress", Egress()),
    ("answers", Answers()),
    ("life.pause_after", None),
    ("life.idle_timeout", None),
    ("life.max_age", None),
)


def refuse_unbuilt(spec: AgentSpec) -> None:
    """Raise `NotSupportedYet` for the first field whose effect is not built yet, instead of ignoring it."""
    for path, default in _LATER:
        value: Any = spec
        for name in path.split("."):
            value = getattr(value, name)
        if value != default:
            raise NotSupportedYet(
                f"AgentSpec.{path} has no effect yet.", hint="Leave it out; docs/known-flaws.md lists what is to come."
            )
