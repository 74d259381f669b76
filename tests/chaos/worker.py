"""One manager among several: a user's program that carries out orders. It may be killed, frozen, or robbed of its engine at any moment.

Orders come as lines of JSON by standard input; how each ended goes as a line of JSON to standard output.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from cnap_runner import AgentSpec, Message, Runner, RunnerError, RunnerManager, RunRequest, Settings
from cnap_runner.testing.scripted_model import provider_config
from tests.chaos.orders import Order
from tests.chaos.places import IMAGE, WITNESS, Places


def say(**line: Any) -> None:
    """One write per line, so that lines of several tasks never mix."""
    os.write(1, (json.dumps(line, default=str) + "\n").encode())


def settings_of(places: Places) -> Settings:
    """What all managers of the run are told."""
    return Settings(
        data_dir=places.data,
        image=IMAGE,
        fetch_models=False,
        max_containers=16,
        memory_mb=1024,
        max_run_time=120,
        start_timeout=60,
        health_timeout=120,
        on_shutdown="leave",
        host_reserve_mb=256,
        sweep_interval=5,
        crash_limit=100_000,  # whoever ends containers here stands outside
    )


def spec_of(agent_id: str, model_port: int) -> AgentSpec:
    """An agent that uses the scripted model."""
    provider = provider_config(f"http://host.docker.internal:{model_port}/v1")
    return AgentSpec(agent_id=agent_id, model="scripted/demo", opencode=provider)


async def carry_out(runner: Runner, order: Order) -> None:
    """Run one order and say how it ended."""
    message = Message(role="user", content=order.prompt)
    request = RunRequest(task_id=order.task_id, messages=(message,), idempotency_key=order.key)
    try:
        result = await runner.run(request)
    except RunnerError as error:
        say(order=order.number, raised=error.code, message=error.message, retryable=error.retryable)
        return
    code, message_ = (result.error.code, result.error.message) if result.error else (None, None)
    said = {"outcome": result.outcome, "error": code, "message": message_, "output": result.output}
    say(order=order.number, run_id=result.run_id, **said)


def measure() -> dict[str, int]:
    """What this process holds."""
    return {"descriptors": len(list(Path("/proc/self/fd").iterdir())), "threads": threading.active_count()}


async def serve(manager: RunnerManager, model_port: int, tasks: TaskGroup) -> None:
    """Take orders until told to finish."""
    runners: dict[str, Runner] = {}
    while line := await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        told = json.loads(line)
        if told["do"] == "finish":
            return
        if told["do"] == "measure":
            say(measured=measure())
            continue
        order = Order(**told["order"])
        try:
            if order.agent_id not in runners:
                runners[order.agent_id] = await manager.create_runner(spec_of(order.agent_id, model_port))
        except RunnerError as error:
            say(order=order.number, raised=error.code, message=error.message, retryable=error.retryable)
            continue
        tasks.start_soon(carry_out, runners[order.agent_id], order)


async def main(folder: str, name: str, model_port: str) -> None:
    places = Places(Path(folder))
    async with RunnerManager(settings_of(places)) as manager:
        pid_file = (places.folder if name == WITNESS else places.workers) / f"{name}.pid"
        pid_file.write_text(str(os.getpid()))
        try:
            async with anyio.create_task_group() as tasks:
                say(ready=name)
                await serve(manager, int(model_port), tasks)
        finally:
            pid_file.unlink(missing_ok=True)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], sys.argv[3])
