"""Stands for OpenCode: says where it listens, and does over HTTP what an agent may do to its machine. A program, not a module."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

if "--version" in sys.argv:
    print("1.18.33")
    sys.exit()
if "STUB_EXIT" in os.environ:
    print("nothing works here", file=sys.stderr)
    sys.exit(int(os.environ["STUB_EXIT"]))
if "STUB_DEAF" in os.environ:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def daemonise(query: dict[str, list[str]]) -> object:
    """Leave the family: double fork, own session, all streams closed, and on request a fresh environment."""
    cleared = ["env", "-i"] if "clear" in query else []
    script = "setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!"
    done = subprocess.run([*cleared, "/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout)


def stopped_child(query: dict[str, list[str]]) -> object:
    """Start a child and stop it."""
    child = subprocess.Popen(["sleep", "1000"])
    os.kill(child.pid, signal.SIGSTOP)
    return child.pid


def say(query: dict[str, list[str]]) -> object:
    """Write lines to both streams."""
    for number in range(int(query["lines"][0])):
        print(f"line {number}", flush=True)
    print("trouble", file=sys.stderr, flush=True)
    return None


def leave(query: dict[str, list[str]]) -> object:
    """Exit after the answer went out."""
    threading.Timer(0.05, os._exit, [int(query["code"][0])]).start()
    return None


ACTS: dict[str, Callable[[dict[str, list[str]]], object]] = {
    "/environment": lambda query: dict(os.environ),
    "/place": lambda query: {
        "pid": os.getpid(),
        "cwd": str(Path.cwd()),
        "files": [str(path) for path in Path("/proc/self/fd").iterdir()],
    },
    "/daemonise": daemonise,
    "/stopped-child": stopped_child,
    "/say": say,
    "/exit": leave,
}


class Handler(BaseHTTPRequestHandler):
    """Answers each path with what its act returns."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        body = json.dumps(ACTS[url.path](parse_qs(url.query, keep_blank_values=True))).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
if "STUB_SILENT" not in os.environ:
    print(f"opencode server listening on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
