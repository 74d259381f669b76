"""Spans, with OpenTelemetry's own exporter for tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cnap_runner.errors import ServerNotReady
from cnap_runner.telemetry.tracing import Tracer, make_tracer


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter: InMemorySpanExporter) -> Tracer:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return make_tracer(provider)


@pytest.fixture
def seen(exporter: InMemorySpanExporter) -> Callable[[], dict[str, ReadableSpan]]:
    return lambda: {span.name: span for span in exporter.get_finished_spans()}


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def test_an_error_s_text_is_not_in_a_span(tracer: Tracer, seen: Callable[[], dict[str, ReadableSpan]]) -> None:
    """It may hold a secret that nobody has redacted yet; its code tells enough."""
    with pytest.raises(ServerNotReady), tracer.span("start", generation=2, unknown=None):
        raise ServerNotReady("It said: hunter2")
    span = seen()["cnap_runner.start"]
    assert attributes(span) == {"cnap_runner.generation": 2, "error.type": "server_not_ready"}
    assert not span.status.is_ok
    assert "hunter2" not in span.to_json()


async def test_a_call_is_a_span_named_without_its_ids(
    tracer: Tracer, seen: Callable[[], dict[str, ReadableSpan]]
) -> None:
    """Below the span that is under way; a server's error fails it, and the endless stream of events has none."""
    assert tracer.wrap is not None
    transport = tracer.wrap(
        httpx.MockTransport(lambda request: httpx.Response(500 if "abort" in request.url.path else 200))
    )
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        with tracer.span("turn"):
            await client.post("/session/ses_1/abort")
            await client.get("/session/status")
            await client.get("/event")
    spans = seen()
    assert set(spans) == {"cnap_runner.turn", "POST /session/{id}/abort", "GET /session/status"}
    failed = spans["POST /session/{id}/abort"]
    assert failed.parent is not None
    assert failed.parent.span_id == spans["cnap_runner.turn"].context.span_id
    assert attributes(failed)["http.response.status_code"] == 500
    assert not failed.status.is_ok


async def test_a_connection_that_breaks_fails_its_span(
    tracer: Tracer, seen: Callable[[], dict[str, ReadableSpan]]
) -> None:
    """By the kind of the error."""

    def fail(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no", request=request)

    assert tracer.wrap is not None
    async with httpx.AsyncClient(transport=tracer.wrap(httpx.MockTransport(fail))) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("http://server/session")
    assert attributes(seen()["GET /session"])["error.type"] == "ConnectError"


def test_a_program_without_opentelemetry_loads_nothing_of_it() -> None:
    """Nor Prometheus's library: a command line that shows no metrics does not wait for it."""
    code = (
        "import sys; from cnap_runner.telemetry.tracing import make_tracer; import cnap_runner.wiring as w;"
        "w.RunnerManager(w.Settings(data_dir='/nowhere')); assert make_tracer().wrap is None;"
        "print([m for m in ('opentelemetry', 'prometheus_client') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
