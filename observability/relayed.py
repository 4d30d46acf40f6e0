"""What is left of a span before it leaves a process that sees plaintext: listed names and attributes, and coarse times.

The parent gets these spans in clear. Whatever a bug or a careless line puts on a span of the enclave or the worker,
only what `observability.disclosure` has as class H gets past here: no error's text, no event, no link, no exact time.
"""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, Status

from observability import disclosure


def relayed(spans: Sequence[ReadableSpan]) -> list[ReadableSpan]:
    """Return what may leave of finished spans; a span with a name that is not listed does not leave at all."""
    return [_relayed(span) for span in spans if _named(span)]


def floor_tick(time_ns: int) -> int:
    """The last tick at or before a time."""
    return time_ns - time_ns % disclosure.TICK_NS


def ceil_tick(time_ns: int) -> int:
    """The first tick at or after a time."""
    return -floor_tick(-time_ns)


def _named(span: ReadableSpan) -> bool:
    if span.name in disclosure.RELAYED_SPANS:
        return True
    disclosure.refused("a span whose name is not listed")
    return False


def _relayed(span: ReadableSpan) -> ReadableSpan:
    attributes = dict(span.attributes or {})
    for name in attributes.keys() - disclosure.RELAYED_ATTRIBUTES:
        del attributes[name]
        disclosure.refused(f"the attribute {name} of {span.name}")
    if span.events or span.links:
        disclosure.refused(f"an event or a link of {span.name}")
    return ReadableSpan(
        name=span.name,
        context=_context(span.context),
        parent=_context(span.parent),
        resource=span.resource,
        attributes=attributes,
        kind=span.kind,
        # The code alone: a description names the type of an exception, of which one process has many.
        status=Status(span.status.status_code),
        # On one grid for all spans: a child's edge lies in the same tick as its parent's or in another one, and tells
        # no more than the tick. Down and up, so that a span still holds its children.
        start_time=floor_tick(span.start_time or 0),
        end_time=ceil_tick(span.end_time or 0),
        instrumentation_scope=span.instrumentation_scope,
    )


def _context(context: SpanContext | None) -> SpanContext | None:
    """Ids and flags alone: a trace state is somebody else's text."""
    if context is None:
        return None
    return SpanContext(context.trace_id, context.span_id, context.is_remote, context.trace_flags)
