"""``cnap-runner answers``: what agents ask, and the replies."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnap_runner.cli import install
from cnap_runner.cli.commands import Command, Group
from cnap_runner.cli.options import Json, complete_agent, settings_of
from cnap_runner.cli.output import ago, brief, note, print_table, table, write_json
from cnap_runner.cli.running import run_async
from cnap_runner.errors import AnswerNotPending, InvalidInput

if TYPE_CHECKING:
    from cnap_runner.cli.interrupts import Interrupts
    from cnap_runner.model.answers import PendingAnswer
    from cnap_runner.settings import Settings
    from cnap_runner.wiring import RunnerManager

WIDTH = 80
REQUESTS = ("per_", "que_")
"""How OpenCode's ids of permissions and questions begin."""

app = typer.Typer(cls=Group, no_args_is_help=True, help="See what agents ask, and reply.")


@app.command(cls=Command)
def ls(
    ctx: typer.Context,
    agent: Annotated[
        str | None, typer.Argument(metavar="AGENT", help="Only this agent's.", autocompletion=complete_agent)
    ] = None,
    is_json: Json = False,
) -> None:
    """List the permissions and questions that wait for somebody's reply, oldest first."""
    settings = settings_of(ctx, is_quiet=True)
    if install.is_there(settings):
        run_async(partial(_ls, settings, agent, is_json))
    else:
        _show([], is_json=is_json)


async def _ls(settings: Settings, agent_id: str | None, is_json: bool, _: Interrupts) -> None:
    async with install.looked_into(settings) as manager:
        if agent_id is None:
            found = await manager.pending_answers()
        else:
            found = await (await manager.get_runner(agent_id)).pending_answers()
        _show(found, is_json=is_json)


@app.command(cls=Command)
def reply(
    ctx: typer.Context,
    request: Annotated[str, typer.Argument(metavar="REQUEST", help="Its id, or an agent that asks one thing alone.")],
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="REPLY",
            help="allow, always or reject; to a question an answer, one for each that it asks, or reject.",
        ),
    ],
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="Tells the agent why its permission is rejected.")
    ] = None,
) -> None:
    """Reply to a permission or question that waits, whichever process drives its run. The first reply counts."""
    run_async(partial(_reply, settings_of(ctx), request, words, message))


async def _reply(settings: Settings, request: str, words: list[str], message: str | None, _: Interrupts) -> None:
    async with install.opened(settings) as manager:
        pending = await _find(manager, request)
        given = words[0] if len(words) == 1 else words
        runner = await manager.get_runner(pending.agent_id)
        await runner.answer(pending.request_id, given, message=message)
        note(f"agent {pending.agent_id} has its reply: {brief(pending.text, WIDTH)}")


async def _find(manager: RunnerManager, request: str) -> PendingAnswer:
    waiting = await manager.pending_answers()
    found = [pending for pending in waiting if pending.request_id == request]
    found = found or [pending for pending in waiting if pending.agent_id == request]
    if len(found) > 1:
        ids = ", ".join(pending.request_id for pending in found)
        raise InvalidInput(f"Agent {request} asks {len(found)} things.", hint=f"Name one: {ids}.")
    if not found:
        if not request.startswith(REQUESTS):
            await manager.get_runner(request)  # says so where there is no such agent
            raise AnswerNotPending(f"Agent {request} asks nothing.")
        raise AnswerNotPending(f"Nothing waits for a reply by the name {request[:80]!r}.")
    return found[0]


def _show(found: list[PendingAnswer], *, is_json: bool) -> None:
    if is_json:
        write_json(found, indent=2)
    elif found:
        print_table(_table(found))
    else:
        note("Nobody asks anything.")


def _table(found: list[PendingAnswer]) -> Any:
    made = table("REQUEST", "AGENT", "KIND", "ASKED", "UNTIL", "WHAT")
    for pending in found:
        until = f"{pending.deadline_at.astimezone():%H:%M:%S}"
        what = brief(pending.text, WIDTH)
        made.add_row(pending.request_id, pending.agent_id, str(pending.kind), ago(pending.asked_at), until, what)
    return made
