"""Stands for OpenCode in an instance: listens where it is told, and prints or ends when it is asked. A program, not a module."""

from __future__ import annotations

import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

if "--version" in sys.argv:
    print("1.18.33")
    sys.exit()
if "STUB_EXIT" in os.environ:
    print("nothing works here", file=sys.stderr, flush=True)
    sys.exit(int(os.environ["STUB_EXIT"]))


def argument(name: str) -> str:
    """Give the value that follows an option."""
    return sys.argv[sys.argv.index(name) + 1]


class Handler(BaseHTTPRequestHandler):
    """``/say?stream=…&text=…`` prints a line, ``/leave?code=…`` ends the program; all else says that it listens."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/say":
            print(query["text"], file=getattr(sys, query["stream"]), flush=True)
        if url.path == "/leave":
            threading.Timer(0.05, os._exit, [int(query["code"])]).start()
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


server = ThreadingHTTPServer((argument("--hostname"), int(argument("--port"))), Handler)
print(f"opencode server listening on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
