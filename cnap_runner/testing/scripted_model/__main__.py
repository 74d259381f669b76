"""``python -m cnap_runner.testing.scripted_model``: the scripted model in a process of its own, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import anyio

from cnap_runner.errors import InvalidInput
from cnap_runner.testing.scripted_model.language import load_rules
from cnap_runner.testing.scripted_model.server import ScriptedModel


def main() -> int:
    """Serve until a signal; returns the exit code: 0 after a signal, 2 for input that cannot work."""
    options = _parser().parse_args()
    try:
        anyio.run(_serve, options)
    except InvalidInput as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


async def _serve(options: argparse.Namespace) -> None:
    rules = load_rules(options.script) if options.script else []
    key = options.api_key_file.read_text(encoding="utf-8").strip() if options.api_key_file else None
    model = ScriptedModel(rules, host=options.host, port=options.port, api_key=key, log_path=options.log)
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with model:
            if options.port_file:
                await _write_whole(anyio.Path(options.port_file), f"{model.port}\n")
            sys.stderr.write(f"The scripted model serves {model.base_url}\n")
            async for _ in signals:
                return


async def _write_whole(path: anyio.Path, text: str) -> None:
    """Whoever waits for the file never sees a part of it."""
    draft = path.with_name(path.name + ".new")
    await draft.write_text(text)
    await draft.replace(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("scripted_model", description="An OpenAI-compatible model that plays a script.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for containers")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--script", type=Path, help="rules, in TOML or JSON (docs/testing.md)")
    parser.add_argument("--log", type=Path, help="append each request to this file, as a line of JSON")
    parser.add_argument("--port-file", type=Path, help="write the port to this file once it listens")
    parser.add_argument("--api-key-file", type=Path, help="answer 401 to who does not send the key in this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
