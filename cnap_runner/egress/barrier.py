"""All that stands between an install's instances and the world on this machine: packet filter, proxy, rules."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from cnap_runner.egress.filter import PacketFilter, Port, why_no_filter
from cnap_runner.egress.process import end_proxy, ensure_proxy, living_proxy
from cnap_runner.egress.rulebook import Rulebook
from cnap_runner.egress.upstream import upstream_of
from cnap_runner.errors import BackendError, InvalidInput

FOLDER = "egress"
"""In the data folder."""
_INTERFACES = Path("/sys/class/net")


class Barrier:
    """One install's. Its methods block; those that change something are called under ``install.lock``."""

    def __init__(self, data_dir: Path, install_id: str, *, http_proxy: str = "", no_proxy: str = "") -> None:
        self.folder = data_dir / FOLDER
        self._upstream = {"http_proxy": http_proxy, "no_proxy": no_proxy}
        self.rulebook = Rulebook(self.folder)
        self._filter = PacketFilter(install_id)
        self._can_filter = False

    def close(self, interface: str, gateway: str) -> str:
        """Make sure that instances behind a bridge reach the proxy and nothing else; give the proxy's URL, as they see it.

        Idempotent; mends what was flushed or killed. Raises `InvalidInput` where this cannot be had, `BackendError` where it fails.
        """
        if (why := self._why_not(interface)) is not None:
            raise InvalidInput(
                f"Egress modes none and allowlist cannot be kept here: {why}",
                hint="Give cnap-runner what is missing, or use mode 'open'.",
            )
        upstream_of(**self._upstream)  # refused here rather than in the proxy's own process
        state = ensure_proxy(self.folder, address=gateway, **self._upstream)
        self._filter.close(interface, Port(state.address, state.port))
        return f"http://{state.address}:{state.port}"

    def is_needed(self) -> bool:
        """Whether any instance on the closed network lives. Costs the reading of one small file."""
        return bool(self.rulebook.entries())

    def has_proxy(self) -> bool:
        """Whether the proxy lives. The filter is looked at by `close` alone."""
        return living_proxy(self.folder) is not None

    def guard(self, interface: str) -> str | None:
        """Close cloud metadata addresses to instances behind a bridge; say why where that cannot be done. Idempotent."""
        if (why := self._why_not(interface)) is not None:
            return why
        try:
            self._filter.guard_metadata(interface)
        except BackendError as error:
            return error.message
        return None

    def remove(self) -> None:
        """End the proxy and remove all rules and files. Idempotent."""
        end_proxy(self.folder)
        self._filter.remove()
        with suppress(FileNotFoundError):
            shutil.rmtree(self.folder)

    def _why_not(self, interface: str) -> str | None:
        if not (_INTERFACES / interface).exists():
            return f"the engine's bridge {interface} is not on this machine."
        if not self._can_filter:
            why = why_no_filter()
            self._can_filter = why is None
            return why
        return None  # what fails from here on says so itself
