"""A program of a user's, for tests that kill it: one run, by the public face alone, its events as lines of JSON.

Takes one argument, a JSON object with ``settings``, ``spec`` and ``request``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from cnap_runner import AgentSpec, RunnerError, RunnerManager, RunRequest, Settings


def say(**line: Any) -> None:
    print(json.dumps(line, default=str), flush=True)


async def main(order: dict[str, Any]) -> None:
    async with RunnerManager(Settings(**order["settings"])) as manager:
        runner = await manager.create_runner(AgentSpec(**order["spec"]))
        try:
            async for event in runner.stream(RunRequest(**order["request"])):
                if event.type == "ended":
                    result = event.result
                    code = result.error.code if result.error else None
                    say(type="ended", run_id=result.run_id, outcome=result.outcome, output=result.output, error=code)
                elif event.type == "status":
                    say(type="status", state=event.state)
                else:
                    say(type=event.type)
        except RunnerError as error:
            say(type="raised", error=error.code)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
