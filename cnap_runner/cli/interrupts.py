"""Ctrl-C and SIGTERM: the first ends a command cleanly, and no later one disturbs that."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import anyio

from cnap_runner.cli.exits import ExitCode
from cnap_runner.cli.output import note

_SIGNALS = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


class Interrupts:
    """The signals that end a command. The first cancels it; clean-up, which has limits of its own, is never cut short."""

    def __init__(self) -> None:
        self._first: signal.Signals | None = None
        self._is_ignoring_keys = False
        self._scope: anyio.CancelScope | None = None

    @contextmanager
    def ignoring_keys(self) -> Iterator[None]:
        """While another program has the terminal, Ctrl-C is meant for that."""
        self._is_ignoring_keys = True
        try:
            yield
        finally:
            self._is_ignoring_keys = False

    async def guard(self, main: Main) -> ExitCode | int | None:
        """Run a coroutine; a signal's exit code where one cut it short."""
        with anyio.CancelScope() as self._scope:
            for number in _SIGNALS:
                asyncio.get_running_loop().add_signal_handler(number, self._heard, number)
            return await main(self)
        return _SIGNALS[self._first or signal.SIGINT]

    def _heard(self, number: signal.Signals) -> None:
        if number is signal.SIGINT and self._is_ignoring_keys:
            return
        if self._first is None and self._scope is not None:
            self._first = number
            self._scope.cancel()
        else:
            note("Still cleaning up; it will not take long.")


Main = Callable[[Interrupts], Awaitable[ExitCode | int | None]]
