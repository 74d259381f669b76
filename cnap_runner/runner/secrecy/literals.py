"""Secrets that were written into a spec: they leave it before anything is stored.

What remains in their place is ``${NAME}``, with an entry in ``secrets`` that names the vault. Whoever reads the spec, the database, the
settings files or an archive finds no value.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
import warnings
from collections.abc import Mapping
from itertools import count
from typing import NamedTuple
from urllib.parse import unquote

import anyio.to_thread

from cnap_runner.errors import InvalidInput, RunnerNotFound, SecretUnavailable, SecretWarning
from cnap_runner.model.agent import AgentSpec
from cnap_runner.runner.chronicle import note_spec
from cnap_runner.runner.install import Install
from cnap_runner.runner.secrecy.finding import Path, without_secrets, without_tokens
from cnap_runner.runner.secrecy.leftovers import names_in
from cnap_runner.secrets.base import SCHEMES, is_reference
from cnap_runner.secrets.names import check_name, check_value
from cnap_runner.store.base import AgentRow
from cnap_runner.telemetry.logging import get_logger

LITERAL = "literal:"
"""What may be put before a value in ``secrets`` to say that it is the secret itself."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAYBE_SCHEME = re.compile(r"[a-z][a-z0-9_+-]{0,15}:(?!//)")
"""How a mistyped source begins. An address with ``://`` is a value: data sources are kept with their password."""
_LONGEST_NAME = 100
"""Characters of a name that is made here; the vault's name for it has the agent's id and a tag besides."""

_log = get_logger(__name__)


class Taken(NamedTuple):
    """A spec without literal secrets, and what was taken out of it."""

    spec: AgentSpec
    literals: Mapping[str, str]
    """Name in the vault → value."""
    warnings: tuple[str, ...]
    """One for each, with the better way."""


async def keep_spec(install: Install, spec: AgentSpec, *, expected: AgentSpec | None = None) -> AgentRow:
    """Write an agent's row without its literal secrets, which the vault keeps; what no spec uses any more leaves the vault.

    Warns with `SecretWarning` for each, before anything is written. Idempotent. ``expected`` as for `Store.put_agent`.
    """
    taken = take_literals(spec, key=install.key)
    install.redactor.add(*taken.literals.values())
    for text in taken.warnings:
        warnings.warn(text, SecretWarning, stacklevel=3)
    if not taken.literals and not await anyio.to_thread.run_sync(_kept_names, install, spec.agent_id):
        return await _put(install, taken.spec, expected)
    # Nobody may tidy up between the vault and the row.
    async with install.lock():
        await anyio.to_thread.run_sync(_put_all, install, taken.literals)
        try:
            return await _put(install, taken.spec, expected)
        finally:
            await _drop_unused(install, spec.agent_id)


async def _put(install: Install, spec: AgentSpec, expected: AgentSpec | None) -> AgentRow:
    before: AgentRow | None = None
    with contextlib.suppress(RunnerNotFound):
        before = await install.store.get_agent(spec.agent_id)
    row = await install.store.put_agent(spec, at=install.now(), expected=expected)
    await note_spec(install, before, row)
    return row


async def drop_literals(install: Install, agent_id: str) -> None:
    """Forget the literal secrets of an agent that is erased, unless another agent's spec names one. Idempotent."""
    if await anyio.to_thread.run_sync(_kept_names, install, agent_id):
        async with install.lock():
            await _drop_unused(install, agent_id)


def take_literals(spec: AgentSpec, *, key: bytes) -> Taken:
    """Take the secrets out of a spec; pure, and the same spec and install key give the same result.

    A secret is: a value in ``secrets`` that is no reference; in ``opencode`` and ``mcp`` a text under a telling name (``apiKey``,
    ``Authorization``) that refers to nothing, and what looks like a token anywhere; the password in the address of ``workspace.git``.
    Raises `InvalidInput` as `check_entry` does.
    """
    taker = _Taker(spec, key)
    secrets = {name: taker.entry(name, value) for name, value in spec.secrets.items()}
    opencode = without_secrets(spec.opencode, ("opencode",), taker.found)
    mcp = {
        name: type(server).model_validate(
            without_secrets(server.model_dump(exclude_unset=True), ("mcp", name), taker.found)
        )
        for name, server in spec.mcp.items()
    }
    git = taker.address(spec.workspace.git)
    workspace = spec.workspace.model_copy(update={"git": git}) if git is not None else spec.workspace
    clean = {"secrets": secrets | taker.secrets, "opencode": opencode, "mcp": mcp, "workspace": workspace}
    # A field that was not given stays so: it is shown as it was written.
    changed = {name: value for name, value in clean.items() if value != getattr(spec, name)}
    return Taken(spec.model_copy(update=changed), taker.literals, tuple(taker.warnings))


def check_entry(name: str, value: str) -> None:
    """Raise `InvalidInput` for a name that ``${NAME}`` cannot name, a source that was mistyped, and what is no value; it repeats none."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{name[:80]!r} is no name for a secret: ${{NAME}} has letters, digits and '_'.")
    if is_reference(value):
        return
    check_value(f"secrets.{name}", value.removeprefix(LITERAL))
    if value.startswith(LITERAL):
        return
    scheme, colon, rest = value.partition(":")
    if colon and not rest and scheme in SCHEMES:
        raise InvalidInput(f"secrets.{name} names nothing after {scheme}:", hint=f"For example {scheme}:{name}.")
    if _MAYBE_SCHEME.match(value):
        raise InvalidInput(
            f"secrets.{name} has an unknown source: those that are known are {', '.join(SCHEMES)}.",
            hint=f"A value that really is meant literally: {LITERAL}VALUE.",
        )


def name_of_place(path: Path) -> str:
    """Name a secret after the place where it stood; a number may follow where that name is taken."""
    wanted = "_".join(path[1:] if path[0] == "opencode" else path)
    base = re.sub(r"\W", "_", wanted, flags=re.ASCII).upper()
    return (base if _NAME.fullmatch(base) else f"_{base}")[:_LONGEST_NAME]


class _Taker:
    """Collects what is found while a spec is walked through."""

    def __init__(self, spec: AgentSpec, key: bytes) -> None:
        self._spec = spec
        self._key = key
        self._used = names_in(spec)
        self.secrets: dict[str, str] = {}
        """Name → reference, of those that were found."""
        self.literals: dict[str, str] = {}
        self.warnings: list[str] = []

    def entry(self, name: str, value: str) -> str:
        """Give what stands in ``secrets``: a reference."""
        check_entry(name, value)
        return value if is_reference(value) else self._keep(name, value.removeprefix(LITERAL), f"secrets.{name}")

    def address(self, git: str | None) -> str | None:
        """Give the address of a workspace's origin. What is percent-encoded in it is decoded in the vault, as git's credentials are."""
        if git is None:
            return None
        return without_tokens(git, ("workspace", "git"), lambda value, path: self.found(unquote(value), path))

    def found(self, value: str, path: Path) -> str:
        """Keep a secret that stands in the spec, and give what takes its place."""
        name = self._free_name(path)
        self.secrets[name] = self._keep(name, value, ".".join(path))
        return f"${{{name}}}"

    def _free_name(self, path: Path) -> str:
        """Make a name that nothing else has. One that an earlier spec got for the same place is used again."""
        base = name_of_place(path)
        for name in (base if n == 1 else f"{base}_{n}" for n in count(1)):
            theirs = self._spec.secrets.get(name, self._place(name))
            if name not in self.secrets and name not in self._used and theirs.startswith(self._place(name)):
                return name
        raise AssertionError("there is always one more")

    def _keep(self, name: str, value: str, where: str) -> str:
        check_value(where, value)
        # Another value is another reference: that the spec changed can be seen without knowing either.
        tag = hmac.new(self._key, f"literal:{value}".encode(), hashlib.sha256).hexdigest()[:8]
        reference = f"{self._place(name)}{tag}"
        self.literals[check_name(reference.removeprefix("vault:"))] = value
        self.warnings.append(
            f"{where} of agent {self._spec.agent_id} is a secret given in clear. It is kept in the vault and not in the spec; better never "
            f"write it down: `cnap-runner secret set {name}`, and in the spec "
            f'secrets={{"{name}": "vault:{name}"}} (or "env:{name}") with ${{{name}}} where it is used.'
        )
        return reference

    def _place(self, name: str) -> str:
        return f"vault:{self._spec.agent_id}/{name}."


def _put_all(install: Install, literals: Mapping[str, str]) -> None:
    for name, value in literals.items():
        install.secrets.vault.put(name, value)


def _kept_names(install: Install, agent_id: str) -> list[str]:
    """Name the literals that the vault keeps for an agent; what was set by hand has no tag.

    A vault that cannot be read keeps nobody from working with agents that need none of it.
    """
    literal = re.compile(rf"{re.escape(agent_id)}/{_NAME.pattern}\.[0-9a-f]{{8}}")
    try:
        return [name for name in install.secrets.vault.names() or () if literal.fullmatch(name)]
    except SecretUnavailable as error:
        _log.warning("vault_unreadable", error=str(error))
        return []


async def _drop_unused(install: Install, agent_id: str) -> None:
    """Let the vault forget an agent's literals that no spec names. The caller holds ``install.lock``."""
    used = {reference for row in await install.store.list_agents() for reference in row.spec.secrets.values()}
    for name in await anyio.to_thread.run_sync(_kept_names, install, agent_id):
        if f"vault:{name}" not in used:
            await anyio.to_thread.run_sync(install.secrets.vault.delete, name)
