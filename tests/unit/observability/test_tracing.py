from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from observability import names
from observability.forward import MAX_BATCH_BYTES, SpanForwarder, traces_endpoint
from observability.tracing import MAX_RELAYED_TRACES, MAX_SPANS_PER_TRACE, Telemetry, traceparent_of


def test_one_trace_goes_through_processes_that_share_nothing_but_a_traceparent() -> None:
    tenant, enclave = Telemetry.relayed("tenant"), Telemetry.relayed("enclave")
    with tenant.span(names.TENANT_REQUEST) as root:
        with enclave.span(names.ENCLAVE_REQUEST, traceparent=traceparent_of(root)) as inner:
            pass
        batch = ExportTraceServiceRequest.FromString(enclave.take(root.get_span_context().trace_id) or b"")
    span = batch.resource_spans[0].scope_spans[0].spans[0]
    assert span.trace_id == root.get_span_context().trace_id.to_bytes(16, "big"), "the same trace"
    assert span.parent_span_id == root.get_span_context().span_id.to_bytes(8, "big"), "below the tenant's span"
    assert span.span_id == inner.get_span_context().span_id.to_bytes(8, "big"), "the enclave's own span"


@pytest.mark.parametrize("text", [None, "", "garbage", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_a_traceparent_that_is_none_starts_a_new_trace(text: str | None) -> None:
    with Telemetry.relayed("router").span(names.ROUTER_ROUTE, traceparent=text) as span:
        assert span.get_span_context().is_valid, "a request without a trace gets one"


def test_an_exception_is_named_by_its_type_and_never_quoted() -> None:
    exporter = InMemorySpanExporter()
    telemetry = Telemetry.exporting("enclave", exporter)
    with pytest.raises(ValueError, match="secret"), telemetry.span(names.ENCLAVE_OPEN):
        raise ValueError("the secret prompt")
    telemetry.shutdown()
    (span,) = exporter.get_finished_spans()
    assert span.status.description == "ValueError", "the type says enough"
    assert "secret" not in span.to_json(), "an exception's text may quote a message"


def test_an_attribute_that_is_not_listed_is_refused() -> None:
    with (
        pytest.raises(KeyError),
        Telemetry.relayed("worker").span(names.WORKER_GENERATE, attributes={"gen_ai.prompt": "hello"}),
    ):
        pytest.fail("the span must not open")


def test_spans_that_nobody_takes_stay_bounded() -> None:
    telemetry = Telemetry.relayed("enclave")
    for _ in range(MAX_RELAYED_TRACES + 10):
        with telemetry.span(names.ENCLAVE_OPEN):
            pass
    shelf = telemetry._shelf
    assert shelf is not None
    assert len(shelf._traces) == MAX_RELAYED_TRACES, "the oldest traces go"
    with telemetry.span(names.ENCLAVE_REQUEST) as root:
        for _ in range(MAX_SPANS_PER_TRACE + 5):
            with telemetry.span(names.ENCLAVE_OPEN, parent=root):
                pass
    assert len(shelf.take(root.get_span_context().trace_id)) == MAX_SPANS_PER_TRACE, "a trace has a bound too"
    assert shelf.dropped == 10 + 1 + 6, "and what went is counted"


def test_the_endpoint_is_derived_as_the_otlp_specification_says() -> None:
    assert traces_endpoint({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}) == "http://c:4318/v1/traces", "base"
    exact = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/x", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://d"}
    assert traces_endpoint(exact) == "http://c/x", "the signal's own variable is taken as it is"
    assert traces_endpoint({}) is None, "no variable, no export"


async def test_relayed_spans_reach_the_collector_and_a_failing_one_costs_nothing_else() -> None:
    taken: list[bytes] = []
    status = 200

    async def collect(request: web.Request) -> web.Response:
        taken.append(await request.read())
        return web.Response(status=status)

    app = web.Application()
    app.router.add_post("/v1/traces", collect)
    async with TestServer(app) as server:
        forwarder = SpanForwarder(str(server.make_url("/v1/traces")))
        forwarder.submit(b"one")
        forwarder.submit(b"x" * (MAX_BATCH_BYTES + 1))
        task = asyncio.create_task(forwarder.run())
        async with asyncio.timeout(5):
            while forwarder.sent < 1:  # noqa: ASYNC110 - the forwarder has no event, and needs none
                await asyncio.sleep(0.01)
        status = 503
        forwarder.submit(b"two")
        async with asyncio.timeout(5):
            while forwarder.dropped < 2:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        status = 200
        forwarder.submit(b"last")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert taken[0] == b"one", "a batch is posted as it is"
    assert taken[-1] == b"last", "what is queued at the end gets one try"
    assert (forwarder.sent, forwarder.dropped) == (2, 2), "too large and refused ones are counted"


async def test_a_full_queue_drops_and_counts() -> None:
    forwarder = SpanForwarder("http://127.0.0.1:9/never")
    for _ in range(600):
        forwarder.submit(b"x")
    assert forwarder.dropped == 600 - 512, "submit never blocks"
