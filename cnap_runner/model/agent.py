"""AgentSpec: what is wanted of an agent."""

from __future__ import annotations

import json
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticSerializationError

from cnap_runner.errors import InvalidInput, NotSupportedYet
from cnap_runner.model.durations import Duration
from cnap_runner.model.edge import EdgeModel
from cnap_runner.model.ids import AgentId
from cnap_runner.model.mcp import McpServer

Reply = Literal["allow", "reject", "ask"]
Ulimit = int | tuple[int, int]
"""One number for both, or soft and hard; -1: unlimited."""

MIN_MEMORY_MB = 384
"""Below this OpenCode is killed for want of memory while it starts (measured at 256 MB, works slowly at 384 MB)."""


_LONGEST_RULE = 500
_LONGEST_ANSWER = 4000


class Resources(EdgeModel):
    """Limits of an agent's instance. What is left out comes from the settings."""

    memory_mb: int | None = Field(None, ge=MIN_MEMORY_MB, le=1 << 20)
    """Memory in MiB, swap included. OpenCode uses 400 to 460 MiB after a few turns, before the agent's own commands."""
    cpus: float | None = Field(None, ge=0.1, le=1024)
    """CPU in cores. Half a core makes a start take 4 s instead of 2."""
    pids: int | None = Field(None, ge=64, le=1 << 20)
    """Processes and threads. OpenCode alone has about 30."""
    disk_mb: int | None = Field(None, ge=16)
    """Soft limit on workspace, state and home together, in MiB: above it no turn begins. A turn that passes the hard ceiling
    (`Settings.disk_ceiling_percent`) is aborted."""
    shm_mb: int | None = Field(None, ge=1, le=1 << 20)
    """Size of ``/dev/shm`` in MiB; browsers want more than the default. It counts as the agent's memory."""
    ulimits: dict[str, Ulimit] = Field(default_factory=dict)
    """Limits of each process by their usual names (``nofile``, ``core``): one number, or soft and hard."""
    gpus: int | Literal["all"] | None = Field(None)
    """How many GPUs, or ``all``; passed on to the engine."""
    devices: tuple[str, ...] = ()
    """Devices of the host that the agent may use, by path (``/dev/kvm``)."""


class Workspace(EdgeModel):
    """What an agent's workspace is seeded with when it is first made. One that has files already is left as it is."""

    copy_from: Path | None = Field(None, alias="copy")
    """A folder on the manager's side, whose contents are copied."""
    git: str | None = None
    """What is cloned: a URL, or a path on the manager's side. Its user and password may be ``${NAME}`` of the agent's secrets."""
    branch: str | None = None
    """Branch or tag; None: what the remote's HEAD names."""
    depth: int | None = Field(None, ge=1)
    """Commits of history; None: all."""

    @field_validator("copy_from")
    @classmethod
    def _copy_is_absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if self.copy_from is not None and self.git is not None:
            raise InvalidInput("a workspace is seeded with either copy or git, not both.")
        if self.git is None and (self.branch is not None or self.depth is not None):
            raise InvalidInput("branch and depth belong to git, which is not given.")
        return self


class Egress(EdgeModel):
    """What an agent may reach. The hosts of its configured model providers are always allowed; cloud metadata addresses never."""

    mode: Literal["open", "none", "allowlist"] = "open"
    allow: tuple[str, ...] = ()
    """For ``allowlist``: ``host``, ``host:port`` or ``*.domain[:port]``; without a port, 80 and 443."""

    @model_validator(mode="after")
    def _allow_needs_allowlist(self) -> Self:
        if self.allow and self.mode != "allowlist":
            raise InvalidInput(f"allow belongs to mode 'allowlist', and the mode is {self.mode!r}.")
        return self


class Answers(EdgeModel):
    """What is replied to permissions and questions the agent raises. Left out: all is allowed, and the question tool is off."""

    permissions: dict[str, Reply] = Field(default_factory=dict)
    """``PERMISSION`` or ``PERMISSION:PATTERN`` → ``allow``, ``reject`` or ``ask``: ``{"bash": "allow", "bash:git push *": "ask"}``. The last that
    matches counts. They come after the permissions of ``opencode``."""
    questions: str | None = None
    """``ask``, ``reject``, or the answer that each question gets. None: ``reject``, and the question tool is off."""
    deadline: Duration | None = None
    """How long one that is asked waits for a reply. None: ``answer_deadline`` of the settings."""
    fallback: Literal["allow", "reject"] = "reject"
    """What is replied to a permission at its deadline. A question is always rejected then."""

    @field_validator("permissions")
    @classmethod
    def _rules_name_permissions(cls, value: dict[str, Reply]) -> dict[str, Reply]:
        for key in value:
            permission = key.partition(":")[0]
            if (
                not permission
                or len(key) > _LONGEST_RULE
                or not key.isprintable()
                or any(c.isspace() for c in permission)
            ):
                raise InvalidInput(
                    f"{key[:80]!r} is no rule: write PERMISSION or PERMISSION:PATTERN, such as 'bash:git push *'."
                )
            if permission == "question":
                raise InvalidInput("questions have a field of their own: answers.questions.")
        return value

    @field_validator("questions")
    @classmethod
    def _answer_says_something(cls, value: str | None) -> str | None:
        if value is not None and (not value.strip() or len(value) > _LONGEST_ANSWER):
            raise InvalidInput(f"it is 'ask', 'reject', or an answer of at most {_LONGEST_ANSWER} characters.")
        return value


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
    """The project's own image; OpenCode is brought into it. None: that of the settings."""
    opencode: dict[str, Any] = Field(default_factory=dict)
    """OpenCode's own configuration, merged over the template: providers, agents, permissions and so on."""
    opencode_files: dict[str, str] = Field(default_factory=dict)
    """Files for OpenCode's configuration folder, by path below it, as text: ``AGENTS.md``, ``agents/reviewer.md``,
    ``commands/fix.md``, ``skills/release/SKILL.md``."""
    mcp: dict[str, McpServer] = Field(default_factory=dict)
    """MCP servers by name."""
    secrets: dict[str, str] = Field(default_factory=dict)
    """Name → where it comes from (``env:NAME``, ``file:PATH``, ``keyring:NAME``, ``vault:NAME``). ``${NAME}`` inside ``opencode``, ``mcp`` and
    ``workspace.git`` stands for it."""
    resources: Resources = Resources()
    runtime: str | None = None
    """An OCI runtime by the name the engine knows it by (``runsc``, ``kata``). None: that of the settings, else the engine's default."""
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

    @field_validator("opencode")
    @classmethod
    def _opencode_is_json(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError):  # its text may quote a value
            raise InvalidInput("it is OpenCode's JSON, and holds something that JSON cannot.") from None
        return value

    @field_validator("labels")
    @classmethod
    def _labels_are_not_ours(cls, value: dict[str, str]) -> dict[str, str]:
        if ours := [key for key in value if key.startswith("cnap.") or not key]:
            raise InvalidInput(f"label {ours[0]!r} cannot be set: names under 'cnap.' are ours.")
        return value

    @model_validator(mode="after")
    def _can_be_stored(self) -> Self:
        try:
            self.model_dump_json()
        except PydanticSerializationError:  # its text may quote a value
            raise InvalidInput("half a surrogate pair is no text: something was read that is not UTF-8.") from None
        return self


def check_model(value: str) -> str:
    """Return ``provider/model`` unchanged, or raise `InvalidInput`."""
    provider, _, name = value.partition("/")
    if not provider or not name or len(value) > 200 or any(c.isspace() or not c.isprintable() for c in value):
        raise InvalidInput(
            f"{value[:80]!r} is not a model: write provider/model, for example anthropic/claude-sonnet-4-5."
        )
    return value


_LATER: tuple[tuple[str, Any], ...] = ()
"""Fields whose effect is not built yet, by path, and their defaults. None at present."""


def unbuilt_fields(spec: AgentSpec) -> list[str]:
    """Name the fields that are set and whose effect is not built yet: ``life.max_age``."""
    return [path for path, default in _LATER if attrgetter(path)(spec) != default]


def refuse_unbuilt(spec: AgentSpec) -> None:
    """Raise `NotSupportedYet` for the first field whose effect is not built yet, instead of ignoring it."""
    for path in unbuilt_fields(spec):
        raise NotSupportedYet(
            f"AgentSpec.{path} of agent {spec.agent_id} has no effect yet.",
            hint="Leave it out; docs/known-flaws.md lists what is to come.",
        )
