"""Spans of client and server are one trace, on every face; without `tracing` there are none."""

import asyncio
import builtins
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import headwater
from headwater.cli.server_process import ServerProcess
from headwater.transport import tracing
from headwater_server.net.monitoring import spans as server_spans
from headwater_server.net.monitoring.spans import Spans


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Spans of this test, with a provider of its own for the client."""
    found = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    plain = trace.get_tracer
    monkeypatch.setattr(
        trace, "get_tracer", lambda name, version, _provider: plain(name, version, provider)
    )
    yield found
    provider.shutdown()


def test_each_call_of_a_blocking_client_is_a_span_below_that_of_its_thread(
    real_server: ServerProcess, exporter: InMemorySpanExporter
) -> None:
    with headwater.connect_blocking(real_server.url, tracing=True) as db:
        tracer = trace.get_tracer("application", None, None)
        with tracer.start_as_current_span("work"):
            db.put("traced", 1)
            with db.transaction() as tx:
                tx.get("traced")
                tx.put("traced", 2)
            with pytest.raises(headwater.WrongVersion):
                db.append("traced-1", headwater.Event("E"), expect=7)
    spans = exporter.get_finished_spans()
    work = next(span for span in spans if span.name == "work")
    ours = [span for span in spans if span.name != "work"]
    assert {"execute", "get", "commit"} <= {span.name for span in ours}
    for span in ours:
        assert span.kind is trace.SpanKind.CLIENT
        assert span.parent is not None
        assert span.parent.span_id == work.context.span_id
        assert dict(span.attributes or {})["db.system.name"] == tracing.SYSTEM
    errors = [(span.attributes or {}).get("error.type") for span in ours]
    assert errors.count("wrong_version") == 1


def test_a_client_on_asyncio_makes_the_same_spans(
    real_server: ServerProcess, exporter: InMemorySpanExporter
) -> None:
    async def run() -> None:
        async with headwater.connect(real_server.url, tracing=True) as db:
            await db.put("traced", 1)
            assert await db.get("traced") == 1

    asyncio.run(run())
    assert [span.name for span in exporter.get_finished_spans()] == ["execute", "get"]


def test_without_the_option_there_is_no_span(
    real_server: ServerProcess, exporter: InMemorySpanExporter
) -> None:
    with headwater.connect_blocking(real_server.url) as db:
        db.put("untraced", 1)
    assert exporter.get_finished_spans() == ()


def test_a_span_of_the_server_is_below_that_of_the_client(
    exporter: InMemorySpanExporter,
) -> None:
    class Session:
        user = "ann"

    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    Spans().tell("get", Session(), traceparent, 5_000, "")
    Spans().tell("commit", Session(), traceparent, 7_000, "conflict")
    get, commit = exporter.get_finished_spans()
    assert get.kind is trace.SpanKind.SERVER
    assert f"{get.context.trace_id:032x}" == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert get.parent is not None
    assert f"{get.parent.span_id:016x}" == "00f067aa0ba902b7"
    assert (get.end_time or 0) - (get.start_time or 0) == 5_000
    assert (get.attributes or {})["user.name"] == "ann"
    assert (commit.attributes or {})["error.type"] == "conflict"
    assert server_spans.SYSTEM == tracing.SYSTEM


@pytest.mark.parametrize("maker", [tracing.Tracing, Spans])
def test_without_the_api_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, maker: Any
) -> None:
    plain = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ModuleNotFoundError(name)
        return plain(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(headwater.InvalidArgument, match="otel"):
        maker()
