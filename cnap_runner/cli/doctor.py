"""``cnap-runner doctor``: what is wrong, and how to mend it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import typer

from cnap_runner.cli.exits import ExitCode
from cnap_runner.cli.options import Json, settings_of
from cnap_runner.cli.output import stdout, write_json
from cnap_runner.cli.running import run_async

if TYPE_CHECKING:
    from cnap_runner.cli.checks import Finding
    from cnap_runner.cli.interrupts import Interrupts
    from cnap_runner.settings import Settings

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(ctx: typer.Context, is_json: Json = False) -> None:
    """Check engine, image, versions, disk and limits; say what is wrong and how to mend it.

    Changes nothing. The exit code is 1 if something fails; warnings do not count.
    """
    run_async(partial(_doctor, settings_of(ctx), is_json))


async def _doctor(settings: Settings, is_json: bool, _: Interrupts) -> ExitCode:
    from cnap_runner.cli.checks import CHECKS, State

    found: list[Finding] = []
    for check in CHECKS:
        for finding in await check(settings):
            found.append(finding)
            if not is_json:
                _print(finding)
    if is_json:
        write_json(found, indent=2)
    return ExitCode.FAILED if any(finding.state is State.FAIL for finding in found) else ExitCode.SUCCEEDED


def _print(finding: Finding) -> None:
    from rich.text import Text

    line = Text.assemble((f"{finding.state:5}", _STYLES[finding.state]), f"{finding.check:12} {finding.message}")
    console = stdout()
    console.print(line, soft_wrap=True)
    if finding.hint:
        console.print(Text(f"{'':17} → {finding.hint}", style="dim"), soft_wrap=True)
