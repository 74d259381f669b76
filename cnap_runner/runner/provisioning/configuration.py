"""OpenCode's configuration of one agent, merged from its layers. Pure: ``${NAME}`` stays as it is written.

From weak to strong: the template (the files in ``configs/opencode/``), `Settings.opencode`, `AgentSpec.mcp`, `AgentSpec.opencode`. A
mapping is merged key by key, everything else is replaced, as OpenCode itself does; an MCP server of `AgentSpec.mcp` replaces one of its
name whole. Last come the agent's rules for permissions and questions (`AgentSpec.answers`). What we do not know is passed on untouched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from cnap_runner.model.agent import AgentSpec
from cnap_runner.model.instance import Layout
from cnap_runner.runner.provisioning.permissions import with_permissions
from cnap_runner.settings import Settings

FOLDER = "opencode"
"""OpenCode's configuration folder, below the agent's settings folder."""
CONFIG_FILE = f"{FOLDER}/opencode.json"
"""OpenCode reads it after everything else, so it wins."""
TRUSTING_CONFIG_FILE = f"{FOLDER}/base.json"
"""Its name for an agent that trusts its workspace: named by ``OPENCODE_CONFIG``, it is read before the workspace's settings, so they win."""
_PASSWORD_VARIABLE = "OPENCODE_SERVER_PASSWORD"  # noqa: S105 - a variable's name
AGENTS_FILE = "AGENTS.md"

CATALOGUE_KEYS: Mapping[str, tuple[str, ...]] = {
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
"""Providers of OpenCode's catalogue and the variables in which their keys are usually kept, strongest first, as the catalogue names them."""

_FRONT_MATTER_MODEL = re.compile(r"\A---\n(?:(?!---).*\n)*?model:[ \t]*[\"']?([^\s\"']+)")


def configuration(
    spec: AgentSpec, *, template: Mapping[str, Any], settings: Settings, layout: Layout
) -> dict[str, Any]:
    """Give an agent's configuration, its rules included. Nothing in it is secret, unless a spec was stored with one."""
    return with_permissions(layered(spec, template=template, settings=settings, layout=layout), spec.answers)


def layered(spec: AgentSpec, *, template: Mapping[str, Any], settings: Settings, layout: Layout) -> dict[str, Any]:
    """Merge all layers for an agent but its rules."""
    merged = merge(merge(template, settings.opencode), {"model": spec.model})
    if spec.mcp:
        merged["mcp"] = {**mapping(merged.get("mcp")), **mcp_servers(spec)}
    merged = merge(merged, spec.opencode)
    if instructions := _instructions(spec, merged, layout):
        merged["instructions"] = instructions
    if providers := mapping(merged.get("provider")):
        merged["provider"] = {name: _with_base_url(provider) for name, provider in providers.items()}
    if servers := mapping(merged.get("mcp")):
        merged["mcp"] = {name: _without_password(server) for name, server in servers.items()}
    return merged


def config_file(spec: AgentSpec) -> str:
    """Name the configuration file of an agent, below its settings folder."""
    return TRUSTING_CONFIG_FILE if spec.trust_workspace_config else CONFIG_FILE


def mcp_servers(spec: AgentSpec) -> dict[str, dict[str, Any]]:
    """Render the agent's MCP servers in OpenCode's own form."""
    rendered = {name: server.model_dump(mode="json", exclude_none=True) for name, server in spec.mcp.items()}
    return {name: {key: value for key, value in server.items() if value != {}} for name, server in rendered.items()}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two configurations as OpenCode does: mappings key by key, everything else replaced."""
    merged = dict(base)
    for key, value in over.items():
        present = merged.get(key)
        merged[key] = merge(present, value) if isinstance(present, Mapping) and isinstance(value, Mapping) else value
    return merged


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a mapping as it is, and an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def providers_of(config: Mapping[str, Any], spec: AgentSpec) -> list[str]:
    """Name the providers whose keys the agent may use: those of its models, and those its configuration speaks of."""
    named = {model.partition("/")[0] for _, model in models_of(config, spec)}
    return sorted(named | set(mapping(config.get("provider"))))


def models_of(config: Mapping[str, Any], spec: AgentSpec) -> Iterator[tuple[str, str]]:
    """Yield each model that the agent's settings name, with the place where it stands."""
    for key in ("model", "small_model"):
        if isinstance(model := config.get(key), str):
            yield key, model
    for group in ("agent", "mode", "command"):
        for name, entry in mapping(config.get(group)).items():
            if isinstance(model := mapping(entry).get("model"), str):
                yield f"{group}.{name}.model", model
    for path, text in spec.opencode_files.items():
        if found := _FRONT_MATTER_MODEL.match(text):
            yield path, found[1]


def _instructions(spec: AgentSpec, config: Mapping[str, Any], layout: Layout) -> list[Any]:
    """Name the workspace's rules, which go with its settings where those are switched off; and what the configuration names, which
    OpenCode adds up too. The agent's own `AGENTS_FILE` it finds by itself."""
    workspace = [] if spec.trust_workspace_config else [f"{layout.workspace}/{AGENTS_FILE}"]
    named = config.get("instructions")
    return list(dict.fromkeys([*workspace, *(named if isinstance(named, list | tuple) else ())]))


def _without_password(server: Any) -> Any:
    """Keep the server's password from an MCP server's program, which gets OpenCode's whole environment and what is said here."""
    if mapping(server).get("type") != "local":
        return server
    return {**server, "environment": {_PASSWORD_VARIABLE: "", **mapping(server.get("environment"))}}


def _with_base_url(provider: Any) -> Any:
    """Spell a provider's ``base_url`` as OpenCode does."""
    options = mapping(mapping(provider).get("options"))
    if "base_url" not in options:
        return provider
    spelt = {"baseURL" if key == "base_url" else key: value for key, value in options.items()}
    return {**provider, "options": spelt}
