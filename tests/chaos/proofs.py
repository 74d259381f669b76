"""What must be true at the end, whatever was done meanwhile. Each proof gives what it found wrong; nothing is what it should find."""

from __future__ import annotations

import subprocess
from collections import Counter, defaultdict
from dataclasses import dataclass

import docker

from cnap_runner import RunnerManager, RunRecord, RunState
from cnap_runner.opencode.client import OpenCodeClient
from cnap_runner.testing.scripted_model.log import read_log
from tests.chaos.crew import Ending
from tests.chaos.orders import LANES
from tests.chaos.places import Places


@dataclass(frozen=True, slots=True)
class Account:
    """All that was asked, and all that was written down about it."""

    places: Places
    endings: list[Ending]
    runs: dict[str, RunRecord]
    """Of the ledger, by idempotency key."""


async def account(manager: RunnerManager, places: Places, endings: list[Ending]) -> Account:
    """Read the ledger."""
    agents = sorted({ending.order.agent_id for ending in endings})
    runs = [run for agent_id in agents for run in await manager.list_runs(agent_id)]
    return Account(places, endings, {run.idempotency_key or run.run_id: run for run in runs})


def each_run_has_one_true_outcome(given: Account) -> list[str]:
    """Every run of the ledger has ended, with the outcome that its caller was told; none is unknown."""
    wrong = [f"{key} is {run.state}" for key, run in given.runs.items() if run.state is not RunState.ENDED]
    wrong += [f"{key} belongs to no order" for key in given.runs.keys() - {e.order.key for e in given.endings}]
    for ending in given.endings:
        run = given.runs.get(ending.order.key)
        if run is None or run.result is None:
            wrong.append(f"{ending.order.key} was told {ending.said['outcome']} and is not in the ledger")
        elif (run.run_id, run.result.outcome) != (ending.said["run_id"], ending.said["outcome"]):
            wrong.append(f"{ending.order.key} was told {ending.said}, the ledger has {run.result.outcome}")
        elif run.result.outcome == "unknown":
            wrong.append(f"{ending.order.key} is unknown: {run.result.error}")
        elif ending.is_success and ending.said["output"] != ending.order.answer:
            wrong.append(f"{ending.order.key} succeeded with another answer: {ending.said['output']!r}")
    return wrong


def no_prompt_reached_the_model_twice(given: Account) -> list[str]:
    """By the model's own account, which outlives everything."""
    seen = Counter(request.prompt for request in read_log(given.places.model_log) if request.is_prompt)
    wrong = [f"{times} times: {prompt!r}" for prompt, times in seen.items() if times > 1]
    never = [ending.order.key for ending in given.endings if ending.is_success and not seen[ending.order.prompt]]
    return wrong + [f"{key} succeeded and never reached the model" for key in never]


def files_are_what_the_runs_made(given: Account) -> list[str]:
    """Each finished run wrote its line once, nobody wrote one twice, and the lines are in the order of the ledger."""
    wrong: list[str] = []
    for agent_id, endings in _by_agent(given).items():
        journal = given.places.data / "workspace" / agent_id / "journal"
        lines = journal.read_text().split() if journal.exists() else []
        wrong += [f"{agent_id}: {line} is there {times} times" for line, times in Counter(lines).items() if times > 1]
        done = {str(ending.order.number) for ending in endings if ending.is_success}
        wrong += [f"{agent_id}: {number} is missing" for number in done - set(lines)]
        places = {str(e.order.number): given.runs[e.order.key].place for e in endings if e.order.key in given.runs}
        if lines != sorted(lines, key=lambda line: places.get(line, 0)):
            wrong.append(f"{agent_id}: the lines are not in the order of the ledger: {lines}")
    return wrong


async def sessions_are_what_the_runs_made(manager: RunnerManager, given: Account) -> list[str]:
    """Each task has one session; what was sent is in it once, in the order of the ledger, and what succeeded has its answer there."""
    wrong: list[str] = []
    for agent_id, endings in _by_agent(given).items():
        runner = await manager.start_runner(agent_id)
        record, install = runner.record, manager._usable().install
        client = install.client_for(record.endpoint or "", record.instance_id or "")
        try:
            for task_id in LANES:
                mine = [ending for ending in endings if ending.order.task_id == task_id]
                wrong += await _session_is_right(client, given, mine)
        finally:
            await client.aclose()
    return wrong


async def _session_is_right(client: OpenCodeClient, given: Account, endings: list[Ending]) -> list[str]:
    runs = [given.runs[ending.order.key] for ending in endings if ending.order.key in given.runs]
    sessions = {run.session_id for run in runs if run.session_id}
    if len(sessions) != 1:
        return [f"{runs[0].agent_id}/{runs[0].task_id} has the sessions {sessions}"] if sessions else []
    messages = await client.messages(sessions.pop())
    asked = [message.text for message in messages if message.role == "user"]
    answers = {message.text for message in messages if message.role == "assistant"}
    orders = {ending.order.prompt: ending for ending in endings}
    places = {prompt: given.runs[ending.order.key].place for prompt, ending in orders.items()}
    wrong = [f"{times} times in its session: {text!r}" for text, times in Counter(asked).items() if times > 1]
    wrong += [f"in a session, of nobody: {text!r}" for text in asked if text not in orders]
    if asked != sorted(asked, key=lambda text: places.get(text, 0)):
        wrong.append(f"not in the order of the ledger: {asked}")
    for prompt, ending in orders.items():
        if ending.is_success and (prompt not in asked or ending.order.answer not in answers):
            wrong.append(f"{ending.order.key} succeeded, and its session does not have it")
    return wrong


def nothing_is_left(engine: docker.DockerClient, places: Places) -> list[str]:
    """Not on the engine, and no process that has to do with the data folder or with a container."""
    wrong = [f"container {one.name}" for one in engine.containers.list(all=True)]
    wrong += [f"network {one.name}" for one in engine.networks.list() if one.name not in {"bridge", "host", "none"}]
    wrong += [f"volume {one.name}" for one in engine.volumes.list()]
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    wrong += [f"process {line}" for line in listed if str(places.data) in line]
    return wrong


def _by_agent(given: Account) -> dict[str, list[Ending]]:
    by_agent: dict[str, list[Ending]] = defaultdict(list)
    for ending in given.endings:
        by_agent[ending.order.agent_id].append(ending)
    return by_agent
