"""A plain HTTP server in a thread, for tests of who reaches whom."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_POLL_SECONDS = 0.02
"""How soon it notices that it is to end."""


class Greeter(BaseHTTPRequestHandler):
    """Says where one is, by its status line and its body."""

    def do_GET(self) -> None:
        """Answer any path."""
        self.send_response(200, "hello from the host")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(
    handler: type[BaseHTTPRequestHandler] = Greeter, *, address: str = "127.0.0.1", port: int = 0
) -> Iterator[int]:
    """Serve as long as the context lasts; give the port (0: the system chooses)."""
    with ThreadingHTTPServer((address, port), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": _POLL_SECONDS})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
