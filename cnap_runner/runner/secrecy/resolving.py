"""What ``${NAME}`` in an agent's settings stands for.

It is looked up when an instance is started or its secrets are delivered, and only then: a process whose environment lacks a variable uses
a running instance as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cnap_runner.errors import SecretUnavailable
from cnap_runner.model.agent import AgentSpec
from cnap_runner.secrets.base import SecretStore
from cnap_runner.secrets.environment import EnvironmentSource


class Resolver:
    """Finds the values of one agent's names: its own secrets first, then the manager's environment. Blocks; each name is read once."""

    def __init__(
        self, spec: AgentSpec, secrets: SecretStore, environment: Mapping[str, str], env_allow: Iterable[str]
    ) -> None:
        self._spec = spec
        self._secrets = secrets
        self._environment = EnvironmentSource(environment, env_allow)
        self._found: dict[str, str] = {}

    def value(self, name: str, *, where: str | None = None) -> str:
        """Return the value of a name; ``where`` says what asks for it (``mcp.github.headers``), for the error's text.

        Raises `SecretUnavailable`, which names it and the agent, and `InvalidInput` for a reference that is none.
        """
        if name not in self._found:
            self._found[name] = self._read(name, where)
        return self._found[name]

    def has(self, name: str) -> bool:
        """Whether a name is one of the agent's secrets, or a variable that is set. Reads no secret."""
        return name in self._spec.secrets or self._environment.has(name)

    def _read(self, name: str, where: str | None) -> str:
        reference = self._spec.secrets.get(name)
        try:
            return self._environment.get(name) if reference is None else self._secrets.get(reference)
        except SecretUnavailable as error:
            asked = f" in {where}" if where else ""
            source = "" if reference is None else f" ({reference})"
            raise SecretUnavailable(
                f"Agent {self._spec.agent_id} needs ${{{name}}}{source}{asked}: {error.message}",
                hint=error.hint if reference is not None else _hint(name, error),
            ) from error


def _hint(name: str, error: SecretUnavailable) -> str:
    return f"{error.hint} Or keep it: `cnap-runner secret set {name}`, and secrets={{{name!r}: 'vault:{name}'}} in the agent's spec."
