"""Signals that end a command."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import anyio
import pytest

from cnap_runner.cli import main
from cnap_runner.cli.exits import ExitCode
from cnap_runner.cli.interrupts import Interrupts


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    """Begin with the handlers of a command typed at a terminal, and leave those that were found."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number in before:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, ExitCode.INTERRUPTED),
        (signal.SIGTERM, ExitCode.TERMINATED),
        (signal.SIGHUP, ExitCode.HUNG_UP),
    ],
)
def test_a_signal_ends_a_command_after_its_clean_up(number: signal.Signals, code: ExitCode) -> None:
    """The code is 128 and the signal's number, as shells have it; a second signal cuts nothing short."""
    done: list[str] = []

    async def main(_: Interrupts) -> None:
        try:
            os.kill(os.getpid(), number)
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                os.kill(os.getpid(), number)
                await anyio.sleep(0.01)
                done.append("cleaned up")

    assert anyio.run(Interrupts().guard, main) is code
    assert (code, done) == (128 + number, ["cleaned up"])


def test_nohup_is_respected() -> None:
    """SIGHUP that was ignored when we were started does not end the command."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    async def main(_: Interrupts) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        await anyio.sleep(0.01)

    assert anyio.run(Interrupts().guard, main) is None


def test_a_closed_terminal_is_not_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """The words of the clean-up go nowhere, instead of raising in the middle of it."""
    controller, terminal = os.openpty()
    monkeypatch.setattr("cnap_runner.cli.interrupts._OUTPUTS", (terminal,))

    async def main(_: Interrupts) -> None:
        try:
            os.close(controller)
            os.kill(os.getpid(), signal.SIGHUP)
            await anyio.sleep_forever()
        finally:
            assert os.write(terminal, b"still cleaning up") > 0

    try:
        assert anyio.run(Interrupts().guard, main) is ExitCode.HUNG_UP
    finally:
        os.close(terminal)


@pytest.mark.parametrize("at", ["import", "start"])
def test_a_key_pressed_before_anything_listens_ends_quietly(at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the middle of the imports: the same code as later, and no traceback."""

    class Early(ModuleType):
        def __getattr__(self, name: str) -> Callable[..., None]:
            if at == "import":
                raise KeyboardInterrupt
            return self._start

        def _start(self, **_: object) -> None:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "cnap_runner.cli.app", Early("app"))
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, ended.value.__suppress_context__) == (ExitCode.INTERRUPTED, True)
