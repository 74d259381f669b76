"""A run as a trace: from its caller down to each call of OpenCode's API."""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cnap_runner import AgentSpec, RunnerManager, RunRequest, Settings
from cnap_runner.testing.fake_opencode.script import Say
from cnap_runner.testing.house import House


async def test_a_run_is_one_trace_of_its_caller(house: House, spec: AgentSpec, ask: Callable[..., RunRequest]) -> None:
    """Its start, its turn and the prompt that is sent stand below the caller's own span, in that order, and it ends with the outcome."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    house.script([Say("hi")])
    async with RunnerManager(Settings(data_dir=house.data_dir), tracer_provider=provider) as manager:
        runner = await manager.create_runner(spec)
        with provider.get_tracer("caller").start_as_current_span("caller"):
            result = await runner.run(ask("the secret plan"))
    spans = {span.name: span for span in exporter.get_finished_spans()}
    path = ["POST /session/{id}/prompt_async", "cnap_runner.turn", "cnap_runner.run", "caller"]
    assert _ancestors(spans, path[0]) == path
    assert _ancestors(spans, "cnap_runner.start") == ["cnap_runner.start", "cnap_runner.prepare", *path[2:]]
    told = spans["cnap_runner.run"].attributes or {}
    assert (told["cnap_runner.run_id"], told["cnap_runner.outcome"]) == (result.run_id, "succeeded")
    assert not any("secret plan" in span.to_json() for span in spans.values())


def _ancestors(spans: dict[str, ReadableSpan], name: str) -> list[str]:
    """A span's name, then that of what it stands below, and so on."""
    by_id = {span.context.span_id: span for span in spans.values()}
    found, span = [], by_id.get(spans[name].context.span_id)
    while span is not None:
        found.append(span.name)
        span = by_id.get(span.parent.span_id) if span.parent else None
    return found
