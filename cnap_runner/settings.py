"""Settings of an install: frozen, from arguments, ``CNAP_RUNNER_*`` variables and a TOML file, in this order of strength."""

from __future__ import annotations

import json
import os
import re
import ssl
from datetime import timedelta
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from cnap_runner.errors import InvalidInput
from cnap_runner.model.agent import MIN_MEMORY_MB
from cnap_runner.model.durations import Duration
from cnap_runner.model.edge import describe
from cnap_runner.model.proxy import check_proxy, is_loopback

CONFIG_VARIABLE = "CNAP_RUNNER_CONFIG"
"""Names the TOML file; ``cnap-runner.toml`` in the current folder when it is not set."""

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_LOCALE = re.compile(r"[A-Za-z0-9_.@-]+")
_AUTHOR = re.compile(r"[^\x00-\x1f\x7f<>]+")
_ADDRESS = re.compile(r"[^\s\x00-\x1f\x7f<>@]+@[^\s\x00-\x1f\x7f<>@]+")
_ONE_LINE = {"locale": _LOCALE, "git_name": _AUTHOR, "git_email": _ADDRESS}


class Settings(BaseSettings):
    """Settings of an install. Each field is also read from ``CNAP_RUNNER_`` + its name in capitals, and from a TOML file."""

    model_config = SettingsConfigDict(
        env_prefix="CNAP_RUNNER_",
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        nested_model_default_partial_update=False,
    )

    data_dir: Path = Path("data")
    """Folder of workspaces, sessions and the database. Whoever shares it shares the install."""
    backend: Literal["docker", "process"] = "docker"
    """Where instances live. ``process`` is for machines without an engine and isolates nothing (docs/architecture.md)."""
    image: str = "cnap-runner:latest"
    """Image of agents that name none of their own."""
    max_containers: int = Field(10, ge=1)
    """Instances of this install that may live at the same time, over all managers."""
    on_shutdown: Literal["stop", "leave"] = "stop"
    """What a manager does at its end with the agents it used: stop those that no other living manager uses, or leave them."""
    memory_mb: int = Field(2048, ge=MIN_MEMORY_MB)
    """Memory of an instance in MiB, swap included. OpenCode alone uses 400 to 460 MiB after a few turns (ADR 0004)."""
    cpus: float = Field(2.0, ge=0.1)
    """CPU of an instance in cores; no more than the host has is asked of the engine."""
    pids: int = Field(1024, ge=64)
    """Processes and threads of an instance."""
    shm_mb: int = Field(64, ge=1)
    """Size of ``/dev/shm`` in an instance, in MiB."""
    runtime: str | None = None
    """OCI runtime of agents that name none of their own; None: the engine's default."""
    opencode: Annotated[dict[str, Any], NoDecode] = Field(default_factory=dict)
    """OpenCode's own configuration for all agents, merged over the template and under each agent's own. As a variable, JSON."""
    disk_mb: int = Field(10_240, ge=16)
    """Soft limit on an agent's workspace, state and home together, in MiB: above it no turn begins."""
    disk_ceiling_percent: int = Field(150, ge=100)
    """Hard ceiling in percent of the soft limit: a turn that passes it is frozen and aborted."""
    host_reserve_mb: int = Field(512, ge=0)
    """Room on the data folder's disk, in MiB, that agents must leave: with less, turns are frozen and aborted, and none begins."""
    workspace_retention: Duration | None = None
    """Time after its deletion when an agent's workspace and sessions are removed for ever; None: never."""
    seed_timeout: Duration = timedelta(minutes=10)
    """Longest time to copy or clone what a workspace begins with."""
    secrets_dir: Path | None = None
    """Folder of secrets, one file each, for ``file:NAME``; None: ``/run/secrets``, where Docker and Kubernetes put them."""
    http_proxy: str | None = None
    """Proxy through which agents and image builds reach the world by HTTP (``http://proxy.example:3128``), without credentials."""
    https_proxy: str | None = None
    """The same for HTTPS."""
    no_proxy: str | None = None
    """Hosts reached without the proxy, separated by commas."""
    ca_file: Path | None = None
    """PEM file of certificate authorities that agents and image builds trust besides the usual ones."""
    git_name: str = "CNAP agent"
    """Author of the commits that agents make."""
    git_email: str = "agent@localhost"
    """Their author's address."""
    timezone: str | None = None
    """Time zone of agents, by its IANA name; None: UTC."""
    locale: str = "C.UTF-8"
    """Locale of agents (``LANG``)."""
    start_timeout: Duration = timedelta(seconds=30)
    """Longest time to create and start an instance."""
    health_timeout: Duration = timedelta(seconds=60)
    """Longest time from its start until its server answers with data."""
    stop_timeout: Duration = timedelta(seconds=10)
    """Grace before an instance's processes are killed."""
    shutdown_timeout: Duration = timedelta(seconds=30)
    """Longest time a manager takes to end turns and stop agents when it is closed."""
    pause_after: Duration | None = timedelta(minutes=1)
    """Idle time after which an instance is frozen; its memory stays, its next turn begins some milliseconds later. None: never."""
    idle_timeout: Duration | None = timedelta(minutes=5)
    """Idle time after which an instance is stopped; session and workspace stay. None: never."""
    max_age: Duration | None = timedelta(hours=24)
    """Age at which an instance is replaced, between turns. None: never."""
    memory_mark_percent: int | None = Field(85, ge=10, le=100)
    """Share of its memory limit at which an instance is replaced, between turns; None: never."""
    sweep_interval: Duration = timedelta(minutes=1)
    """How often the keeper looks at all agents, whatever their due times say."""
    place_timeout: Duration = timedelta(minutes=5)
    """Longest wait of a run for one of the ``max_containers`` places."""
    starts_at_once: int = Field(4, ge=1)
    """Instances that one manager starts at the same time; more wait in line."""
    tasks_at_once: int = Field(10, ge=1)
    """Agents whose tasks one executor works on at the same time; more wait in line."""
    max_retries: int = Field(3, ge=0)
    """Tries after the first one, where trying again may help: starting an instance, an engine that is away."""
    retry_backoff: Duration = timedelta(seconds=1)
    """Pause before the first of them; doubled before each further one, with jitter."""
    retry_backoff_max: Duration = timedelta(seconds=30)
    """Longest pause between two of them."""
    crash_limit: int = Field(5, ge=1)
    """Deaths of an agent's instances within ``crash_window`` after which no more are started until somebody asks."""
    crash_window: Duration = timedelta(minutes=10)
    """The time over which they are counted."""
    answer_deadline: Duration = timedelta(minutes=5)
    """How long a permission or question waits for somebody's reply, where the agent says nothing else."""
    log_max_mb: int = Field(20, ge=1)
    """Size of one of an agent's collected log files, in MiB, at which the next one is begun."""
    log_files: int = Field(5, ge=1)
    """Collected log files kept of each agent; the oldest goes."""
    metrics_port: int | None = Field(None, ge=0, le=65535)
    """Port on loopback at which a manager serves ``/metrics``; 0: any free one; None: it serves none."""
    metrics_per_agent: bool = False
    """Let metrics carry agent ids as labels; with many agents that is costly for whoever scrapes."""
    max_run_time: Duration = timedelta(minutes=30)
    """Longest turn, counted from the sending of its prompt."""
    not_started_after: Duration = timedelta(seconds=60)
    """A prompt the server took, whose turn has not begun by then, ends as ``not_started``."""
    stall_timeout: Duration = timedelta(seconds=15)
    """Silence on the event stream after which the turn's state is read by request. OpenCode sends a heartbeat every 10 s."""
    env_allow: Annotated[tuple[str, ...], NoDecode] = ("*",)
    """Patterns of the manager's variables that ``${NAME}`` in an agent's settings and the providers' usual keys may come from. As a variable,
    separated by commas (``OPENAI_*,CI_TOKEN``), or a JSON list."""
    fetch_models: bool = True
    """Let OpenCode fetch its catalogue of models when it starts; off, it knows those of its own release."""
    log_level: Literal["debug", "info", "warning", "error"] = "error"
    """What is logged from which weight on, to standard error, by the command line. A library's logs are its program's business."""
    log_format: Literal["console", "json"] = "console"
    """How it is logged: for people, or one JSON object per line."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            hint = f"Set by an argument, the variable of that name, or a line in {_toml_file()}."
            raise InvalidInput(describe(error, name=_variable), hint=hint) from None
        except TOMLDecodeError as error:
            raise InvalidInput(f"{_toml_file()} is not TOML: {error}.", hint="Correct it.") from None

    @field_validator("http_proxy", "https_proxy")
    @classmethod
    def _proxy_is_url(cls, value: str | None) -> str | None:
        return value if value is None else check_proxy(value)

    @field_validator("no_proxy")
    @classmethod
    def _no_proxy_is_hosts(cls, value: str | None) -> str | None:
        if any(len(host.split()) > 1 or not host.isprintable() for host in (value or "").split(",")):
            raise InvalidInput("it is a list of hosts, separated by commas: a.example.com,10.0.0.0/8.")
        return value

    @field_validator("opencode", mode="before")
    @classmethod
    def _opencode_may_be_json(cls, value: Any) -> Any:
        # Read here and not by pydantic-settings, whose error of it names no variable and is none of ours.
        try:
            return json.loads(value) if isinstance(value, str) else value
        except (ValueError, RecursionError):
            raise InvalidInput('it is no JSON; write an object, for example \'{"share": "disabled"}\'.') from None

    @field_validator("env_allow", mode="before")
    @classmethod
    def _env_allow_may_be_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if not value.lstrip().startswith("["):
            return [pattern.strip() for pattern in value.split(",") if pattern.strip()]
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise InvalidInput(
                "it is no JSON; write a list, for example '[\"OPENAI_*\"]', or OPENAI_*,CI_TOKEN."
            ) from None

    @field_validator("ca_file")
    @classmethod
    def _ca_file_holds_certificates(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        path = value.expanduser().absolute()
        read_certificates(path)
        return path

    @field_validator("timezone")
    @classmethod
    def _timezone_is_known(cls, value: str | None) -> str | None:
        # A host without the zones' files knows none, not even this one, and cannot tell.
        if value is not None and not _is_timezone(value) and _is_timezone("Europe/London"):
            raise InvalidInput("there is no such time zone; name one as Europe/Berlin, or UTC.")
        return value

    @field_validator("locale", "git_name", "git_email")
    @classmethod
    def _is_one_word_or_line(cls, value: str, info: ValidationInfo) -> str:
        if not _ONE_LINE[str(info.field_name)].fullmatch(value):
            raise InvalidInput("that has signs that do not belong there, or nothing.")
        return value

    @model_validator(mode="after")
    def _proxy_is_reachable(self) -> Self:
        if self.backend == "docker" and any(is_loopback(url) for url in (self.http_proxy, self.https_proxy) if url):
            raise InvalidInput(
                "a proxy on this machine's loopback interface is not reachable from a container: "
                "let it listen on the engine's bridge too, and name it as host.docker.internal."
            )
        return self

    @field_validator("data_dir")
    @classmethod
    def _data_dir_is_absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over variables, variables over the file."""
        path = _toml_file()
        if CONFIG_VARIABLE in os.environ and not path.is_file():
            raise InvalidInput(f"{CONFIG_VARIABLE} names {path}, which is no file.", hint="Correct or unset it.")
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, path)


def read_certificates(path: Path) -> tuple[str, ...]:
    """Read the certificates of a PEM file, each with its two frame lines and a line end; whatever else is in the file stays there.

    Blocks. Raises `InvalidInput` where it cannot be read, or holds none, a damaged one, or a private key.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from error
    if "PRIVATE KEY-----" in text:
        raise InvalidInput(f"{path} holds a private key; name a file of certificates alone.")
    found = tuple(f"{match[0]}\n" for match in _CERTIFICATE.finditer(text))
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata="".join(found))
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput(f"{path} holds no certificates in PEM form that can be used.") from error
    return found


def _is_timezone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def _toml_file() -> Path:
    return Path(os.environ.get(CONFIG_VARIABLE) or "cnap-runner.toml")


def _variable(field: str) -> str:
    return f"CNAP_RUNNER_{field.upper()}"
