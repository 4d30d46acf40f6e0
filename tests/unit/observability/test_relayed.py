"""What is left of a span when it leaves a process that sees plaintext."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Span

from observability import disclosure, names
from observability.relayed import ceil_tick, floor_tick
from observability.tracing import Telemetry, traceparent_of

TICK = disclosure.TICK_NS
SECRET = "zebra-omelette-4711"
SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = SAMPLED[:-1] + "0"


class Clock:
    """Nanoseconds that a test sets."""

    def __init__(self, now: int = 0) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def taken(telemetry: Telemetry, span: Span) -> Any:
    batch = telemetry.take(span.get_span_context().trace_id)
    return ExportTraceServiceRequest.FromString(batch or b"")


def spans_of(export: Any) -> list[Any]:
    return [span for resource in export.resource_spans for scope in resource.scope_spans for span in scope.spans]


def careless(telemetry: Telemetry, root: Span) -> None:
    """Put text of a request wherever a span takes text."""
    with telemetry.span(names.ENCLAVE_OPEN, parent=root) as child:
        child.add_event(SECRET, {"text": SECRET})
        child.record_exception(ValueError(SECRET))
        child.add_link(root.get_span_context(), {"text": SECRET})
        raise ValueError(SECRET)


@pytest.mark.parametrize(
    "attribute",
    [*sorted({row.name for row in disclosure.RELAYED} - disclosure.RELAYED_ATTRIBUTES), "gen_ai.prompt", "x"],
)
def test_an_attribute_that_is_not_class_h_never_leaves(attribute: str, kept_back: list[str]) -> None:
    telemetry = Telemetry.relayed("worker")
    with telemetry.span(names.WORKER_GENERATE, attributes={names.ENGINE: "vllm"}) as span:
        span.set_attribute(attribute, 4711)
    (left,) = spans_of(taken(telemetry, span))
    assert [entry.key for entry in left.attributes] == [names.ENGINE], "only what the table lets out"
    assert kept_back == [f"the attribute {attribute} of worker.generate"], "and a test that did not expect it fails"
    kept_back.clear()


def test_events_links_texts_and_unlisted_spans_never_leave(kept_back: list[str]) -> None:
    telemetry = Telemetry.relayed("enclave")
    with telemetry.span(names.ENCLAVE_REQUEST) as root:
        with telemetry.span(SECRET, parent=root):
            pass
        with pytest.raises(ValueError, match=SECRET):
            careless(telemetry, root)
    export = taken(telemetry, root)
    assert SECRET.encode() not in export.SerializeToString(), "no text of anybody's gets through"
    assert b"ValueError" not in export.SerializeToString(), "nor the type of an error: PROBLEM says what may be said"
    assert sorted(span.name for span in spans_of(export)) == ["enclave.open", "enclave.request"], "listed names alone"
    assert not any(span.events or span.links for span in spans_of(export)), "no events, no links"
    assert len(kept_back) == 2, "the span and the event are told"
    kept_back.clear()


@given(st.lists(st.integers(0, 5 * TICK), min_size=4, max_size=4), st.integers(0, 2**60))
def test_every_time_is_a_tick_and_a_span_still_holds_its_children(edges: list[int], base: int) -> None:
    clock = Clock()
    telemetry = Telemetry.relayed("enclave", time_ns=clock)
    start, child_start, child_end, end = sorted(edges)
    clock.now = base + start
    with telemetry.span(names.ENCLAVE_REQUEST) as root:
        clock.now = base + child_start
        with telemetry.span(names.ENCLAVE_OPEN, parent=root):
            clock.now = base + child_end
        clock.now = base + end
    spans = {span.name: span for span in spans_of(taken(telemetry, root))}
    outer, inner = spans[names.ENCLAVE_REQUEST], spans[names.ENCLAVE_OPEN]
    for time_ns in (
        outer.start_time_unix_nano,
        outer.end_time_unix_nano,
        inner.start_time_unix_nano,
        inner.end_time_unix_nano,
    ):
        assert time_ns % TICK == 0, "no finer than what frames show"
    assert outer.start_time_unix_nano <= inner.start_time_unix_nano, "it begins first"
    assert inner.end_time_unix_nano <= outer.end_time_unix_nano, "and ends last"


@given(st.integers(0, 2**62), st.integers(0, TICK - 1), st.integers(0, TICK - 1))
def test_two_times_within_a_tick_are_one(tick: int, one: int, two: int) -> None:
    base = floor_tick(tick)
    assert floor_tick(base + one) == floor_tick(base + two), "starts"
    assert ceil_tick(base + 1 + min(one, TICK - 1)) in (base + TICK, base + 2 * TICK), "an end is at most a tick late"
    assert ceil_tick(base) == base, "a time on the grid stays"


def test_a_tenants_unsampled_traceparent_is_honoured_by_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    # The SDK's own variable would have every span sampled.
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    exporter = InMemorySpanExporter()
    router, enclave = Telemetry.exporting("router", exporter), Telemetry.relayed("enclave")
    with router.span(names.ROUTER_ROUTE, traceparent=UNSAMPLED) as outer:
        assert traceparent_of(outer).endswith("-00"), "the next process is told"
        with enclave.span(names.ENCLAVE_REQUEST, traceparent=traceparent_of(outer)) as inner:
            assert traceparent_of(inner).endswith("-00"), "and so the worker"
    router.shutdown()
    assert exporter.get_finished_spans() == (), "the router exports nothing"
    assert enclave.take(inner.get_span_context().trace_id) is None, "and nothing leaves the enclave"


def test_the_environment_adds_nothing_to_what_a_relayed_span_says_of_its_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "leak=me")
    telemetry = Telemetry.relayed("worker", region="us-east-1", instance_id="i-1")
    with telemetry.span(names.WORKER_GENERATE) as span:
        pass
    (resource,) = taken(telemetry, span).resource_spans
    said = {entry.key: entry.value.string_value for entry in resource.resource.attributes}
    assert said == {
        "service.name": "mrgc-worker",
        "service.namespace": "mrgc",
        "cloud.region": "us-east-1",
        "service.instance.id": "i-1",
    }, "who it is, and no more"
