"""How OpenCode's server is called, and what it says when it listens. Seen with 1.18.33."""

from __future__ import annotations

import re

PASSWORD_VARIABLE = "OPENCODE_SERVER_PASSWORD"  # noqa: S105 - its name
"""OpenCode reads its password from nowhere else."""
LISTEN_ARGUMENTS = ("serve", "--hostname", "127.0.0.1", "--port", "0")
"""Port 0: it tries 4096 and then takes a free one, so the port is known from its words only."""
_LISTENING = re.compile(rb"listening on http://127\.0\.0\.1:(\d+)")


def listening_port(line: bytes) -> int | None:
    """Find the port in a line of the server's output; None in any other line."""
    found = _LISTENING.search(line)
    return int(found[1]) if found else None
