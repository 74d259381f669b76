"""How an agent's MCP servers are, as its OpenCode says; or as they are configured, where none runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from cnap_runner.errors import ServerNotReady, ServerUnreachable
from cnap_runner.model.mcp import McpState
from cnap_runner.model.runner import RunnerStatus
from cnap_runner.runner.install import Install
from cnap_runner.runner.provisioning.configuration import mapping
from cnap_runner.runner.secrecy.errors import redacted_errors
from cnap_runner.store.base import AgentRow

LONGEST_WAIT = timedelta(seconds=25)
"""A little less than a call of the client may take."""


async def mcp_states(
    install: Install, row: AgentRow, config: Mapping[str, Any], *, timeout: timedelta
) -> list[McpState]:
    """Ask a live server, without the agent's lease: it may be in a turn. Known secrets in its errors are redacted.

    Raises `ServerError` for one that answers with an error.
    """
    record = row.runner
    if record.status not in {RunnerStatus.READY, RunnerStatus.RUNNING} or not record.endpoint or not record.instance_id:
        return _configured(config, "not_running")
    try:
        with redacted_errors(install.redactor):
            async with install.client_for(record.endpoint, record.instance_id) as client:
                states = await client.mcp(timeout=min(timeout, LONGEST_WAIT))
    except ServerNotReady:
        return _configured(config, "starting")
    except ServerUnreachable:
        return _configured(config, "not_running")
    return [replace(state, error=state.error and install.redactor.redact(state.error)) for state in states]


def _configured(config: Mapping[str, Any], status: str) -> list[McpState]:
    servers = mapping(config.get("mcp"))
    return [
        McpState(name, "disabled" if mapping(servers[name]).get("enabled") is False else status)
        for name in sorted(servers)
    ]
