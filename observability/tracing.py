"""Traces: the OpenTelemetry SDK, set up the same way in every process.

A process with a network exports over OTLP/HTTP to the endpoint that the standard variables name
(`OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`); without one it exports nothing. A process
without a network (enclave, worker) keeps finished spans until the request's end and hands them to its host over the
host link, as OTLP protobuf, with no more on them than `observability.relayed` lets through. Exporting never blocks and
never fails a request. A `traceparent` whose sampled flag is 0 is honoured by every process: no span of it is kept.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import Span, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from observability.names import ALLOWED_ATTRIBUTES
from observability.relayed import relayed

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

EXPORT_DELAY_MS = 200
"""How long a finished span waits for company before it is sent: short enough for a person who watches a trace."""

EXPORT_TIMEOUT_S = 3
"""Longest attempt to reach the collector; it is local to the host, so more only holds memory."""

QUEUE_SPANS = 4096
"""Spans that wait for export: at 12 spans a request, the last 340 requests; beyond it the SDK drops the newest."""

MAX_RELAYED_TRACES = 1024
"""Traces whose finished spans a process without a network keeps; the oldest goes first."""

MAX_SPANS_PER_TRACE = 32
"""Spans of one request in one process: the enclave makes four, so this is a bound against a bug, not a budget."""

_PROPAGATOR = TraceContextTextMapPropagator()


def traceparent_of(span: Span) -> str:
    """Return a span's W3C `traceparent` (Trace Context, section 3.2), or "" when it has none."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, context=set_span_in_context(span))
    return carrier.get("traceparent", "")


def context_from(traceparent: str | None) -> Context:
    """Read a `traceparent`; anything that is none starts a new trace, as the recommendation says."""
    return _PROPAGATOR.extract({"traceparent": traceparent} if traceparent else {}, context=Context())


class SpanShelf(SpanProcessor):
    """Keeps finished spans by trace until the request that made them takes them along; bounded both ways."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._traces: OrderedDict[int, list[ReadableSpan]] = OrderedDict()
        self.dropped = 0

    def on_end(self, span: ReadableSpan) -> None:
        """Shelve one span, or count it as dropped."""
        context = span.context
        if context is None or not context.trace_flags.sampled:
            return
        with self._lock:
            spans = self._traces.setdefault(context.trace_id, [])
            if len(spans) < MAX_SPANS_PER_TRACE:
                spans.append(span)
            else:
                self.dropped += 1
            while len(self._traces) > MAX_RELAYED_TRACES:
                _, lost = self._traces.popitem(last=False)
                self.dropped += len(lost)

    def take(self, trace_id: int) -> Sequence[ReadableSpan]:
        """Return the finished spans of one trace and forget them."""
        with self._lock:
            return self._traces.pop(trace_id, [])


class Telemetry:
    """One process's tracer; made by `from_environment`, `relayed` or `exporting`, and shut down by its owner."""

    def __init__(
        self, provider: TracerProvider, *, shelf: SpanShelf | None = None, time_ns: Callable[[], int] = time.time_ns
    ) -> None:
        """Keep the provider; nothing global is set, so two may live in one process. `time_ns` dates the spans."""
        self._provider = provider
        self._time_ns = time_ns
        self._tracer = provider.get_tracer("mrgc")
        self._shelf = shelf

    @classmethod
    def from_environment(
        cls,
        service: str,
        *,
        region: str | None = None,
        instance_id: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """Export over OTLP/HTTP when a standard variable names an endpoint; otherwise make spans and drop them."""
        environ = os.environ if environ is None else environ
        provider = _provider(_resource(service, region, instance_id))
        if any(environ.get(name) for name in ENDPOINT_VARIABLES):
            provider.add_span_processor(_batched(OTLPSpanExporter(timeout=EXPORT_TIMEOUT_S)))
        return cls(provider)

    @classmethod
    def exporting(cls, service: str, exporter: SpanExporter, *, region: str | None = None) -> Self:
        """Export through `exporter`, whatever the environment says."""
        provider = _provider(_resource(service, region, None))
        provider.add_span_processor(_batched(exporter))
        return cls(provider)

    @classmethod
    def relayed(
        cls,
        service: str,
        *,
        region: str | None = None,
        instance_id: str | None = None,
        time_ns: Callable[[], int] = time.time_ns,
    ) -> Self:
        """Keep finished spans for `take`: for a process without a network, which sees plaintext."""
        # Not `Resource.create`, which adds whatever OTEL_RESOURCE_ATTRIBUTES says.
        provider = _provider(Resource(_resource_attributes(service, region, instance_id)))
        shelf = SpanShelf()
        provider.add_span_processor(shelf)
        return cls(provider, shelf=shelf, time_ns=time_ns)

    @contextmanager
    def span(
        self,
        name: str,
        *,
        traceparent: str | None = None,
        parent: Span | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> Iterator[Span]:
        """Open a span below `parent`, or below a peer's `traceparent`, or as a new trace.

        An exception marks the span as failed with the exception's type; its text stays out, for it may quote a
        message. Raises `KeyError` for an attribute that `observability.names` does not list.
        """
        for attribute in attributes or ():
            if attribute not in ALLOWED_ATTRIBUTES:
                raise KeyError(attribute)
        context = set_span_in_context(parent, Context()) if parent is not None else context_from(traceparent)
        span = self._tracer.start_span(name, context=context, attributes=attributes, start_time=self._time_ns())
        try:
            yield span
        except BaseException as error:
            span.set_status(StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            span.end(self._time_ns())

    def take(self, trace_id: int) -> bytes | None:
        """Return the finished spans of a trace as an OTLP `ExportTraceServiceRequest`, or None if there are none.

        What leaves is what `observability.relayed` leaves of them.
        """
        spans = relayed(self._shelf.take(trace_id)) if self._shelf is not None else ()
        return encode_spans(spans).SerializeToString() if spans else None

    def shutdown(self, timeout_s: float = EXPORT_TIMEOUT_S) -> None:
        """Send what is left for at most `timeout_s` seconds; blocking, so call it after the loop's work is done."""
        self._provider.force_flush(int(timeout_s * 1000))
        self._provider.shutdown()


def _batched(exporter: SpanExporter) -> BatchSpanProcessor:
    """Return a processor that exports from a thread of its own."""
    return BatchSpanProcessor(exporter, max_queue_size=QUEUE_SPANS, schedule_delay_millis=EXPORT_DELAY_MS)


def _provider(resource: Resource) -> TracerProvider:
    """A provider that samples what its caller samples, whatever `OTEL_TRACES_SAMPLER` says."""
    return TracerProvider(resource=resource, sampler=ParentBased(ALWAYS_ON), shutdown_on_exit=False)


def _resource(service: str, region: str | None, instance_id: str | None) -> Resource:
    """Describe this process, and what the standard variables say of it."""
    return Resource.create(_resource_attributes(service, region, instance_id))


def _resource_attributes(service: str, region: str | None, instance_id: str | None) -> dict[str, str]:
    """Describe this process in OpenTelemetry's resource names."""
    attributes = {
        "service.name": f"mrgc-{service}",
        "service.namespace": "mrgc",
        "cloud.region": region,
        "service.instance.id": instance_id,
    }
    return {key: value for key, value in attributes.items() if value}
