"""Ctrl-C, SIGTERM and SIGHUP: the first ends a command cleanly, and no later one disturbs that."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import anyio

from cnap_runner.cli.exits import ExitCode
from cnap_runner.cli.output import note

_SIGNALS = {
    signal.SIGINT: ExitCode.INTERRUPTED,
    signal.SIGTERM: ExitCode.TERMINATED,
    signal.SIGHUP: ExitCode.HUNG_UP,
}
_OUTPUTS = (1, 2)
"""Standard output and standard error."""


class Interrupts:
    """The signals that end a command. The first cancels it; clean-up, which has limits of its own, is never cut short."""

    def __init__(self) -> None:
        self._first: signal.Signals | None = None
        self._is_ignoring_keys = False
        self._scope: anyio.CancelScope | None = None
        self._terminals = [number for number in _OUTPUTS if os.isatty(number)]

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
                # What was ignored when we were started stays so: that is what nohup does to SIGHUP.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    asyncio.get_running_loop().add_signal_handler(number, self._heard, number)
            return await main(self)
        return _SIGNALS[self._first or signal.SIGINT]

    def _heard(self, number: signal.Signals) -> None:
        if number is signal.SIGINT and self._is_ignoring_keys:
            return
        if number is signal.SIGHUP:
            _silence(self._terminals)
        if self._first is None and self._scope is not None:
            self._first = number
            self._scope.cancel()
        else:
            note("Still cleaning up; it will not take long.")


def _silence(terminals: list[int]) -> None:
    """Let what would be written to a terminal that is gone go nowhere: an error of writing must not disturb the clean-up."""
    for number in terminals:
        if not os.isatty(number):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)


Main = Callable[[Interrupts], Awaitable[ExitCode | int | None]]
