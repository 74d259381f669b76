"""The secrets an agent uses: their names travel with an archive, their values never."""

from __future__ import annotations

import os
import re
from contextlib import suppress

from cnap_runner.errors import InvalidInput
from cnap_runner.model.agent import AgentSpec
from cnap_runner.runner.install import Install
from cnap_runner.runner.provisioning.configuration import CATALOGUE_KEYS, providers_of
from cnap_runner.runner.secrecy.resolving import Resolver

_PLACEHOLDER = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def needs_of(spec: AgentSpec, install: Install) -> dict[str, str]:
    """Name each secret that an agent uses, with the reference it comes from: its own, those it names, its providers' usual keys."""
    named = _PLACEHOLDER.findall(spec.model_dump_json(include={"opencode", "mcp", "workspace"}))
    needs = dict(spec.secrets) | {name: f"env:{name}" for name in sorted(set(named)) if name not in spec.secrets}
    resolver = _resolver(spec, install)
    for provider in providers_of({**spec.opencode, "model": spec.model}, spec):
        usual = next((name for name in CATALOGUE_KEYS.get(provider, ()) if resolver.has(name)), None)
        if usual is not None:
            needs.setdefault(usual, f"env:{usual}")
    return needs


def values_of(needs: dict[str, str], spec: AgentSpec, install: Install) -> dict[str, str]:
    """Read the values of those that this process can read. Blocks."""
    resolver, found = _resolver(spec, install), {}
    for name in needs:
        with suppress(InvalidInput):
            found[name] = resolver.value(name)
    install.redactor.add(*found.values())
    return found


def missing_of(needs: dict[str, str], install: Install) -> dict[str, str]:
    """Give those that have no value here. Blocks."""
    missing = {}
    for name, reference in needs.items():
        try:
            install.redactor.add(install.secrets.get(reference))
        except InvalidInput:
            missing[name] = reference
    return missing


def _resolver(spec: AgentSpec, install: Install) -> Resolver:
    return Resolver(spec, install.secrets, os.environ, install.settings.env_allow)
