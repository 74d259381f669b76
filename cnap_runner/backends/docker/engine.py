"""The one place that talks to the engine: short questions by the SDK in worker threads, what lasts by async HTTP.

A call that waits for an instance (start, stop, a command inside) or follows it (logs, events) costs no thread, so any number of
them never keeps a short question waiting.
"""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import httpcore
import httpx
import requests
from docker import APIClient
from docker.constants import MINIMUM_DOCKER_API_VERSION
from docker.errors import APIError, DockerException, TLSParameterError

from cnap_runner.backends.docker.address import EngineAddress
from cnap_runner.backends.docker.trouble import EngineRefusal, one_line, unreachable
from cnap_runner.errors import InvalidInput

T = TypeVar("T")

MAX_THREADS = 8
ANSWER_SECONDS = 60
CONNECT_SECONDS = 10
_UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}


class Engine:
    """A connection to one engine, made at the first call. Refusals are raised as `EngineRefusal`, no answer as an error of ours."""

    def __init__(self, address: EngineAddress) -> None:
        self.address = address
        self._sdk: APIClient | None = None
        self._http: httpx.AsyncClient | None = None
        self._opening = anyio.Lock()
        self._threads = anyio.CapacityLimiter(MAX_THREADS)

    async def ask(self, question: Callable[[APIClient], T]) -> T:
        """Put one short question by the SDK, in a worker thread. Cancelled, it waits for the answer first: no effect comes late."""
        sdk = await self._open_sdk()
        with _reachable(self.address):
            return await anyio.to_thread.run_sync(question, sdk, limiter=self._threads)

    async def api_version(self) -> str:
        """Tell the version of the API that was agreed on with the engine."""
        return str((await self._open_sdk()).api_version)

    async def post(
        self,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: object = None,
        wait_seconds: float = ANSWER_SECONDS,
    ) -> httpx.Response:
        """Send one command that may take long and return the engine's answer."""
        timeout = httpx.Timeout(wait_seconds, connect=CONNECT_SECONDS)
        async with self.stream("POST", path, params=params, body=body, timeout=timeout) as response:
            await response.aread()
            return response

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: object = None,
        **options: Any,
    ) -> AsyncIterator[httpx.Response]:
        """Send one request and give its answer as it comes; by default it may take for ever."""
        http = await self._open_http()
        options.setdefault("timeout", httpx.Timeout(None, connect=CONNECT_SECONDS))
        with _reachable(self.address):
            async with http.stream(method, path, params=params, json=body, **options) as response:
                if response.status_code >= httpx.codes.BAD_REQUEST:
                    raise EngineRefusal(response.status_code, _message(await response.aread()))
                yield response

    @asynccontextmanager
    async def upgraded(
        self, path: str, *, params: Mapping[str, Any] | None = None, body: object = None
    ) -> AsyncIterator[httpcore.AsyncNetworkStream]:
        """Send one command and give the connection itself, which from then on is a program's input and output."""
        async with self.stream("POST", path, params=params, body=body, headers=_UPGRADE) as response:
            stream: httpcore.AsyncNetworkStream = response.extensions["network_stream"]
            yield stream

    async def aclose(self) -> None:
        """Let go of all connections. Idempotent; a later call opens them again."""
        http, self._http = self._http, None
        sdk, self._sdk = self._sdk, None
        if http is not None:
            await http.aclose()
        if sdk is not None:
            sdk.close()

    async def _open_sdk(self) -> APIClient:
        async with self._opening:
            if self._sdk is None:
                with _reachable(self.address):
                    self._sdk = await anyio.to_thread.run_sync(_sdk_client, self.address, limiter=self._threads)
            return self._sdk

    async def _open_http(self) -> httpx.AsyncClient:
        version = await self.api_version()
        if self._http is None:
            self._http = _http_client(self.address, version)
        return self._http


@contextmanager
def _reachable(address: EngineAddress) -> Iterator[None]:
    """Tell the engine's refusals from not reaching it at all."""
    try:
        yield
    except APIError as error:
        if error.response is None:
            raise unreachable(address.host, error) from error
        raise EngineRefusal(error.response.status_code, error.explanation or str(error)) from error
    except TLSParameterError as error:
        raise InvalidInput(f"The certificates for {address.host} cannot be used: {one_line(str(error))}.") from error
    except (DockerException, requests.RequestException, httpx.TransportError, OSError) as error:
        raise unreachable(address.host, error) from error


def _sdk_client(address: EngineAddress) -> APIClient:
    """Connect and agree on the newest version of the API that the engine speaks."""
    if address.socket_path is not None:
        # The SDK leaves a socket open when nobody answers on it, and hides the system's error; both are avoided by asking first.
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(CONNECT_SECONDS)
            probe.connect(address.socket_path)
    oldest = _sdk_client_of(address, MINIMUM_DOCKER_API_VERSION)
    try:
        return _sdk_client_of(address, str(oldest.version(api_version=False)["ApiVersion"]))
    finally:
        oldest.close()


def _sdk_client_of(address: EngineAddress, version: str) -> APIClient:
    client = APIClient(
        base_url=address.host,
        version=version,
        timeout=ANSWER_SECONDS,
        tls=address.sdk_tls(),
        max_pool_size=MAX_THREADS,
    )
    # Proxies, .netrc and certificate bundles of the environment are not meant for engines; the SDK's own way of agreeing on
    # a version would ask before this could be said.
    client.trust_env = False
    return client


def _http_client(address: EngineAddress, version: str) -> httpx.AsyncClient:
    # Keep-alive probes of the system find out that a distant engine's machine is gone; events have no heartbeat of their own.
    keep_alive = None if address.socket_path else [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    transport = httpx.AsyncHTTPTransport(
        uds=address.socket_path,
        verify=address.ssl_context(),
        # Each call has a connection of its own: what the engine answers to "attach" and "exec" ends with the connection and does
        # not say so in its header, so a pool would use a dead one again.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        socket_options=keep_alive,
        trust_env=False,
    )
    return httpx.AsyncClient(transport=transport, base_url=f"{address.http_url}/v{version}", trust_env=False)


def _message(body: bytes) -> str:
    """Read the engine's own words out of an answer that says no."""
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace") or "no reason given"
