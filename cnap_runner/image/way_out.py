"""How a build reaches the world: through which proxies, trusting whom."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cnap_runner.model.proxy import is_loopback
from cnap_runner.settings import Settings, read_certificates

_PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "ftp_proxy")


@dataclass(frozen=True)
class WayOut:
    """What the settings say; where they say nothing, programs on this machine use its own settings, as they always do."""

    proxies: Mapping[str, str] = field(default_factory=dict)
    """By variable, in small letters."""
    ca_file: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Take the install's."""
        named = {name: getattr(settings, name) for name in ("http_proxy", "https_proxy", "no_proxy")}
        return cls({name: value for name, value in named.items() if value}, settings.ca_file)

    def environment(self) -> dict[str, str]:
        """Give the environment of programs on this machine that fetch something: ours, and on top of it what the settings say."""
        capitals = {name.upper(): value for name, value in self.proxies.items()}
        trust = {} if self.ca_file is None else {"NODE_EXTRA_CA_CERTS": str(self.ca_file)}
        return {**os.environ, **capitals, **self.proxies, **trust}

    def build_arguments(self) -> dict[str, str]:
        """Give the proxies as arguments of a build, which Docker keeps out of the image.

        One on the loopback interface is ours alone: inside the build that address is the build's own.
        """
        environment = self.environment()
        found = {name: environment.get(name) or environment.get(name.upper()) for name in _PROXY_VARIABLES}
        return {name: value for name, value in found.items() if value and not is_loopback(value)}

    def certificates(self) -> tuple[str, ...]:
        """Read the authorities that the image is to trust. Blocks; raises `InvalidInput`."""
        return () if self.ca_file is None else read_certificates(self.ca_file)
