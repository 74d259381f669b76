"""Settings and secrets rendered for one instance.

What an instance gets is: one OpenCode configuration file (template, then the agent's own), an environment without secrets, and an
archive of secrets that the launcher unpacks into memory. Provider keys and ``${NAME}`` values become ``{file:…}`` references.
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cnap_runner.errors import InvalidInput
from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.instance import InstanceSpec, Layout, Limits, Volume
from cnap_runner.settings import Settings

CONFIG_FILE = "opencode.json"
PASSWORD_FILE = "server-password"  # noqa: S105 - a file's name

PROVIDER_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "anthropic": ("ANTHROPIC_API_KEY",),
    "azure": ("AZURE_API_KEY", "AZURE_OPENAI_API_KEY"),
    "cerebras": ("CEREBRAS_API_KEY",),
    "cohere": ("COHERE_API_KEY",),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "fireworks-ai": ("FIREWORKS_API_KEY",),
    "google": ("GOOGLE_GENERATIVE_AI_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "groq": ("GROQ_API_KEY",),
    "mistral": ("MISTRAL_API_KEY",),
    "moonshotai": ("MOONSHOT_API_KEY",),
    "openai": ("OPENAI_API_KEY",),
    "opencode": ("OPENCODE_API_KEY",),
    "openrouter": ("OPENROUTER_API_KEY",),
    "perplexity": ("PERPLEXITY_API_KEY",),
    "togetherai": ("TOGETHER_API_KEY",),
    "vercel": ("AI_GATEWAY_API_KEY",),
    "xai": ("XAI_API_KEY",),
    "zai": ("ZHIPU_API_KEY",),
}
"""The variables in which each provider's key is usually kept, strongest first, as OpenCode's model catalogue names them."""

_PLACEHOLDER = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class Provision:
    """What one instance is given."""

    config: str
    """OpenCode's configuration file, as JSON. Holds no secret."""
    environment: Mapping[str, str]
    """Holds no secret."""
    secrets: Mapping[str, str] = field(repr=False)
    """File name → value, in the instance's memory."""

    def archive(self, password: str) -> bytes:
        """Pack the secrets and the server's password for the launcher."""
        return pack({**self.secrets, PASSWORD_FILE: password})


def provision(
    spec: AgentSpec, *, template: Mapping[str, Any], layout: Layout, settings: Settings, variables: Mapping[str, str]
) -> Provision:
    """Render what an instance of this agent needs. Raises `InvalidInput` naming a ``${NAME}`` that has no value."""
    secrets: dict[str, str] = {}
    allowed = {name: value for name, value in variables.items() if _is_allowed(name, settings.env_allow)}

    def reference(name: str) -> str:
        if name not in allowed:
            raise InvalidInput(
                f"Agent {spec.agent_id} needs ${{{name}}}, which is not set.",
                hint="Set it in the environment of cnap-runner, and let CNAP_RUNNER_ENV_ALLOW admit it.",
            )
        secrets[f"env-{name}"] = allowed[name]
        return f"{{file:{layout.secrets}/env-{name}}}"

    config = _fill_in(configuration(spec, template=template, layout=layout), reference)
    for provider in providers_of(spec):
        name = next((n for n in PROVIDER_VARIABLES.get(provider, ()) if allowed.get(n)), None)
        options = config.setdefault("provider", {}).setdefault(provider, {}).setdefault("options", {})
        if name is not None and "apiKey" not in options:
            options["apiKey"] = reference(name)
    return Provision(
        config=json.dumps(config, indent=2, sort_keys=True),
        environment=environment(spec, layout=layout, settings=settings),
        secrets=secrets,
    )


def configuration(spec: AgentSpec, *, template: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """Merge OpenCode's configuration: the template, then what we must say, then the agent's own."""
    ours: dict[str, Any] = {"model": spec.model}
    if not spec.trust_workspace_config:
        ours["instructions"] = [f"{layout.workspace}/AGENTS.md"]
    return merge(merge(template, ours), spec.opencode)


def environment(spec: AgentSpec, *, layout: Layout, settings: Settings) -> dict[str, str]:
    """Give the environment of an instance's server. OpenCode's switches are listed in docs/opencode.md."""
    values = {"OPENCODE_CONFIG": f"{layout.settings}/{CONFIG_FILE}", "OPENCODE_DISABLE_AUTOUPDATE": "1"}
    if not spec.trust_workspace_config:
        values["OPENCODE_DISABLE_PROJECT_CONFIG"] = "1"
    if not settings.fetch_models:
        values["OPENCODE_DISABLE_MODELS_FETCH"] = "1"
    return values


def providers_of(spec: AgentSpec) -> list[str]:
    """Name the providers whose keys the agent may use: its model's, and those its settings speak of."""
    named = [spec.model]
    if isinstance(small := spec.opencode.get("small_model"), str):
        named.append(small)
    configured: Iterable[str] = spec.opencode.get("provider") or ()
    return sorted({model.partition("/")[0] for model in named} | set(configured))


def limits_of(spec: AgentSpec, settings: Settings) -> Limits:
    """Give an instance's limits: the agent's own, else those of the settings."""
    wanted = spec.resources
    return Limits(
        memory_bytes=(wanted.memory_mb or settings.memory_mb) << 20,
        cpus=wanted.cpus or settings.cpus,
        pids=wanted.pids or settings.pids,
    )


def instance_spec(  # noqa: PLR0913 - one value, put together in one place
    spec: AgentSpec,
    *,
    install_id: str,
    instance_id: str,
    generation: int,
    settings: Settings,
    template: Mapping[str, Any],
    volumes: tuple[Volume, ...],
) -> InstanceSpec:
    """Say what a backend is asked for. Its environment is added once the layout is known."""
    return InstanceSpec(
        install_id=install_id,
        agent_id=spec.agent_id,
        instance_id=instance_id,
        generation=generation,
        spec_hash=spec_hash(spec, settings=settings, template=template),
        image=settings.image,
        limits=limits_of(spec, settings),
        volumes=volumes,
        labels=dict(spec.labels),
    )


def spec_hash(spec: AgentSpec, *, settings: Settings, template: Mapping[str, Any]) -> str:
    """Hash what only a new instance can change.

    It covers the spec's unresolved text: a process whose environment lacks a variable uses a running instance as it is. The system
    prompt and the model's name are sent with each prompt, so only the providers whose keys are inside count here.
    """
    limits = limits_of(spec, settings)
    parts = {
        "image": settings.image,
        "template": template,
        "opencode": spec.opencode,
        "providers": providers_of(spec),
        "limits": [limits.memory_bytes, limits.cpus, limits.pids],
        "trust": spec.trust_workspace_config,
        "labels": spec.labels,
        "fetch_models": settings.fetch_models,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two configurations as OpenCode does: mappings key by key, everything else replaced."""
    merged = dict(base)
    for key, value in over.items():
        present = merged.get(key)
        merged[key] = merge(present, value) if isinstance(present, Mapping) and isinstance(value, Mapping) else value
    return merged


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


def _fill_in(value: Any, reference: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return _PLACEHOLDER.sub(lambda match: reference(match[1]), value)
    if isinstance(value, Mapping):
        return {key: _fill_in(item, reference) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_fill_in(item, reference) for item in value]
    return value


def _is_allowed(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
