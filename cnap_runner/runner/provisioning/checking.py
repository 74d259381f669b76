"""What can be known to be wrong in an agent's settings, before anything is created. What only OpenCode knows passes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from cnap_runner.errors import InvalidInput
from cnap_runner.model.agent import AgentSpec, check_model
from cnap_runner.runner.provisioning.configuration import (
    AGENTS_FILE,
    CATALOGUE_KEYS,
    mapping,
    models_of,
    providers_of,
)

FOLDERS = ("agents", "commands", "skills")
"""What an agent may have in OpenCode's configuration folder, besides `AGENTS_FILE`. Plugins and tools would need a writable one."""
MOST_FILES = 256
MOST_BYTES = 1 << 20
"""Of all of an agent's files together."""

_GROUPS = ("provider", "agent", "mode", "command", "mcp")
"""Keys of OpenCode's configuration whose value maps names to objects."""


class Finding(NamedTuple):
    """Something that is known to be wrong in a spec."""

    path: tuple[str | int, ...]
    """Where it stands in the spec; empty where that is no single place."""
    text: str


def check_settings(spec: AgentSpec, config: Mapping[str, Any]) -> None:
    """Raise `InvalidInput` with all that is known to be wrong. ``config`` is the agent's merged configuration, unresolved."""
    if found := settings_findings(spec, config):
        said = "; ".join(finding.text for finding in found)
        raise InvalidInput(f"Agent {spec.agent_id}: {said}.", hint="docs/settings.md shows what goes where.")


def settings_findings(spec: AgentSpec, config: Mapping[str, Any]) -> list[Finding]:
    """Give all that is known to be wrong, as `check_settings`, with its places."""
    return [*_shapes(spec.opencode), *_providers(config), *_models(spec, config), *_servers(spec), *_files(spec)]


def check_run_model(spec: AgentSpec, model: str | None, config: Mapping[str, Any]) -> None:
    """Raise `InvalidInput` for a run's own model that certainly is not the agent's to use."""
    if model is None or spec.trust_workspace_config:
        return
    provider = model.partition("/")[0]
    if provider not in providers_of(config, spec):
        known = ", ".join(providers_of(config, spec))
        raise InvalidInput(
            f"Agent {spec.agent_id} has no provider {provider!r}, which {model} needs; it has {known}.",
            hint=f"Name it in the agent's settings: opencode={{'provider': {{'{provider}': {{}}}}}}; its key then goes with it.",
        )
    if trouble := _unknown_model("the run's model", model, config):
        raise InvalidInput(f"Agent {spec.agent_id}: {trouble}.")


def _shapes(opencode: Mapping[str, Any]) -> Iterator[Finding]:
    rules = opencode.get("instructions", [])
    if not isinstance(rules, list | tuple) or not all(isinstance(name, str) for name in rules):
        yield Finding(("opencode", "instructions"), "opencode.instructions is no list of file names")
    for group in _GROUPS:
        value = opencode.get(group, {})
        if not isinstance(value, Mapping):
            yield Finding(("opencode", group), f"opencode.{group} maps names to objects, and is none")
            continue
        yield from (
            Finding(("opencode", group, name), f"opencode.{group}.{name} is no object")
            for name, item in value.items()
            if not isinstance(item, Mapping)
        )


def _providers(config: Mapping[str, Any]) -> Iterator[Finding]:
    for name, provider in mapping(config.get("provider")).items():
        place = ("opencode", "provider", name)
        for part in ("options", "models"):
            if not isinstance(mapping(provider).get(part, {}), Mapping):
                yield Finding((*place, part), f"opencode.provider.{name}.{part} is no object")
        url = mapping(mapping(provider).get("options")).get("baseURL")
        if url is not None and not (isinstance(url, str) and url.startswith(("http://", "https://", "${"))):
            yield Finding(
                (*place, "options", "baseURL"),
                f"opencode.provider.{name}.options.baseURL is no address: it begins with http:// or https://",
            )


def _models(spec: AgentSpec, config: Mapping[str, Any]) -> Iterator[Finding]:
    if spec.opencode.get("model", spec.model) != spec.model:
        yield Finding(
            ("opencode", "model"), f"opencode.model differs from the agent's model {spec.model}; leave it out"
        )
    for where, model in models_of(config, spec):
        place = _place_of_model(where, spec)
        try:
            check_model(model)
        except InvalidInput as error:
            yield Finding(place, f"{where}: {error.message.rstrip('.')}")
        else:
            if trouble := _unknown_model(where, model, config):
                yield Finding(place, trouble)


def _place_of_model(where: str, spec: AgentSpec) -> tuple[str, ...]:
    if where in spec.opencode_files:
        return ("opencode_files", where)
    if where == "model":
        return ("model",)
    group, _, rest = where.partition(".")
    name, _, field = rest.rpartition(".")
    return ("opencode", group, *filter(None, (name, field)))


def _unknown_model(where: str, model: str, config: Mapping[str, Any]) -> str | None:
    """Say so where a model is none of a provider that brings all of its own."""
    provider, _, name = model.partition("/")
    block = mapping(mapping(config.get("provider")).get(provider))
    models = mapping(block.get("models"))
    if "npm" not in block or provider in CATALOGUE_KEYS or name in models:
        return None
    known = ", ".join(sorted(models)) or "none"
    return f"{where} is {model}, and opencode.provider.{provider}.models has no {name!r} (it has: {known})"


def _servers(spec: AgentSpec) -> Iterator[Finding]:
    for name, entry in mapping(spec.opencode.get("mcp")).items():
        if name in spec.mcp and any(key in mapping(entry) for key in ("type", "command", "url")):
            yield Finding(("mcp", name), f"MCP server {name!r} is in both mcp and opencode.mcp")
    for name in spec.mcp:
        if not name or len(name) > 64 or not all(c.isalnum() or c in "_-." for c in name):
            yield Finding(
                ("mcp", name),
                f"{name[:80]!r} is no name of an MCP server: letters, digits, '_', '-' and '.', at most 64",
            )


def _files(spec: AgentSpec) -> Iterator[Finding]:
    files = spec.opencode_files
    if len(files) > MOST_FILES or sum(len(text.encode("utf-8", "replace")) for text in files.values()) > MOST_BYTES:
        yield Finding(
            ("opencode_files",), f"opencode_files holds more than {MOST_FILES} files or {MOST_BYTES >> 20} MiB"
        )
    for path in files:
        if not _is_allowed(path):
            folders = ", ".join(f"{folder}/" for folder in FOLDERS)
            text = f"opencode_files: {path[:80]!r} is neither {AGENTS_FILE} nor a file below {folders}"
            yield Finding(("opencode_files", path), text)
    for path in files:
        if above := next((str(p) for p in PurePosixPath(path).parents if str(p) in files), None):
            yield Finding(("opencode_files", above), f"opencode_files: {above!r} cannot be both a file and a folder")


def _is_allowed(path: str) -> bool:
    if path == AGENTS_FILE:
        return True
    parts = path.split("/")
    is_plain = all(part and not part.startswith(".") and len(part) <= 100 for part in parts)
    return is_plain and len(parts) > 1 and parts[0] in FOLDERS and path.isprintable() and "\\" not in path
