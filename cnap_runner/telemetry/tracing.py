"""Traces through OpenTelemetry: a run is a span, from its caller down to each call of OpenCode's API.

The extra ``tracing`` brings the library's API; what becomes of spans is decided by the program that sets up its SDK. Where no provider is
given and the program never loaded the library, nothing is loaded here either, and a span costs a call that does nothing.

A span holds ids, codes and figures. No message of an error and no text of a conversation is in it: they may hold secrets.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import httpx

from cnap_runner.errors import InvalidInput, RunnerError
from cnap_runner.model.run import RunResult

if TYPE_CHECKING:
    from opentelemetry import trace

NAME = "cnap_runner"
"""Of our tracer, and the prefix of our attributes."""

Value = str | int | float | bool | None
Wrap = Callable[[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport]

_STREAM = "/event"
_ID = re.compile(r"^/(session|permission|question)/(?!status$)[^/]+")
_WITHOUT_ID = r"/\1/{id}"
"""Names of spans must be few."""


class Span:
    """A span that nobody records."""

    def tell(self, **attributes: Value) -> None:
        """Add attributes under ``cnap_runner.``; None: nothing is known."""

    def fail(self, code: str) -> None:
        """Say that what it stands for failed, by an error's code."""


class Tracer:
    """Makes spans that nobody records."""

    wrap: Wrap | None = None
    """Puts a span around each call of a transport; None: calls have none."""

    def span(self, name: str, **attributes: Value) -> AbstractContextManager[Span]:  # noqa: ARG002 - see Recording
        """Give a span for the length of a ``with``, below the one that is under way. An error that leaves it fails it."""
        return _NOTHING


_NOTHING: AbstractContextManager[Span] = nullcontext(Span())


def make_tracer(provider: trace.TracerProvider | None = None) -> Tracer:
    """Make the tracer of a manager: of a provider, or of the program's own where the program uses OpenTelemetry."""
    if provider is None and "opentelemetry.trace" not in sys.modules:
        return Tracer()
    try:
        from opentelemetry import trace  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise InvalidInput("Traces need OpenTelemetry.", hint="pip install 'cnap-runner[tracing]'") from error
    return RecordingTracer((provider or trace.get_tracer_provider()).get_tracer(NAME))


def tell_result(span: Span, result: RunResult) -> None:
    """Say how a run ended."""
    span.tell(
        run_id=result.run_id,
        session_id=result.session_id,
        outcome=result.outcome.value,
        model=result.model,
        input_tokens=result.usage.input_tokens,
        output_tokens=result.usage.output_tokens,
        cost=result.usage.cost,
    )
    if result.error is not None:
        span.fail(result.error.code)


class RecordingSpan(Span):
    """A span of OpenTelemetry's."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def tell(self, **attributes: Value) -> None:
        """Add attributes."""
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(f"{NAME}.{name}", value)

    def fail(self, code: str) -> None:
        """Set its status."""
        from opentelemetry.trace import StatusCode  # noqa: PLC0415 - an extra

        self._span.set_attribute("error.type", code)
        self._span.set_status(StatusCode.ERROR, code)


class RecordingTracer(Tracer):
    """Makes spans of OpenTelemetry's."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        self.wrap = self._traced

    def span(self, name: str, **attributes: Value) -> AbstractContextManager[Span]:
        """Begin a span that is the present one within the ``with``."""
        return self._begun(name, attributes)

    @contextmanager
    def _begun(self, name: str, attributes: dict[str, Value]) -> Iterator[Span]:
        # The library's own record of an exception would hold its text.
        begun = self._tracer.start_as_current_span(
            f"{NAME}.{name}", record_exception=False, set_status_on_exception=False
        )
        with begun as raw:
            span = RecordingSpan(raw)
            span.tell(**attributes)
            try:
                yield span
            except BaseException as error:
                span.fail(error.code if isinstance(error, RunnerError) else type(error).__name__)
                raise

    def _traced(self, transport: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport:
        return TracedTransport(transport, self._tracer)


class TracedTransport(httpx.AsyncBaseTransport):
    """Puts a span around each request, from its sending until its answer begins. A stream of events belongs to no run and has none."""

    def __init__(self, inner: httpx.AsyncBaseTransport, tracer: trace.Tracer) -> None:
        self._inner = inner
        self._tracer = tracer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request."""
        from opentelemetry.trace import SpanKind, StatusCode  # noqa: PLC0415 - an extra

        path = request.url.path
        if path == _STREAM:
            return await self._inner.handle_async_request(request)
        with self._tracer.start_as_current_span(
            f"{request.method} {_ID.sub(_WITHOUT_ID, path)}",
            kind=SpanKind.CLIENT,
            attributes={"http.request.method": request.method, "url.path": path, "server.address": request.url.host},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                response = await self._inner.handle_async_request(request)
            except Exception as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(StatusCode.ERROR, type(error).__name__)
                raise
            span.set_attribute("http.response.status_code", response.status_code)
            if response.is_error:
                span.set_status(StatusCode.ERROR)
            return response

    async def aclose(self) -> None:
        """Close the other transport."""
        await self._inner.aclose()
