"""The command line: one file per command group, each thin over `cnap_runner.RunnerManager`.

What a command needs is imported inside of it: a ``--help`` and a completion must not wait for a database library.
"""

from __future__ import annotations


def main() -> None:
    """Run ``cnap-runner`` with the process's arguments and exit. The exit codes are those of `exits.ExitCode`."""
    try:
        from cnap_runner.cli.app import app

        app(prog_name="cnap-runner")
    except KeyboardInterrupt:
        # Ctrl-C before `interrupts` listens: nothing has begun. The number is `ExitCode.INTERRUPTED`, which may not be loaded yet.
        raise SystemExit(130) from None
