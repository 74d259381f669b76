"""The versions of OpenCode that this package speaks with."""

from __future__ import annotations

import re
from typing import Final

from cnap_runner.errors import UnsupportedServerVersion

MIN_VERSION: Final = (1, 18, 0)
"""The oldest server this package was tested with, inclusive."""
MAX_VERSION: Final = (2, 0, 0)
"""The first that speaks another contract, exclusive: its events have other names and shapes."""


def check_version(version: str) -> None:
    """Raise `UnsupportedServerVersion` unless the version is within both bounds."""
    match = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    low, high = (".".join(map(str, bound)) for bound in (MIN_VERSION, MAX_VERSION))
    if match is None:
        raise UnsupportedServerVersion(f"The server does not tell its version (supported: {low} up to below {high}).")
    if not MIN_VERSION <= tuple(int(number) for number in match.groups()) < MAX_VERSION:
        raise UnsupportedServerVersion(f"OpenCode {version[:40]} is not supported, only {low} up to below {high}.")
