"""The trace collector: OTLP over HTTP in, one JSON object a span out, appended to a file.

Each line has `trace_id`, `span_id`, `parent_id` (null for a root), `name`, `service`, `start_ns`, `end_ns`, `status`
(`unset`, `ok`, `error`), `status_message`, `attributes` and `resource`. A file that can't be written never fails a
request: the spans are counted as dropped, the sender is told by OTLP's partial success, and one log line says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

TRACES_PATH = "/v1/traces"
PROTOBUF = "application/x-protobuf"
MAX_EXPORT_BYTES = 4 * 1024 * 1024
"""One export: the SDK sends at most 512 spans, about 1 KiB each."""

_STATUS = {0: "unset", 1: "ok", 2: "error"}

logger = logging.getLogger(__name__)


class Collector:
    """Appends spans to a file, one writer at a time."""

    def __init__(self, *, spans_file: Path | None) -> None:
        """Write to `spans_file`, or count and drop without one."""
        self._file = spans_file
        self._lock = asyncio.Lock()
        self._failing = False
        self.written = 0
        self.dropped = 0

    def routes(self) -> list[web.RouteDef]:
        """Return the collector's route."""
        return [web.post(TRACES_PATH, self._export)]

    def to_json(self) -> dict[str, int]:
        """Return how many spans were written and dropped."""
        return {"written": self.written, "dropped": self.dropped}

    async def _export(self, request: web.Request) -> web.Response:
        if request.content_type != PROTOBUF:
            return web.Response(status=415, text=f"Spans are taken as {PROTOBUF}.")
        body = await request.content.read(MAX_EXPORT_BYTES + 1) if request.can_read_body else b""
        while len(body) <= MAX_EXPORT_BYTES and not request.content.at_eof():
            body += await request.content.read(MAX_EXPORT_BYTES + 1 - len(body))
        if len(body) > MAX_EXPORT_BYTES:
            return web.Response(status=413, text=f"An export has at most {MAX_EXPORT_BYTES} bytes.")
        try:
            export = ExportTraceServiceRequest.FromString(body)
        except DecodeError:
            return web.Response(status=400, text="The export is not an ExportTraceServiceRequest.")
        rejected = await self._append(list(spans_of(export)))
        answer = ExportTraceServiceResponse()
        if rejected:
            answer.partial_success.CopyFrom(
                ExportTracePartialSuccess(rejected_spans=rejected, error_message="the spans file can't be written")
            )
        return web.Response(body=answer.SerializeToString(), content_type=PROTOBUF)

    async def _append(self, spans: list[dict[str, Any]]) -> int:
        """Append the spans; return how many were dropped."""
        if not spans:
            return 0
        if self._file is None:
            self.dropped += len(spans)
            return len(spans)
        text = "".join(json.dumps(span, ensure_ascii=False) + "\n" for span in spans)
        async with self._lock:
            try:
                await asyncio.to_thread(_write, self._file, text)
            except OSError as error:
                self.dropped += len(spans)
                if not self._failing:
                    logger.error("spans can't be written to %s (%s); they are dropped", self._file, error.strerror)  # noqa: TRY400 - the sentence says it all
                self._failing = True
                return len(spans)
            self._failing = False
            self.written += len(spans)
            return 0


def spans_of(export: ExportTraceServiceRequest) -> Iterator[dict[str, Any]]:
    """Return each span as plain values."""
    for group in export.resource_spans:
        resource = _attributes(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                yield _span(span, resource)


def _span(span: Span, resource: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent_id": span.parent_span_id.hex() or None,
        "name": span.name,
        "service": resource.get("service.name"),
        "start_ns": span.start_time_unix_nano,
        "end_ns": span.end_time_unix_nano,
        "status": _STATUS.get(span.status.code, "unset"),
        "status_message": span.status.message,
        "attributes": _attributes(span.attributes),
        "resource": dict(resource),
    }


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(entry) for entry in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    if kind == "bytes_value":
        return value.bytes_value.hex()
    return getattr(value, kind)


def _write(path: Path, text: str) -> None:
    """Append whole lines; a write that fails midway is cut off again, so that the next line starts a line."""
    with path.open("ab", buffering=0) as file:
        end = file.seek(0, 2)
        try:
            data = memoryview(text.encode())
            while data:
                data = data[file.write(data) :]
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise
