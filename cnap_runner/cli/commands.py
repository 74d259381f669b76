"""How a command shows itself: flags without a type, arguments by their plain names, and what to do about a prompt like an option."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup


class Command(TyperCommand):
    """A command with our help."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Give the parameters, the help's own option included; a flag takes no value, so none is named."""
        return without_types_of_flags(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Give what the line of usage names; only what may be left out is in brackets."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]


class PromptCommand(Command):
    """A command with a prompt among its arguments, which may begin like an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Understand the arguments; where an option is not known, say how a prompt that looks like one is given."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # Which class it is depends on Typer's version; only an unknown option has these two.
            if hasattr(error, "option_name") and hasattr(error, "possibilities"):
                error.message += ". Put `--` before a prompt that begins with a dash."  # type: ignore[attr-defined]
            raise


class Group(TyperGroup):
    """A group of commands with our help."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Give the parameters as `Command.get_params` does."""
        return without_types_of_flags(super().get_params(ctx))


def without_types_of_flags(params: list[Any]) -> list[Any]:
    """Let flags show no type."""
    for param in params:
        if getattr(param, "is_flag", False) and param.metavar is None:
            param.metavar = ""
    return params
