"""Settings and secrets rendered for one instance.

What an instance gets is: the files of its settings folder (OpenCode's configuration, and the agent's own files beside it), an environment
without secrets, and an archive of secrets that the launcher unpacks into memory. Provider keys and ``${NAME}`` values become ``{file:…}``
references.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cnap_runner.errors import SecretUnavailable
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.instance import InstanceSpec, Layout, Limits, Volume
from cnap_runner.runner.provisioning.configuration import (
    CATALOGUE_KEYS,
    CONFIG_FILE,
    FOLDER,
    TRUSTING_CONFIG_FILE,
    config_file,
    configuration,
    mapping,
    providers_of,
)
from cnap_runner.runner.provisioning.hardware import hardware_of, network_of, runtime_of
from cnap_runner.runner.provisioning.surroundings import surrounding_environment, surrounding_files
from cnap_runner.runner.secrecy.finding import PLACEHOLDER, without_secrets
from cnap_runner.runner.secrecy.resolving import Resolver
from cnap_runner.settings import Settings

PASSWORD_FILE = "server-password"  # noqa: S105 - a file's name

_SHELL_FILE = "shell-environment"
_SHELL_WORDS = "unset OPENCODE_SERVER_PASSWORD\n"
"""Read by each bash before its command (``BASH_ENV``), so that what OpenCode's shell tool starts does not inherit the server's password."""

_KEPT_OUT = "node_modules\n"
"""OpenCode writes a ``.gitignore`` into its configuration folder where none is, and fails where it cannot (docs/opencode.md)."""


@dataclass(frozen=True, slots=True)
class Provision:
    """What one instance is given."""

    files: Mapping[str, str]
    """Path below the settings folder → text. Hold no secret."""
    secrets: Mapping[str, str] = field(repr=False)
    """File name → value, in the instance's memory."""

    @property
    def config(self) -> str:
        """OpenCode's configuration file, as JSON."""
        return self.files.get(CONFIG_FILE) or self.files[TRUSTING_CONFIG_FILE]

    def archive(self, password: str) -> bytes:
        """Pack the secrets and the server's password for the launcher."""
        return pack({**self.secrets, PASSWORD_FILE: password})


def provision(
    spec: AgentSpec, *, template: Mapping[str, Any], layout: Layout, settings: Settings, resolver: Resolver
) -> Provision:
    """Render what an instance of this agent needs. Blocks. Raises `SecretUnavailable` naming a ``${NAME}`` that has no value."""
    secrets: dict[str, str] = {}

    def reference(name: str, where: str) -> str:
        secrets[f"env-{name}"] = resolver.value(name, where=where)
        return f"{{file:{layout.secrets}/env-{name}}}"

    config = _fill_in(configuration(spec, template=template, settings=settings, layout=layout), reference)
    for provider in providers_of(config, spec):
        name = next((name for name in CATALOGUE_KEYS.get(provider, ()) if resolver.has(name)), None)
        if name is not None and "apiKey" not in _options(config, provider):
            _set_key(config, provider, reference(name, f"provider.{provider}"))
    config = _without_literals(config, secrets, layout)
    # Its keys keep their order: it is that of the rules for permissions.
    text = json.dumps(config, indent=2, ensure_ascii=False)
    files = {**_own_files(spec), config_file(spec): text, _SHELL_FILE: _SHELL_WORDS, **surrounding_files(settings)}
    return Provision(files=files, secrets=secrets)


def environment(spec: AgentSpec, *, layout: Layout, settings: Settings) -> dict[str, str]:
    """Give the environment of an instance's server. OpenCode's switches are listed in docs/opencode.md."""
    values = {
        **surrounding_environment(settings, layout),
        "OPENCODE_CONFIG_DIR": f"{layout.settings}/{FOLDER}",
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_PRINT_LOGS": "1",
        "BASH_ENV": f"{layout.settings}/{_SHELL_FILE}",
    }
    if spec.trust_workspace_config:
        values["OPENCODE_CONFIG"] = f"{layout.settings}/{config_file(spec)}"
    else:
        values["OPENCODE_DISABLE_PROJECT_CONFIG"] = "1"
    if not settings.fetch_models:
        values["OPENCODE_DISABLE_MODELS_FETCH"] = "1"
    return values


def limits_of(spec: AgentSpec, settings: Settings) -> Limits:
    """Give an instance's limits: the agent's own, else those of the settings."""
    wanted = spec.resources
    return Limits(
        memory_bytes=(wanted.memory_mb or settings.memory_mb) << 20,
        cpus=wanted.cpus or settings.cpus,
        pids=wanted.pids or settings.pids,
    )


def instance_spec(
    spec: AgentSpec,
    *,
    install_id: str,
    instance_id: str,
    generation: int,
    settings: Settings,
    volumes: tuple[Volume, ...],
) -> InstanceSpec:
    """Say what a backend is asked for. Its environment and its hash are added once the layout is known."""
    return InstanceSpec(
        install_id=install_id,
        agent_id=spec.agent_id,
        instance_id=instance_id,
        generation=generation,
        spec_hash="",
        image=spec.image or settings.image,
        limits=limits_of(spec, settings),
        volumes=volumes,
        labels=dict(spec.labels),
        network=network_of(spec),
        hardware=hardware_of(spec, settings),
        runtime=runtime_of(spec, settings),
    )


# --- what has changed -------------------------------------------------------------------------------------------------


def spec_hash(wanted: InstanceSpec) -> str:
    """Hash what only a new instance can change: all that a backend is asked for but its limits, which change in place.

    Folders count by their role alone: two processes may know one data folder by two names.
    """
    parts = {
        "image": wanted.image,
        "volumes": [[volume.role, volume.is_read_only] for volume in wanted.volumes],
        "environment": dict(wanted.environment),
        "labels": dict(wanted.labels),
        "network": wanted.network,
        # The quota of its own layer, which is read-only, is no reason for a new instance.
        "hardware": repr(replace(wanted.hardware, disk_bytes=None)),
        "runtime": wanted.runtime,
    }
    return _hash(parts)


def settings_hash(spec: AgentSpec, *, template: Mapping[str, Any], layout: Layout, settings: Settings) -> str:
    """Hash what a running server can take up: its settings and where its secrets come from, unresolved.

    A process whose environment lacks a variable therefore sees no change, and uses a running instance as it is.
    """
    config = configuration(spec, template=template, settings=settings, layout=layout)
    author = [settings.git_name, settings.git_email]
    rules = json.dumps(config.get("permission"))  # in order, which a hash of mappings does not see
    return _hash([config, rules, spec.opencode_files, spec.secrets, providers_of(config, spec), author])


def check_keys_stay(before: str, after: Provision, *, spec: AgentSpec, layout: Layout) -> None:
    """Raise `SecretUnavailable` where a provider's key, which the running server has, is out of this process's reach.

    A provider's usual variable that is not set is no error at a start. But one process must not take away what another gave.
    """
    config = json.loads(after.config)
    for provider in sorted(_given_keys(before, layout) & set(providers_of(config, spec))):
        if "apiKey" not in _options(config, provider):
            raise SecretUnavailable(
                f"Agent {spec.agent_id} has a key of provider {provider}, and this process has none: "
                f"{' or '.join(CATALOGUE_KEYS[provider])} is not set.",
                hint="Set it here too, or name its place in the agent's secrets.",
            )


def _given_keys(config: str, layout: Layout) -> set[str]:
    """Name the providers whose key came from one of their usual variables."""
    try:
        present = json.loads(config)
    except ValueError:
        return set()
    files = {
        provider: [f"{{file:{layout.secrets}/env-{n}}}" for n in names] for provider, names in CATALOGUE_KEYS.items()
    }
    return {provider for provider, usual in files.items() if _options(present, provider).get("apiKey") in usual}


def _options(config: Any, provider: str) -> Mapping[str, Any]:
    return mapping(mapping(mapping(mapping(config).get("provider")).get(provider)).get("options"))


# --- inside -----------------------------------------------------------------------------------------------------------


def _own_files(spec: AgentSpec) -> dict[str, str]:
    return {f"{FOLDER}/{path}": text for path, text in {".gitignore": _KEPT_OUT, **spec.opencode_files}.items()}


def _set_key(config: dict[str, Any], provider: str, key: str) -> None:
    providers = config["provider"] = dict(mapping(config.get("provider")))
    block = providers[provider] = dict(mapping(providers.get(provider)))
    block["options"] = {**mapping(block.get("options")), "apiKey": key}


def _hash(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _without_literals(config: Mapping[str, Any], secrets: dict[str, str], layout: Layout) -> dict[str, Any]:
    """Move secrets written out in the template or the install's settings to files in memory; a spec's own left it before it was stored."""

    def move(value: str, _: tuple[str, ...]) -> str:
        name = f"literal-{len(secrets)}"
        secrets[name] = value
        return f"{{file:{layout.secrets}/{name}}}"

    moved: dict[str, Any] = without_secrets(config, ("opencode",), move)
    return moved


def _fill_in(value: Any, reference: Callable[[str, str], str], where: str = "") -> Any:
    if isinstance(value, str):
        return PLACEHOLDER.sub(lambda match: reference(match[1], where), value)
    if isinstance(value, Mapping):
        return {key: _fill_in(item, reference, f"{where}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_fill_in(item, reference, where) for item in value]
    return value


def pack(files: Mapping[str, str]) -> bytes:
    """Pack small files, readable by their owner alone, into a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in sorted(files.items()):
            data = text.encode()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o400
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
