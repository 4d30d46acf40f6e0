"""What is inside a hop envelope: the request to the GPU worker, the head and the tail of its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from dataplane.protocol import cbor
from dataplane.protocol.errors import OpenError, ProblemError
from dataplane.protocol.fill import FILL, filled, is_fill
from dataplane.protocol.message import (
    MAX_CONTENT_TYPE,
    MAX_PATH,
    MAX_SHORT_TEXT,
    check_status,
    is_name,
    is_text,
    is_uint,
    opened_map,
)
from dataplane.protocol.receipt import SealedSpan, check_spans, check_usage, check_wash
from dataplane.protocol.suite import MAX_HOP_MESSAGE_BYTES

ENGINES: Final = frozenset({"vllm", "synthetic"})
PRIORITY_LIMIT: Final = 1000
"""Priorities run from -1,000 (first) to 1,000 (last), 0 by default: vLLM's order, lower is earlier."""
HOP_MESSAGE_ITEMS: Final = 1 + 2 * 7
"""The map and its seven members, none of which holds others."""
TAIL_MULTIPLE: Final = 512
"""A worker's tail takes at most 332 bytes whatever its numbers: keys and heads 26, usage 76, wash 57, three spans of 30
to 40 bytes and their numbers; so all of one worker's tails are one length."""

MAX_DEADLINE_MS: Final = 24 * 3600 * 1000


def hop_problem(detail: str) -> ProblemError:
    """Make the one problem that a hop can be: the host's side is broken or stale."""
    return ProblemError("host-failed", detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class HopMessage:
    """One request to the engine: `deadline_ms` is what remains, `cache_salt` is derived by the enclave."""

    path: str
    body: bytes = field(repr=False)
    model: str
    cache_salt: str = field(repr=False)
    priority: int
    deadline_ms: int
    traceparent: str | None

    def encode(self) -> bytes:
        """Return the message as CBOR."""
        return cbor.encode(
            {
                "path": self.path,
                "body": self.body,
                "model": self.model,
                "cache_salt": self.cache_salt,
                "priority": self.priority,
                "deadline_ms": self.deadline_ms,
                "traceparent": self.traceparent,
            },
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read an opened hop message; `ProblemError` host-failed if it is none."""
        try:
            fields = cbor.decode_map(data, max_bytes=MAX_HOP_MESSAGE_BYTES, max_items=HOP_MESSAGE_ITEMS, max_depth=1)
        except cbor.CborError as error:
            raise hop_problem(f"the hop message can't be read: {error}") from error
        if fields.keys() != {"path", "body", "model", "cache_salt", "priority", "deadline_ms", "traceparent"}:
            raise hop_problem("the hop message has other keys than a hop message")
        texts = all(
            is_text(fields[name], most)
            for name, most in (("path", MAX_PATH), ("model", MAX_SHORT_TEXT), ("cache_salt", MAX_SHORT_TEXT))
        )
        traced = fields["traceparent"] is None or is_text(fields["traceparent"], MAX_SHORT_TEXT)
        priority = fields["priority"]
        ranked = type(priority) is int and -PRIORITY_LIMIT <= priority <= PRIORITY_LIMIT
        if not (texts and traced and ranked and isinstance(fields["body"], bytes)):
            raise hop_problem("the hop message has a field of the wrong type")
        if not is_uint(fields["deadline_ms"], MAX_DEADLINE_MS):
            raise hop_problem("the hop message's deadline_ms must be from 0 to one day")
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class HopHead:
    """First frame of the worker's answer; `engine` says what really generated."""

    status: int
    content_type: str
    engine: str
    model_digest: str

    def encode(self) -> bytes:
        """Return the head as CBOR."""
        return cbor.encode(
            {
                "status": self.status,
                "content_type": self.content_type,
                "engine": self.engine,
                "model_digest": self.model_digest,
            },
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the first frame's data; `OpenError` if it is no head."""
        fields = opened_map(data, "hop head", {"status", "content_type", "engine", "model_digest"})
        engine = fields["engine"]
        if not isinstance(engine, str) or engine not in ENGINES or not is_name(fields["model_digest"]):
            raise OpenError("the hop head needs an engine (vllm or synthetic) and a model digest")
        if not is_text(fields["content_type"], MAX_CONTENT_TYPE):
            raise OpenError("the hop head needs a content type")
        check_status(fields["status"], "hop head")
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class HopTail:
    """Final frame of the worker's answer, sealed to the enclave.

    `usage` has token counts where the engine gave them, `wash` the last car wash (None where there was none), `spans`
    exact times inside the worker. As bytes it is filled to a multiple of `TAIL_MULTIPLE`: its frame's length would tell
    the parent how large the counts are.
    """

    usage: Mapping[str, int] = field(repr=False)
    wash: Mapping[str, str | int] | None = None
    spans: Sequence[SealedSpan] = field(default=(), repr=False)

    def encode(self) -> bytes:
        """Return the tail as CBOR."""
        return filled(
            {
                "usage": dict(self.usage),
                "wash": None if self.wash is None else dict(self.wash),
                "spans": [list(span) for span in self.spans],
            },
            TAIL_MULTIPLE,
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the final frame's data; `OpenError` if it is no tail."""
        fields = opened_map(data, "hop tail", {"usage", "wash", "spans", FILL})
        if not is_fill(fields[FILL]):
            raise OpenError("the hop tail's fill must be two strings of bytes")
        check_usage(fields["usage"], "hop tail")
        if fields["wash"] is not None:
            check_wash(fields["wash"], "hop tail")
        check_spans(fields["spans"], "hop tail")
        spans = tuple((name, start, took) for name, start, took in fields["spans"])
        return cls(usage=fields["usage"], wash=fields["wash"], spans=spans)
