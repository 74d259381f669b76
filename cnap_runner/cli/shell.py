"""``cnap-runner shell``: a command inside an agent's container, with this terminal where there is one."""

from __future__ import annotations

import sys
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from cnap_runner.cli import install
from cnap_runner.cli.options import Agent, Stop, Warm, settings_of
from cnap_runner.cli.output import is_terminal, note
from cnap_runner.cli.running import run_async
from cnap_runner.errors import BackendError, InvalidInput, RunTimedOut

if TYPE_CHECKING:
    from cnap_runner.cli.interrupts import Interrupts
    from cnap_runner.runner.runner import Runner
    from cnap_runner.settings import Settings

DEFAULT_SHELL = ("/bin/sh", "-c", "command -v bash >/dev/null && exec bash || exec sh")

COMMAND_LIMIT = timedelta(hours=1)
"""Longest time of a command that has no terminal."""


def shell(
    ctx: typer.Context,
    agent: Agent,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="What to run; a shell when left out.")
    ] = None,
    is_stopping: Stop = False,
    keep: Warm = False,
) -> None:
    """Open a shell, or run a command, in an agent's container and workspace. Starts the container if needed.

    The exit code is the command's own. Without a terminal the command gets no input, and up to 1 MiB of its output is printed.
    """
    has_terminal = is_terminal(sys.stdin) and is_terminal(sys.stdout)
    if not command and not has_terminal:
        raise InvalidInput(
            "A shell needs a terminal.", hint="Give the command to run: cnap-runner shell AGENT COMMAND…"
        )
    settings = settings_of(ctx, keep=keep, is_warm=True, is_stopping=is_stopping)
    run_async(partial(_shell, settings, agent, command or [], has_terminal))


async def _shell(
    settings: Settings, agent_id: str, command: list[str], has_terminal: bool, interrupts: Interrupts
) -> int:
    from cnap_runner.runner.lifecycle.holding import held_while

    async with install.opened(settings) as manager:
        runner = await manager.get_runner(agent_id)
        if runner.status not in {"ready", "running", "paused"}:
            note(f"starting agent {agent_id}", style="dim")
        runner = await manager.start_runner(agent_id)
        if not has_terminal:
            return await _run_plainly(runner, command)
        with interrupts.ignoring_keys():
            # Whoever types in it is not idle, though no turn is under way.
            async with held_while(manager.parts.install, agent_id, "shell"):
                return await _run_with_terminal(await runner.shell_command(command or DEFAULT_SHELL))


async def _run_with_terminal(argv: list[str]) -> int:
    """Run a local program with our terminal and wait for it; it ends with us when we are told to end."""
    import anyio

    try:
        process = await anyio.open_process(argv, stdin=None, stdout=None, stderr=None)
    except FileNotFoundError as error:
        raise BackendError(
            f"The program {argv[0]} is not on PATH, and a terminal needs it.",
            hint="Install it, or pass the command without a terminal: cnap-runner shell AGENT COMMAND… | cat",
        ) from error
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                await process.wait()


async def _run_plainly(runner: Runner, command: list[str]) -> int:
    try:
        result = await runner.exec(command, timeout=COMMAND_LIMIT)
    except TimeoutError as error:
        raise RunTimedOut("The command took longer than an hour.", hint="It may go on inside.") from error
    sys.stdout.buffer.write(result.output)
    sys.stdout.flush()
    if result.is_truncated:
        note("the rest of the output was cut off")
    return result.exit_code
