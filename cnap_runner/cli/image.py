"""``cnap-runner image``: the image agents run in."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from cnap_runner.cli.commands import Command, Group
from cnap_runner.cli.options import settings_of
from cnap_runner.cli.output import note, spell, stderr
from cnap_runner.cli.running import run_async

if TYPE_CHECKING:
    from cnap_runner.cli.interrupts import Interrupts
    from cnap_runner.settings import Settings

app = typer.Typer(cls=Group, no_args_is_help=True, help="Build the image agents run in, and look at it.")

Tag = Annotated[str | None, typer.Option("--tag", help="Its name; by default that of the settings.")]


@app.command(cls=Command)
def build(
    ctx: typer.Context,
    base: Annotated[str | None, typer.Option("--base", help="Another base image, of the Debian family.")] = None,
    tag: Tag = None,
    platform: Annotated[
        str | None, typer.Option("--platform", help="linux/amd64 or linux/arm64; by default the engine's own.")
    ] = None,
    is_forced: Annotated[
        bool, typer.Option("--force", help="Build anew, from a fresh base, even if it is current.")
    ] = False,
) -> None:
    """Build the image, unless the engine has it already."""
    settings = settings_of(ctx)
    run_async(partial(_build, settings, tag or settings.image, base, platform, is_forced))


async def _build(
    settings: Settings, tag: str, base: str | None, platform: str | None, is_forced: bool, _: Interrupts
) -> None:
    from datetime import timedelta
    from time import monotonic

    from cnap_runner.cli.printing import Progress
    from cnap_runner.image.build import build_image
    from cnap_runner.image.way_out import WayOut

    began = monotonic()
    progress = Progress(stderr())
    try:
        built = await build_image(
            tag, base=base, platform=platform, is_forced=is_forced, way=WayOut.of(settings), progress=progress.say
        )
    finally:
        progress.clear()
    took = spell(timedelta(seconds=monotonic() - began))
    what = f"built in {took}" if built.was_built else "current already"
    note(f"{built.tag} is {what}: OpenCode {built.opencode_version}, {built.size_bytes / 1e6:.0f} MB")
    typer.echo(built.id)


@app.command(cls=Command)
def version(ctx: typer.Context, tag: Tag = None) -> None:
    """Print the version of OpenCode that the image says it has."""
    settings: Settings = settings_of(ctx)
    run_async(partial(_version, tag or settings.image))


async def _version(tag: str, _: Interrupts) -> None:
    from cnap_runner.image.build import image_version

    typer.echo(await image_version(tag))


@app.command(cls=Command)
def push(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Where to, as registry/name:tag.")],
    tag: Tag = None,
) -> None:
    """Give the image to a registry, with the logins of Docker's own configuration."""
    settings: Settings = settings_of(ctx)
    run_async(partial(_push, tag or settings.image, target))


async def _push(tag: str, target: str, _: Interrupts) -> None:
    from cnap_runner.cli.printing import Progress
    from cnap_runner.image.push import push_image

    progress = Progress(stderr())
    try:
        await push_image(tag, target, progress=progress.say)
    finally:
        progress.clear()
    note(f"{tag} is at {target}")
