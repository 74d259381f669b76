"""``env:NAME``: the manager's own environment, as far as the settings admit it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from cnap_runner.errors import SecretUnavailable
from cnap_runner.secrets.base import SecretSource


class EnvironmentSource(SecretSource):
    """Variables whose names match one of the patterns ``allow`` (`Settings.env_allow`)."""

    scheme = "env"

    def __init__(self, variables: Mapping[str, str], allow: Iterable[str]) -> None:
        self._variables = variables
        self._allow = tuple(allow)

    def get(self, name: str) -> str:
        """Return a variable's value."""
        if not self._is_allowed(name):
            raise SecretUnavailable(
                f"The variable {name} may not be given to agents.", hint="Let CNAP_RUNNER_ENV_ALLOW admit it."
            )
        if name not in self._variables:
            raise SecretUnavailable(
                f"The variable {name} is not set.", hint="Set it in the environment in which cnap-runner is started."
            )
        return self._variables[name]

    def has(self, name: str) -> bool:
        """Whether a variable is admitted, set and not empty."""
        return self._is_allowed(name) and bool(self._variables.get(name))

    def describe(self) -> str:
        """Say where this is."""
        return "the environment of cnap-runner"

    def _is_allowed(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self._allow)
