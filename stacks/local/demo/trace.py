"""One trace out of the spans file, as a tree with timings; those of enclave and worker are rounded to 20 ms."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from observability import names

EXPECTED = frozenset(
    {
        names.TENANT_REQUEST,
        names.TENANT_KMS,
        names.TENANT_SEAL,
        names.ROUTER_ROUTE,
        names.ROUTER_FORWARD,
        names.PARENT_INFERENCE,
        names.ENCLAVE_REQUEST,
        names.ENCLAVE_OPEN,
        names.KMS_DECRYPT,
        names.WORKER_GENERATE,
        names.ENCLAVE_SEAL,
        names.TENANT_OPEN,
    }
)
"""Every span of a request whose session and whose enclave are new."""

SERVICE_PREFIX = "mrgc-"
BAR_WIDTH = 30
SHOWN = (names.ENGINE, names.FRAMES, names.ATTEMPTS, names.CACHED_KEY)


@dataclass(slots=True, kw_only=True)
class Span:
    """One span; times in ns since 1970."""

    id: str
    parent: str | None
    name: str
    service: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    children: list[Span] = field(default_factory=list)

    @property
    def ms(self) -> float:
        """Duration in ms."""
        return (self.end_ns - self.start_ns) / 1e6


def read_trace(path: Path, trace_id: str) -> list[Span]:
    """Return a trace's spans from the file; a line that is only half there yet is left out."""
    spans = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if trace_id not in line:
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        spans.append(
            Span(
                id=entry["span_id"],
                parent=entry["parent_id"],
                name=entry["name"],
                service=str(entry["service"] or "").removeprefix(SERVICE_PREFIX),
                start_ns=entry["start_ns"],
                end_ns=entry["end_ns"],
                attributes=entry["attributes"],
            )
        )
    return spans


def as_forest(spans: Sequence[Span]) -> list[Span]:
    """Hang every span below its parent; return those whose parent is not there, in order of time."""
    known = {span.id: span for span in spans}
    roots: list[Span] = []
    for span in sorted(spans, key=lambda each: (each.start_ns, each.end_ns)):
        parent = known.get(span.parent or "")
        (parent.children if parent is not None and parent is not span else roots).append(span)
    return roots


def render(spans: Sequence[Span]) -> list[str]:
    """Return the trace as lines: tree, service, duration, and where in the whole it lay."""
    if not spans:
        return []
    begin, end = min(span.start_ns for span in spans), max(span.end_ns for span in spans)
    rows: list[tuple[str, Span]] = []
    for root in as_forest(spans):
        _collect(root, "", "", rows)
    width = max(len(label) for label, _ in rows)
    return [
        f"{label:<{width}}  {span.service:<8} {span.ms:8.1f} ms |{_bar(span, begin, end)}| {_notes(span)}".rstrip()
        for label, span in rows
    ]


def _collect(span: Span, first: str, rest: str, rows: list[tuple[str, Span]]) -> None:
    rows.append((first + span.name, span))
    for index, child in enumerate(span.children):
        last = index == len(span.children) - 1
        _collect(child, rest + ("└ " if last else "├ "), rest + ("  " if last else "│ "), rows)


def _bar(span: Span, begin: int, end: int) -> str:
    whole = max(1, end - begin)
    left = min(BAR_WIDTH - 1, (span.start_ns - begin) * BAR_WIDTH // whole)
    length = max(1, min(BAR_WIDTH - left, round((span.end_ns - span.start_ns) * BAR_WIDTH / whole)))
    return " " * left + "=" * length + " " * (BAR_WIDTH - left - length)


def _notes(span: Span) -> str:
    return " ".join(f"{name.rpartition('.')[2]}={span.attributes[name]}" for name in SHOWN if name in span.attributes)
