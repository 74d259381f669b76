"""Changing one agent's spec from the command line: its present one, edited as plain data and applied as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cnap_runner.cli import install
from cnap_runner.errors import InvalidInput

if TYPE_CHECKING:
    from cnap_runner.settings import Settings

Edit = Callable[[dict[str, Any]], None]
"""Changes a spec's plain data in its place."""


async def edit_agent(settings: Settings, agent_id: str, edit: Edit) -> None:
    """Apply an edit, show what it changed, and what of that is still to come. Of two edits at the same moment the later wins."""
    from cnap_runner.cli.apply import show_changes
    from cnap_runner.cli.output import note
    from cnap_runner.model.agent import AgentSpec
    from cnap_runner.runner.declarations import spec_data

    async with install.opened(settings) as manager:
        data = spec_data((await manager.get_runner(agent_id)).spec)
        edit(data)
        plan = await manager.apply([AgentSpec.parse(data)])
        show_changes(plan)
        if not plan.has_changes:
            note(f"agent {agent_id} is so already")
        for change in await (await manager.get_runner(agent_id)).pending_changes():
            note(f"{change.what}: {change.applies}")


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
