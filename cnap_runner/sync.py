"""The public names for blocking callers: a front over the asynchronous ones, not a twin of them.

::

    from cnap_runner.sync import AgentSpec, Message, RunnerManager, RunRequest, Settings

    with RunnerManager(Settings()) as manager:
        runner = manager.create_runner(AgentSpec(agent_id="alice", model="anthropic/claude-sonnet-4-5"))
        result = runner.run(RunRequest(messages=[Message(role="user", content="Add a README")]))

An event loop runs in a thread of its own while the manager is open. Each method of the asynchronous manager and runner is there under
its name, with its arguments and errors; coroutines become calls, async iterators become iterators. Objects may be used from any
thread. Callbacks stay coroutines and run in the loop's thread. Ctrl-C during a call cancels it, as cancelling the coroutine would.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from cnap_runner import (
    AgentSpec,
    Answers,
    Attachment,
    Egress,
    Life,
    Message,
    Outcome,
    Resources,
    RunEvent,
    RunnerError,
    RunnerStatus,
    RunRecord,
    RunRequest,
    RunResult,
    RunState,
    Settings,
    StatusCallback,
    Usage,
    Workspace,
)
from cnap_runner.errors import ManagerUnusable
from cnap_runner.runner.runner import Runner as _AsyncRunner
from cnap_runner.wiring import RunnerManager as _AsyncManager

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider
    from prometheus_client import CollectorRegistry

__all__ = [
    "AgentSpec",
    "Answers",
    "Attachment",
    "Egress",
    "Life",
    "Message",
    "Outcome",
    "Resources",
    "RunEvent",
    "RunRecord",
    "RunRequest",
    "RunResult",
    "RunState",
    "Runner",
    "RunnerError",
    "RunnerManager",
    "RunnerStatus",
    "Settings",
    "StatusCallback",
    "Usage",
    "Workspace",
]


_HINT = "Use it inside `with RunnerManager(…) as manager:`; callbacks are coroutines and await the asynchronous manager's methods."


def __dir__() -> list[str]:
    return sorted(__all__)


class _Front:
    """Gives an object's coroutine methods as blocking ones."""

    def __init__(self, portal: BlockingPortal | None, target: Any) -> None:
        self._portal = portal
        self._target = target

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if inspect.isasyncgenfunction(attribute):
            return functools.partial(self._iterate, attribute)
        if inspect.iscoroutinefunction(attribute):
            return functools.partial(self._call, attribute)
        return attribute

    def _call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        portal, started = self._portal, functools.partial(function, *args, **kwargs)
        if portal is None:
            raise ManagerUnusable("The manager was not entered.", hint=_HINT)
        try:
            future = portal.start_task_soon(started)
        except RuntimeError as error:
            raise ManagerUnusable("The manager is closed, or called from its own event loop.", hint=_HINT) from error
        try:
            return self._fronted(future.result())
        except BaseException:
            if not future.done():
                future.cancel()
                portal.call(_settle, future)
            raise

    def _iterate(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Iterator[Any]:
        iterator = function(*args, **kwargs)
        try:
            while True:
                try:
                    yield self._call(iterator.__anext__)
                except StopAsyncIteration:
                    return
        finally:
            self._call(iterator.aclose)

    def _fronted(self, value: Any) -> Any:
        if isinstance(value, _AsyncRunner):
            return Runner(self._portal, value)
        if isinstance(value, list):
            return [self._fronted(item) for item in value]
        return value


async def _settle(future: Any) -> None:
    """Let a cancelled call clean up before its caller goes on."""
    while not future.done():
        await anyio.sleep(0.01)


class Runner(_Front):
    """`cnap_runner.Runner` for blocking callers."""

    def __repr__(self) -> str:
        return repr(self._target)


class RunnerManager(_Front):
    """`cnap_runner.RunnerManager` for blocking callers; a context manager."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        registry: CollectorRegistry | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        self._stack = ExitStack()
        super().__init__(None, _AsyncManager(settings, registry=registry, tracer_provider=tracer_provider))

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal())
            stack.enter_context(portal.wrap_async_context_manager(self._target))
            self._portal = portal
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> bool | None:
        return self._stack.__exit__(*exc_info)  # type: ignore[arg-type]
