"""``cnap-runner apply``: declared agents, compared with what is known and made so."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnap_runner.cli import install
from cnap_runner.cli.exits import ExitCode
from cnap_runner.cli.options import Json, settings_of
from cnap_runner.cli.output import note, plain, print_line, write_json
from cnap_runner.cli.running import run_async

if TYPE_CHECKING:
    from cnap_runner.cli.interrupts import Interrupts
    from cnap_runner.model.agent import AgentSpec
    from cnap_runner.runner.declarations import AgentChange, ApplyPlan, FieldChange
    from cnap_runner.settings import Settings

VALUE_WIDTH = 100

_SIGNS = {"create": ("+", "green"), "change": ("~", "yellow"), "delete": ("-", "red")}


def apply(
    ctx: typer.Context,
    files: Annotated[
        list[str],
        typer.Option(
            "--file",
            "-f",
            metavar="FILE|DIR|-",
            help="Declarations in YAML; '-' reads standard input. May be repeated.",
        ),
    ],
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the difference and change nothing; exits with 9 where there is one.")
    ] = False,
    prune: Annotated[
        str | None,
        typer.Option(
            "--prune",
            metavar="LABEL=VALUE",
            help="Delete the agents of this label that are not declared here; their files stay.",
        ),
    ] = None,
    is_json: Json = False,
) -> None:
    """Make agents as they are declared. Shows the difference first; a second time there is nothing to do."""
    from cnap_runner.cli.declarations import load
    from cnap_runner.runner.mistakes import mistakes_of
    from cnap_runner.wiring import capabilities_of, load_template

    settings = settings_of(ctx)
    template, can = load_template(settings.data_dir), capabilities_of(settings)
    specs = load(files, judge=partial(mistakes_of, settings=settings, template=template, can=can))
    run_async(partial(_apply, settings, specs, prune, is_dry_run, is_json))


async def _apply(
    settings: Settings, specs: list[AgentSpec], prune: str | None, is_dry_run: bool, is_json: bool, _: Interrupts
) -> ExitCode:
    if is_dry_run and not install.is_there(settings):
        plan = _first_plan(specs, prune)
        return _show(plan, is_json=is_json, is_dry_run=True)
    from cnap_runner.cli.pending import warn_of_hindered

    async with install.opened(settings, must_exist=False) as manager:
        plan = await manager.apply(specs, dry_run=True, prune=prune)
        code = _show(plan, is_json=is_json, is_dry_run=is_dry_run)
        if not is_dry_run and plan.has_changes:
            done = await manager.apply(specs, prune=prune)
            note(f"{done.count('create')} created, {done.count('change')} changed, {done.count('delete')} deleted")
        for spec in () if is_dry_run else specs:
            await warn_of_hindered(await manager.get_runner(spec.agent_id))
    return code


def _first_plan(specs: list[AgentSpec], prune: str | None) -> ApplyPlan:
    """Plan for an install that is not there: a look must not make one."""
    from cnap_runner.runner.declarations import plan_of, redacted
    from cnap_runner.telemetry.redaction import Redactor

    return redacted(plan_of({}, specs, prune=prune), Redactor())


def _show(plan: ApplyPlan, *, is_json: bool, is_dry_run: bool) -> ExitCode:
    if is_json:
        write_json({"has_changes": plan.has_changes, **plain(plan)}, indent=2)
    else:
        show_changes(plan)
        counts = [f"{plan.count(name)} to {name}" for name in _SIGNS]
        print_line(f"{', '.join(counts)}, {plan.count('unchanged')} unchanged")
    return ExitCode.DIFFERENT if is_dry_run and plan.has_changes else ExitCode.SUCCEEDED


def show_changes(plan: ApplyPlan) -> None:
    """Print what differs, agent by agent."""
    for agent in plan.agents:
        for text, style in _lines(agent):
            print_line(text, style=style)


def _lines(agent: AgentChange) -> Iterator[tuple[str, str]]:
    if str(agent.action) not in _SIGNS:
        return
    sign, style = _SIGNS[str(agent.action)]
    yield f"{sign} {agent.agent_id}{' (its files stay)' if sign == '-' else ''}", style
    for field in agent.fields:
        if field.path != "agent_id":
            yield from _field_lines(field, is_new=sign == "+")


def _field_lines(field: FieldChange, *, is_new: bool) -> Iterator[tuple[str, str]]:
    if is_new:
        yield f"    {field.path}: {_shown(field.new)}", ""
    elif isinstance(field.old, str) and isinstance(field.new, str) and "\n" in field.old + field.new:
        yield f"  ~ {field.path}:", ""
        changed = difflib.unified_diff(field.old.splitlines(), field.new.splitlines(), n=1, lineterm="")
        yield from ((f"      {line}", _style_of(line)) for line in list(changed)[2:])
    elif field.old is None:
        yield f"  + {field.path}: {_shown(field.new)}", ""
    elif field.new is None:
        yield f"  - {field.path}: {_shown(field.old)}", ""
    else:
        yield f"  ~ {field.path}: {_shown(field.old)} → {_shown(field.new)}", ""


def _style_of(line: str) -> str:
    return {"+": "green", "-": "red"}.get(line[:1], "dim")


def _shown(value: Any) -> str:
    from cnap_runner.cli.output import brief

    return brief(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), VALUE_WIDTH)
