"""Two tasks of one agent, then a second agent at the same time. Usage: two_agents.py provider/model"""

import asyncio
import sys

from cnap_runner import AgentSpec, Message, RunnerManager, RunRequest


async def work(manager: RunnerManager, agent: str, task: str, prompt: str) -> None:
    runner = await manager.create_runner(AgentSpec(agent_id=agent, model=sys.argv[1]))
    result = await runner.run(RunRequest(task_id=task, messages=[Message(role="user", content=prompt)]))
    print(agent, task, result.outcome, result.output)


async def main() -> None:
    async with RunnerManager() as manager:
        await work(manager, "alice", "first", "say: one")
        second = work(manager, "alice", "second", "say: two")
        await asyncio.gather(second, work(manager, "bob", "first", "say: three"))


asyncio.run(main())
