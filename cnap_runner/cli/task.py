"""``cnap-runner task``: lines of work for agents, from their first turn to their end, over as many processes as it takes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cnap_runner.cli import install
from cnap_runner.cli.commands import Command, Group, PromptCommand
from cnap_runner.cli.options import Agent, Json, Stop, complete_agent, settings_of
from cnap_runner.cli.output import ago, brief, note, plain, print_line, print_table, table, write_json
from cnap_runner.cli.run import read_prompt
from cnap_runner.cli.running import run_async
from cnap_runner.errors import RunnerNotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cnap_runner.cli.exits import ExitCode
    from cnap_runner.cli.interrupts import Interrupts
    from cnap_runner.cli.printing import Printer
    from cnap_runner.controller import Tasks
    from cnap_runner.model.task import TaskMessage, TaskRecord
    from cnap_runner.settings import Settings

State = Literal["pending", "running", "waiting", "completed", "failed", "canceled", "deleted"]

WIDTH = 60

app = typer.Typer(cls=Group, no_args_is_help=True, help="Give agents tasks, and do them turn by turn.")

Task = Annotated[str, typer.Argument(metavar="TASK", help="The task's id.")]


@app.command(cls=PromptCommand)
def create(
    ctx: typer.Context,
    agent: Agent,
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="What its first turn sends; '-' reads standard input.")
    ] = None,
    task_id: Annotated[str | None, typer.Option("--id", help="The task's id; one is made when it is left out.")] = None,
    is_json: Json = False,
) -> None:
    """Make a task for a known agent and print its id. Starts nothing: `task send` does its first turn."""
    given = None if prompt is None else read_prompt(prompt)
    run_async(partial(_create, settings_of(ctx), agent, given, task_id, is_json))


async def _create(
    settings: Settings, agent_id: str, prompt: str | None, task_id: str | None, is_json: bool, _: Interrupts
) -> None:
    from cnap_runner.controller import Tasks

    async with install.opened(settings) as manager:
        try:
            task = await Tasks(manager).create(agent_id, prompt, task_id=task_id)
        except RunnerNotFound as error:
            error.hint = "`cnap-runner apply` makes agents, and so does `cnap-runner run`."
            raise
    if is_json:
        write_json(task, indent=2)
    else:
        print_line(task.task_id)


@app.command(cls=PromptCommand)
def send(
    ctx: typer.Context,
    task: Task,
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="What to do next. Left out: what was not sent yet is sent.")
    ] = None,
    *,
    is_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per line and event; the last has the result.")
    ] = False,
    is_streaming: Annotated[
        bool | None,
        typer.Option("--stream/--no-stream", help="All text as it comes, or the final message alone."),
    ] = None,
    is_stopping: Stop = False,
) -> None:
    """Do a task's next turn and print its answer; the first one too.

    Ctrl-C ends the turn; the task can go on. While a turn of it is under way, another is refused.
    """
    from cnap_runner.cli.printing import make_printer

    given = None if prompt is None else read_prompt(prompt)
    printer = make_printer(is_json=is_json, is_streaming=is_streaming)
    settings = settings_of(ctx, is_warm=True, is_stopping=is_stopping)
    run_async(partial(_send, settings, task, given, printer))


async def _send(settings: Settings, task_id: str, prompt: str | None, printer: Printer, _: Interrupts) -> ExitCode:
    from cnap_runner.cli.sending import do_turn

    async with install.opened(settings, is_observer=False) as manager:
        return await do_turn(manager, task_id, prompt, printer)


@app.command(cls=Command)
def cancel(ctx: typer.Context, task: Task) -> None:
    """End a task: its turn is aborted, whoever drives it, and no other follows."""
    run_async(partial(_change, settings_of(ctx), lambda tasks: tasks.cancel(task), f"task {task} is canceled"))


@app.command(cls=Command)
def complete(ctx: typer.Context, task: Task) -> None:
    """Say that a task is done. The agent's container ends with its last task; files and session stay."""
    run_async(partial(_change, settings_of(ctx), lambda tasks: tasks.complete(task), f"task {task} is completed"))


@app.command(cls=Command)
def rm(ctx: typer.Context, task: Task) -> None:
    """Hide a task that is not running. Its id is never used again; its runs stay in the ledger."""
    run_async(partial(_change, settings_of(ctx), lambda tasks: tasks.delete(task), f"task {task} is removed"))


async def _change(settings: Settings, change: Callable[[Tasks], Awaitable[object]], said: str, _: Interrupts) -> None:
    from cnap_runner.controller import Tasks

    async with install.opened(settings) as manager:
        await change(Tasks(manager))
        note(said)


@app.command(cls=Command)
def show(ctx: typer.Context, task: Task, is_json: Json = False) -> None:
    """Show a task and all that was said in it."""
    run_async(partial(_show, settings_of(ctx, is_quiet=True), task, is_json))


async def _show(settings: Settings, task_id: str, is_json: bool, _: Interrupts) -> None:
    from cnap_runner.controller import Tasks

    async with install.looked_into(settings) as manager:
        tasks = Tasks(manager)
        task, messages = await tasks.get(task_id), await tasks.messages(task_id)
    if is_json:
        write_json({**plain(task), "messages": plain(messages)}, indent=2)
    else:
        _tell(task, messages)


def _tell(task: TaskRecord, messages: list[TaskMessage]) -> None:
    turns = "1 turn" if task.turns == 1 else f"{task.turns} turns"
    print_line(f"{task.task_id}: {task.state}, agent {task.agent_id}, {turns}", style="bold")
    if task.reason:
        print_line(task.reason)
    for message in messages:
        is_unsent = message.role == "user" and message.run_id is None
        print_line(f"\n{message.role}{' (not sent yet)' if is_unsent else ''}:", style="cyan")
        print_line(message.content)


@app.command("list", cls=Command)
def list_(
    ctx: typer.Context,
    agent: Annotated[
        str | None, typer.Argument(metavar="AGENT", help="Only this agent's.", autocompletion=complete_agent)
    ] = None,
    state: Annotated[State | None, typer.Option("--state", help="Only those in this state.")] = None,
    is_json: Json = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="At most so many.")] = 20,
) -> None:
    """List tasks, newest first. Removed ones only where `--state deleted` asks for them."""
    settings = settings_of(ctx, is_quiet=True)
    if install.is_there(settings):
        run_async(partial(_list, settings, agent, state, limit, is_json))
    else:
        _show_list([], is_json=is_json)


async def _list(
    settings: Settings, agent_id: str | None, state: State | None, limit: int, is_json: bool, _: Interrupts
) -> None:
    from cnap_runner.controller import Tasks
    from cnap_runner.model.task import TaskState

    wanted = None if state is None else {TaskState(state)}
    async with install.looked_into(settings) as manager:
        found = await Tasks(manager).list_newest(agent_id, states=wanted, limit=limit)
    _show_list(found, is_json=is_json)


def _show_list(found: list[TaskRecord], *, is_json: bool) -> None:
    if is_json:
        write_json(found, indent=2)
    elif found:
        print_table(_table(found))
    else:
        note("There are no tasks.")


def _table(found: list[TaskRecord]) -> Any:
    made = table("TASK", "AGENT", "STATE", "SINCE", "TURNS", "RUN", "REASON")
    for task in found:
        since, why = ago(task.updated_at), brief(task.reason or "", WIDTH)
        made.add_row(task.task_id, task.agent_id, str(task.state), since, str(task.turns), task.run_id or "", why)
    return made
