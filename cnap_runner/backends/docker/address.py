"""Where the engine is: the value of ``DOCKER_HOST``, read as Docker's own command line reads it."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from docker.tls import TLSConfig

from cnap_runner.errors import InvalidInput

DEFAULT_HOST = "unix:///var/run/docker.sock"

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """One engine's address. Nothing is opened or read from disk before it is used."""

    host: str
    """As given: ``unix:///var/run/docker.sock``, ``tcp://127.0.0.1:2375``."""
    socket_path: str | None
    """Of a local socket; None for TCP."""
    certificates: Path | None
    """Folder with ``ca.pem``, ``cert.pem`` and ``key.pem``; None without TLS."""
    verifies_server: bool = True

    @property
    def http_url(self) -> str:
        """Base URL for requests; the host's name means nothing on a local socket."""
        if self.socket_path is not None:
            return "http://docker"
        scheme = "https" if self.certificates is not None else "http"
        return f"{scheme}://{urlsplit(self.host).netloc}"

    @property
    def is_local(self) -> bool:
        """Whether ports that the engine publishes on 127.0.0.1 are this machine's."""
        return self.socket_path is not None or urlsplit(self.host).hostname in _LOOPBACK

    def sdk_tls(self) -> TLSConfig | bool:
        """TLS settings for the SDK; reads the certificates."""
        if self.certificates is None:
            return False
        pair = (str(self.certificates / "cert.pem"), str(self.certificates / "key.pem"))
        authority = str(self.certificates / "ca.pem") if self.verifies_server else None
        return TLSConfig(client_cert=pair, ca_cert=authority, verify=self.verifies_server)

    def ssl_context(self) -> ssl.SSLContext | bool:
        """TLS settings for HTTP of our own; reads the certificates."""
        if self.certificates is None:
            return False
        context = ssl.create_default_context(cafile=self.certificates / "ca.pem" if self.verifies_server else None)
        if not self.verifies_server:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(self.certificates / "cert.pem", self.certificates / "key.pem")
        return context


def engine_address(docker_host: str | None = None, *, environment: Mapping[str, str] = os.environ) -> EngineAddress:
    """Read an address: the one given, else ``DOCKER_HOST``, else the default socket.

    ``DOCKER_TLS_VERIFY`` and ``DOCKER_CERT_PATH`` mean what they mean to Docker's own command line. Raises `InvalidInput` for
    an address that this package cannot use.
    """
    host = docker_host or environment.get("DOCKER_HOST") or DEFAULT_HOST
    parts = urlsplit(host)
    if parts.scheme == "unix" and parts.path:
        return EngineAddress(host=host, socket_path=parts.path, certificates=None)
    if parts.scheme in {"tcp", "http", "https"} and parts.hostname:
        verifies = bool(environment.get("DOCKER_TLS_VERIFY"))
        folder = environment.get("DOCKER_CERT_PATH")
        has_tls = verifies or bool(folder) or parts.scheme == "https"
        certificates = Path(folder) if folder else Path.home() / ".docker"
        return EngineAddress(
            host=host,
            socket_path=None,
            certificates=certificates if has_tls else None,
            verifies_server=verifies or not folder,
        )
    if parts.scheme == "ssh":
        raise InvalidInput(
            f"DOCKER_HOST={host} cannot be used: agents' ports and folders are on the engine's own machine.",
            hint="Run cnap-runner there, or set DOCKER_HOST to a local socket such as unix:///var/run/docker.sock.",
        )
    raise InvalidInput(
        f"DOCKER_HOST={host} is not an engine's address.",
        hint="Use unix:///path/to/docker.sock or tcp://HOST:PORT.",
    )
