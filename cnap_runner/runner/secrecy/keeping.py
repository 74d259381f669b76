"""The secrets that an install keeps, and the agents that use them."""

from __future__ import annotations

from dataclasses import dataclass

import anyio.to_thread

from cnap_runner.errors import ConflictError, NotFoundError
from cnap_runner.runner.install import Install
from cnap_runner.secrets.names import check_value


@dataclass(frozen=True, slots=True)
class SecretUse:
    """A secret that is kept, or that an agent's spec names. Never its value."""

    reference: str
    """``vault:TOKEN``."""
    is_kept: bool | None
    """Whether the vault has it; None for those of other sources, which are not looked at."""
    agents: tuple[str, ...]
    """Ids of the agents whose specs name it."""


async def keep_secret(install: Install, name: str, value: str, source: str) -> tuple[str, ...]:
    """Write a secret and return the agents whose specs name it."""
    install.redactor.add(check_value(name, value))
    await anyio.to_thread.run_sync(install.secrets.writable(source).put, name, value)
    return (await _users(install)).get(f"{source}:{name}", ())


async def forget_secret(install: Install, name: str, source: str, *, is_forced: bool) -> None:
    """Remove a secret. Raises `ConflictError` while an agent's spec names it, unless forced, and `NotFoundError`."""
    users = (await _users(install)).get(f"{source}:{name}", ())
    if users and not is_forced:
        raise ConflictError(
            f"The secret {name} is used by {', '.join(users)}.", hint="Change those agents first, or give --force."
        )
    if not await anyio.to_thread.run_sync(install.secrets.writable(source).delete, name):
        raise NotFoundError(f"There is no secret {name} in the {source}.", hint="`cnap-runner secret ls` lists them.")


async def secrets_in_use(install: Install) -> list[SecretUse]:
    """List what the vault keeps and what agents' specs name, by reference."""
    kept = {f"vault:{name}" for name in await anyio.to_thread.run_sync(install.secrets.vault.names) or ()}
    users = await _users(install)
    return [
        SecretUse(
            reference=reference,
            is_kept=reference in kept if reference.startswith("vault:") else None,
            agents=users.get(reference, ()),
        )
        for reference in sorted(kept | users.keys())
    ]


async def _users(install: Install) -> dict[str, tuple[str, ...]]:
    """Give the agents that name each reference."""
    found: dict[str, tuple[str, ...]] = {}
    for row in await install.store.list_agents():
        for reference in set(row.spec.secrets.values()):
            found[reference] = (*found.get(reference, ()), row.spec.agent_id)
    return found
