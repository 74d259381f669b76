"""Changing one agent's spec from the command line: its present one, edited as plain data and applied as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cnap_runner.cli import install
from cnap_runner.errors import ConflictError, InvalidInput

if TYPE_CHECKING:
    from cnap_runner.runner.declarations import ApplyPlan
    from cnap_runner.settings import Settings
    from cnap_runner.wiring import RunnerManager

Edit = Callable[[dict[str, Any]], None]
"""Changes a spec's plain data in its place."""


TRIES = 20
"""Of edits at the same moment each changes what the one before left: one is through at each try."""


async def edit_agent(settings: Settings, agent_id: str, edit: Edit) -> None:
    """Apply an edit, show what it changed, and what of that is still to come. Edits of others at the same moment are kept."""
    from cnap_runner.cli.apply import show_changes
    from cnap_runner.cli.output import note
    from cnap_runner.cli.pending import warn_of_hindered

    async with install.opened(settings) as manager:
        for left in reversed(range(TRIES)):
            try:
                plan = await _edited(manager, agent_id, edit)
                break
            except ConflictError:
                if not left:
                    raise
        show_changes(plan)
        if not plan.has_changes:
            note(f"agent {agent_id} is so already")
        for change in await warn_of_hindered(await manager.get_runner(agent_id)):
            note(f"{change.what}: {change.applies}")


async def _edited(manager: RunnerManager, agent_id: str, edit: Edit) -> ApplyPlan:
    """Edit the present spec, once. Raises `ConflictError` where it is not the present one any more."""
    from cnap_runner.model.agent import AgentSpec
    from cnap_runner.runner.declarations import spec_data
    from cnap_runner.runner.secrecy.leftovers import leftovers
    from cnap_runner.runner.secrecy.literals import name_of_place

    present = (await manager.get_runner(agent_id)).spec
    data = spec_data(present)
    edit(data)
    for name in leftovers(present, AgentSpec.parse(data), name_of_place=name_of_place):
        del data["secrets"][name]
    wanted = AgentSpec.parse(data)
    plan = await manager.apply([wanted], dry_run=True)
    if plan.has_changes:
        await manager.create_runner(wanted, expected=present)
    return plan


def assign(data: dict[str, Any], assignment: str) -> None:
    """Set the field that ``resources.memory_mb=4096`` names; with nothing after the ``=`` it is left out, so that its default counts.

    Raises `InvalidInput`.
    """
    path, separator, text = assignment.partition("=")
    steps = path.split(".")
    if not separator or not all(steps):
        raise InvalidInput(f"{path!r} is no assignment.", hint="For example: model=anthropic/claude-sonnet-4-5")
    if steps[0] == "agent_id":
        raise InvalidInput(
            "An agent's id cannot be changed.", hint="`cnap-runner export` and `import --as` make another."
        )
    for step in steps[:-1]:
        data = data.setdefault(step, {})
        if not isinstance(data, dict):
            raise InvalidInput(f"{path!r}: {step} has no fields.")
    if text:
        data[steps[-1]] = _value(path, text)
    else:
        data.pop(steps[-1], None)


def pairs(given: list[str] | None, *, what: str) -> dict[str, str]:
    """Read ``NAME=VALUE`` options. Raises `InvalidInput`, which does not repeat a value."""
    found: dict[str, str] = {}
    for text in given or ():
        name, separator, value = text.partition("=")
        if not (name and separator):
            raise InvalidInput(f"{what} is given as NAME=VALUE.")
        found[name] = value
    return found


def _value(path: str, text: str) -> Any:
    """Read numbers, true, false, null, and what is in quotes or brackets, as YAML; anything else is text as it stands."""
    from cnap_runner.cli.yaml_text import YamlRefused, parse_value

    try:
        value = parse_value(text)
    except YamlRefused as error:
        if text.startswith(("[", "{", '"', "'")):
            raise InvalidInput(f"{path}: {error.problem}.") from None
        return text
    return value if text.startswith(("[", "{", '"', "'")) or not isinstance(value, dict | list | str) else text
