"""``cnap-runner run``: one turn, shown while it goes on."""

from __future__ import annotations

import sys
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnap_runner.cli import install
from cnap_runner.cli.exits import ExitCode, code_of_outcome
from cnap_runner.cli.failing import root_cause
from cnap_runner.cli.options import Agent, Stop, Warm, settings_of
from cnap_runner.cli.running import run_async
from cnap_runner.errors import ImageNotFound, InvalidInput, RunInProgress, RunnerError, RunnerNotFound

if TYPE_CHECKING:
    from cnap_runner.cli.interrupts import Interrupts
    from cnap_runner.cli.printing import Printer
    from cnap_runner.model.agent import AgentSpec
    from cnap_runner.model.events import RunEvent
    from cnap_runner.model.run import RunRequest, RunResult
    from cnap_runner.runner.runner import Runner
    from cnap_runner.settings import Settings
    from cnap_runner.wiring import RunnerManager

QUEUE_LOOK_SECONDS = 0.5
"""How soon and how often it is looked up what a run waits for."""

CLOSING_WORDS_SECONDS = 5
"""Longest time to look up how an interrupted run ended."""


def run(  # noqa: PLR0913 - each is an option
    ctx: typer.Context,
    *,
    agent: Agent,
    prompt: Annotated[
        str,
        typer.Argument(
            metavar="PROMPT", help="What to do; '-' reads standard input. Put '--' before one that begins with a dash."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="provider/model. A new agent needs it; a known one uses it this once."),
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", help="Added to the system prompt; of a known agent, this once.")
    ] = None,
    task: Annotated[str, typer.Option("--task", help="Line of work; each has a session of its own.")] = "main",
    is_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per line and event; the last has the result.")
    ] = False,
    timeout: Annotated[
        str | None, typer.Option("--timeout", help="Longest time, waiting and start included: 90 (seconds), 5m, 1h30m.")
    ] = None,
    files: Annotated[
        list[Path] | None, typer.Option("--file", "-f", help="File sent along. May be given several times.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="Idempotency key: the same call with the same key is done once.")
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Fail when the agent has an unfinished run.")] = False,
    is_resuming: Annotated[
        bool,
        typer.Option("--resume", help="Let the agent go on where its container dies in the middle; else that fails."),
    ] = False,
    is_stopping: Stop = False,
    keep: Warm = False,
    is_streaming: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="All text as it comes, or the final message alone. By default: as it comes on a terminal.",
        ),
    ] = None,
) -> None:
    """Let an agent do one turn and print its answer. Makes the agent if it is new.

    The answer goes to standard output, everything else to standard error. Ctrl-C ends the turn; the agent stays usable. Its container
    stays too, until it has been idle for long enough.
    """
    from cnap_runner.cli.printing import make_printer

    order = Order(
        agent_id=agent,
        prompt=read_prompt(prompt),
        model=model,
        system_prompt=system,
        task_id=task,
        timeout=timeout,
        files=tuple(files or ()),
        key=key,
        is_waiting=not no_wait,
        is_resuming=is_resuming,
    )
    settings = settings_of(ctx, keep=keep, is_warm=True, is_stopping=is_stopping)
    printer = make_printer(is_json=is_json, is_streaming=is_streaming)
    run_async(partial(carry_out, order, settings, printer))


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for on the command line."""

    agent_id: str
    prompt: str
    model: str | None = None
    system_prompt: str | None = None
    task_id: str = "main"
    timeout: str | None = None
    files: tuple[Path, ...] = ()
    key: str | None = None
    is_waiting: bool = True
    is_resuming: bool = False

    def request(self, key: str, *, spec: AgentSpec | None = None) -> RunRequest:
        """Make the request. What is said of model and system prompt and is not the agent's own concerns this run alone.

        What is the agent's own is left out: the call that made the agent and its repetition are the same request.
        """
        from cnap_runner.model.run import RunRequest

        wanted = {"model": self.model, "system_prompt": self.system_prompt}
        own = {name: value for name, value in wanted.items() if spec is None or value != getattr(spec, name)}
        message = {"role": "user", "content": self.prompt, "files": self.files}
        values = {"timeout": self.timeout, "idempotency_key": key, "wait": self.is_waiting, **own}
        values |= {"on_interrupt": "resume"} if self.is_resuming else {}
        return RunRequest.parse({"messages": [message], "task_id": self.task_id, **values})


def read_prompt(given: str) -> str:
    """Give the prompt, from standard input where it is ``-``."""
    if given != "-":
        return given
    if sys.stdin is None:  # what Python makes of one that was closed before its start
        raise InvalidInput("The prompt '-' reads standard input, and that is closed.", hint="Give the prompt itself.")
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise InvalidInput("The prompt on standard input is not UTF-8 text.") from error


async def carry_out(order: Order, settings: Settings, printer: Printer, _: Interrupts) -> ExitCode:
    """Do the run and show it; the exit code says how it ended."""
    try:
        result = await _carry_out(order, settings, printer)
    except RunnerError as error:
        if isinstance(error, RunInProgress) and error.hint is None:
            error.hint = f"Leave --no-wait out to wait for it, or end it with `cnap-runner abort {order.agent_id}`."
        printer.refuse(error)
        raise
    finally:
        printer.close()
    return code_of_outcome(result.outcome)


async def _carry_out(order: Order, settings: Settings, printer: Printer) -> RunResult:
    from cnap_runner.cli.output import note
    from cnap_runner.cli.pending import warn_of_hindered
    from cnap_runner.model.ids import new_id

    # With a key of its own a run can be found in the ledger before its result is there: for its place, and after Ctrl-C.
    key = order.key or new_id("cli")
    order.request(key)  # what cannot work is refused before anything is created
    if order.model is None and not install.is_there(settings):
        raise unknown_agent(order.agent_id)
    async with install.opened(settings, must_exist=False, is_observer=False) as manager:
        is_new = not await _is_known(manager, order.agent_id)
        runner = await find_or_create(manager, order)
        await warn_of_hindered(runner)
        try:
            result = await follow(manager, runner, order.request(key, spec=runner.spec), printer)
        except (InvalidInput, ImageNotFound) as error:
            if is_new:
                error.hint = " ".join(filter(None, (error.hint, how_to_change_model(runner.spec))))
            raise
        printer.end(result)
        if result.error is not None and result.error.code == "model_not_found":
            note(f"hint: {about_model(order.model, runner.spec)}")
        if settings.on_shutdown == "stop":
            printer.progress(f"stopping agent {order.agent_id}, unless somebody else uses it")
    return result


async def _is_known(manager: RunnerManager, agent_id: str) -> bool:
    try:
        await manager.get_runner(agent_id)
    except RunnerNotFound:
        return False
    return True


async def find_or_create(manager: RunnerManager, order: Order) -> Runner:
    """Give the agent's runner; make the agent if it is new."""
    from cnap_runner.model.agent import AgentSpec

    try:
        return await manager.get_runner(order.agent_id)
    except RunnerNotFound as error:
        if order.model is None:
            raise unknown_agent(order.agent_id) from error
    spec = AgentSpec(agent_id=order.agent_id, model=order.model, system_prompt=order.system_prompt)
    return await manager.create_runner(spec)


def about_model(given: str | None, spec: AgentSpec) -> str:
    """Say whose model it was that was not found, and what to do. ``given`` is the one of the command line."""
    if given in {None, spec.model}:
        return how_to_change_model(spec)
    return f"--model {given} counted for this run alone. {how_to_change_model(spec)}"


def how_to_change_model(spec: AgentSpec) -> str:
    """Say which model an agent has, and how it gets another."""
    return (
        f"The model of agent {spec.agent_id} is {spec.model}; for another, "
        f"`cnap-runner agent set {spec.agent_id} model=PROVIDER/MODEL`."
    )


def unknown_agent(agent_id: str) -> RunnerNotFound:
    """Say that an agent cannot be made without a model."""
    return RunnerNotFound(
        f"There is no agent {agent_id} yet, and a new one needs a model.",
        hint=f'For example: cnap-runner run {agent_id} "…" --model anthropic/claude-sonnet-4-5',
    )


async def follow(manager: RunnerManager, runner: Runner, request: RunRequest, printer: Printer) -> RunResult:
    """Do a run and show its events as they come."""
    import anyio

    from cnap_runner.model.events import RunEnded

    result: RunResult | None = None
    try:
        async with anyio.create_task_group() as tasks, aclosing(runner.stream(request)) as events:
            tasks.start_soon(_tell_waiting, manager, runner, request, printer)
            async for event in events:
                tell_progress(event, runner, printer)
                printer.show(event)
                if isinstance(event, RunEnded):
                    result = event.result
            tasks.cancel_scope.cancel()
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSING_WORDS_SECONDS):
            await _tell_interrupted(manager, runner, request, printer)
        raise
    except BaseExceptionGroup as group:
        raise root_cause(group) from group
    if result is None:
        raise RunnerError("The run ended without a result.")
    return result


def tell_progress(event: RunEvent, runner: Runner, printer: Printer) -> None:
    """Say what is waited for after a change of the run's state."""
    from cnap_runner.model.events import StatusChanged

    if not isinstance(event, StatusChanged):
        return
    if event.state == "starting" and runner.status not in {"ready", "running"}:
        what = "waking" if runner.status == "paused" else "starting"
        printer.progress(f"{what} agent {runner.agent_id}")
    elif event.state == "running":
        printer.progress(f"agent {runner.agent_id} works")


async def _tell_waiting(manager: RunnerManager, runner: Runner, request: RunRequest, printer: Printer) -> None:
    """Say how many runs come before this one, for as long as there are any, and then, that it waits for a place."""
    import anyio

    told = 0
    while True:
        await anyio.sleep(QUEUE_LOOK_SECONDS)
        unfinished = await manager.list_runs(runner.agent_id, is_unfinished=True)
        mine = next((run for run in unfinished if run.idempotency_key == request.idempotency_key), None)
        if mine is None or mine.state not in {"queued", "starting"}:
            return
        if mine.state == "starting":
            await tell_place(manager, runner, printer)
            return
        before = sum(run.place < mine.place for run in unfinished)
        if before not in {0, told}:
            printer.progress(f"waiting: {before} {'run' if before == 1 else 'runs'} before this one")
        told = before


async def tell_place(manager: RunnerManager, runner: Runner, printer: Printer) -> None:
    """Say that a run that starts waits for a place, and when it has one. Returns once its agent has one."""
    import anyio

    from cnap_runner.model.runner import LIVE_STATUSES

    is_told = False
    while (await manager.get_runner(runner.agent_id)).status not in LIVE_STATUSES:
        if not is_told and runner.agent_id in await manager.waiting_for_place():
            counted = await manager.stats()
            taken = counted.active + counted.idle + counted.paused
            printer.wait_for_place(taken=taken, places=manager.parts.install.settings.max_containers)
            is_told = True
        await anyio.sleep(QUEUE_LOOK_SECONDS)
    if is_told:
        printer.progress(f"starting agent {runner.agent_id}")


async def _tell_interrupted(manager: RunnerManager, runner: Runner, request: RunRequest, printer: Printer) -> None:
    """Say how a run ended that Ctrl-C cut short; one that others drive goes on without us."""
    from cnap_runner.cli.output import note

    printer.close()
    runs = await manager.list_runs(runner.agent_id)
    mine = next((run for run in runs if run.idempotency_key == request.idempotency_key), None)
    if mine is not None and mine.result is not None:
        printer.end(mine.result)
    elif mine is not None:
        note(f"run {mine.run_id} goes on; `cnap-runner abort {runner.agent_id}` ends it")
