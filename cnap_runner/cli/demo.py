"""``cnap-runner demo``: one agent at work, without a key and without a model of one's own.

A scripted model plays the language model; all else is real: the container, OpenCode, its tools, the file.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from cnap_runner.cli import install
from cnap_runner.cli.exits import ExitCode, code_of_outcome
from cnap_runner.cli.options import Keep, complete_agent, settings_of
from cnap_runner.cli.output import note
from cnap_runner.cli.run import Order, follow
from cnap_runner.cli.running import run_async
from cnap_runner.errors import ConflictError, RunnerError, RunnerNotFound

if TYPE_CHECKING:
    from pathlib import Path

    from cnap_runner.cli.interrupts import Interrupts
    from cnap_runner.runner.runner import Runner
    from cnap_runner.settings import Settings
    from cnap_runner.testing.scripted_model import ScriptedModel
    from cnap_runner.wiring import RunnerManager

KEY_VARIABLE = "CNAP_DEMO_MODEL_KEY"
FILE = "hello.txt"
PROMPT = f"Write a greeting into {FILE} and show it to me."
NEXT = """\
Now with a model of your own:
  export ANTHROPIC_API_KEY=…
  cnap-runner run alice "Write a haiku about containers into haiku.md" --model anthropic/claude-sonnet-4-5"""


def demo(
    ctx: typer.Context,
    agent: Annotated[str, typer.Option("--agent", help="The demo agent's id.", autocompletion=complete_agent)] = "demo",
    keep: Keep = False,
) -> None:
    """Watch an agent write a file and run a command in its container. Needs no API key: the model is scripted."""
    _require_testing_extra()
    # The key comes from our own environment, whatever of it the settings let through to other agents.
    settings = settings_of(ctx, keep=keep, env_allow=(KEY_VARIABLE,))
    run_async(partial(_demo, settings, agent))


async def _demo(settings: Settings, agent_id: str, _: Interrupts) -> ExitCode:
    import anyio.to_thread

    from cnap_runner.cli.printing import TextPrinter

    greeting = f"Hello from agent {agent_id}, greeting number {secrets.randbelow(10_000)}!\n"
    printer = TextPrinter(is_streaming=True)
    async with (
        scripted_model(greeting, settings) as model,
        install.opened(settings, must_exist=False, is_observer=False) as manager,
    ):
        runner = await _make_agent(manager, agent_id, model, settings)
        path = settings.data_dir / "workspace" / agent_id / FILE
        path.unlink(missing_ok=True)
        note(f"prompt: {PROMPT}", style="bold")
        try:
            result = await follow(
                manager, runner, Order(agent_id, PROMPT).request(f"demo-{secrets.token_hex(8)}"), printer
            )
            printer.end(result)
        finally:
            printer.close()
    if not result.success:
        return code_of_outcome(result.outcome)
    if not await anyio.to_thread.run_sync(_holds, path, greeting):
        raise RunnerError(f"The run succeeded, but {path} is not there with what was written.")
    note(f"\nThe file is on this machine, in the agent's workspace: {path}", style="bold")
    note(NEXT)
    return ExitCode.SUCCEEDED


def _holds(path: Path, greeting: str) -> bool:
    """Whether the file is there with what was written, and not a link to another."""
    from cnap_runner.runner.workspaces.confined import read_file

    try:
        return read_file(path.parent, path.name, at_most=1024) == greeting.encode()
    except OSError:
        return False


@asynccontextmanager
async def scripted_model(greeting: str, settings: Settings) -> AsyncIterator[ScriptedModel]:
    """Serve the demo's model where an agent reaches it, and only with the key.

    A container reaches this machine by the address of the engine's bridge, which differs between engines; so the server listens on
    all addresses for the seconds the demo takes, and a random key keeps others out.
    """
    from cnap_runner.testing.scripted_model import CallTool, Rule, Say, ScriptedModel

    rule = Rule(
        FILE,
        [
            Say("I write the file first."),
            CallTool("write", {"filePath": FILE, "content": greeting}),
            CallTool(
                "bash", {"command": f"cat {FILE} && id && uname -sr", "description": "Shows the file and who I am"}
            ),
            Say(f"{FILE} is in my workspace."),
        ],
    )
    key = os.environ[KEY_VARIABLE] = secrets.token_urlsafe(24)
    try:
        host = "127.0.0.1" if settings.backend == "process" else "0.0.0.0"  # noqa: S104 - see above
        async with ScriptedModel([rule], host=host, api_key=key) as model:
            yield model
    finally:
        os.environ.pop(KEY_VARIABLE, None)


async def _make_agent(manager: RunnerManager, agent_id: str, model: ScriptedModel, settings: Settings) -> Runner:
    """Make the demo's agent, or point the one of an earlier demo to this model; never change anybody else's."""
    from cnap_runner.model.agent import AgentSpec

    try:
        known = await manager.get_runner(agent_id)
    except RunnerNotFound:
        known = None
    if known is not None and known.spec.model != model.model:
        raise ConflictError(f"There is an agent {agent_id} that is not the demo's.", hint="Name another: --agent NAME")
    host = None if settings.backend == "process" else "host.docker.internal"
    configuration = model.provider_config(host=host, api_key=f"${{{KEY_VARIABLE}}}")
    return await manager.create_runner(AgentSpec(agent_id=agent_id, model=model.model, opencode=configuration))


def _require_testing_extra() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise RunnerError(
            f"The demo's model server needs {' and '.join(missing)}.", hint="pip install 'cnap-runner[testing]'"
        )
