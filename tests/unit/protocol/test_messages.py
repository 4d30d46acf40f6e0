"""What is inside an envelope: requests, heads, and the hop's messages; receipts have their own tests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol import cbor
from dataplane.protocol.errors import OpenError, ProblemError
from dataplane.protocol.hop import HopHead, HopMessage, HopTail
from dataplane.protocol.message import MessageError, RequestMessage, ResponseHead

WASH: dict[str, str | int] = {"id": "wash-1", "time": 1_767_225_600_000}
REQUEST = {"path": "/v1/chat/completions", "content_type": "application/json", "body": b"{}"}
HEAD = {"status": 200, "content_type": "application/json"}
HOP_MESSAGE: dict[str, Any] = {
    "path": "/v1/completions",
    "body": b"{}",
    "model": "tiny",
    "cache_salt": "salt",
    "priority": 0,
    "deadline_ms": 30_000,
    "traceparent": None,
}
HOP_HEAD = {"status": 200, "content_type": "text/event-stream", "engine": "vllm", "model_digest": "sha256:00"}
HOP_TAIL = {"usage": {"prompt_tokens": 1, "completion_tokens": 2, "cached_tokens": 0}, "wash": WASH, "spans": ()}

KINDS: list[tuple[Any, dict[str, Any]]] = [
    (RequestMessage, REQUEST),
    (ResponseHead, HEAD),
    (HopMessage, HOP_MESSAGE),
    (HopHead, HOP_HEAD),
    (HopTail, HOP_TAIL),
]
IDS = [kind.__name__ for kind, _ in KINDS]
FILLED: dict[str, Any] = {"fill": [b"", b""]}
"""What a tail has on the wire besides its fields (tests/unit/protocol/test_fill.py)."""
REFUSALS = (MessageError, OpenError, ProblemError)


def on_the_wire(kind: Any, fields: dict[str, Any]) -> dict[str, Any]:
    return fields | FILLED if kind is HopTail else fields


@pytest.mark.parametrize(("kind", "fields"), KINDS, ids=IDS)
def test_each_message_has_one_form_and_survives_the_wire(kind: Any, fields: dict[str, Any]) -> None:
    message = kind(**fields)
    encoded = message.encode()
    if kind is HopTail:
        decoded = cbor.decode(encoded, max_bytes=len(encoded))
        fields = fields | {"fill": decoded["fill"]}
        assert not any(b"".join(decoded["fill"])), "a tail is filled with zeros"
    assert encoded == cbor.encode(fields), "a message is the map of its fields"
    assert kind.decode(message.encode()) == message, "and reads back as itself"


@pytest.mark.parametrize(("kind", "fields"), KINDS, ids=IDS)
def test_each_message_has_exactly_its_keys(kind: Any, fields: dict[str, Any]) -> None:
    fields = on_the_wire(kind, fields)
    kind.decode(cbor.encode(fields))
    variants = [fields | {"extra": 1}, *({k: v for k, v in fields.items() if k != name} for name in fields)]
    for variant in variants:
        with pytest.raises(REFUSALS):
            kind.decode(cbor.encode(variant))


@pytest.mark.parametrize(("kind", "fields"), KINDS, ids=IDS)
def test_no_field_takes_a_value_of_another_type(kind: Any, fields: dict[str, Any]) -> None:
    wrong: list[object] = [True, -1.5, [], {"a": 1}, {"id": 1, "time": "now"}]
    whole = on_the_wire(kind, fields)
    for name in fields:
        for value in wrong:
            if name == "spans" and value == []:
                continue  # no spans are none
            with pytest.raises(REFUSALS):
                kind.decode(cbor.encode(whole | {name: value}))


@pytest.mark.parametrize(("kind", "fields"), KINDS, ids=IDS)
@given(data=st.binary(max_size=100))
def test_any_bytes_are_refused_within_the_error_family(kind: Any, fields: dict[str, Any], data: bytes) -> None:
    assert fields, "the strategy covers every kind"
    with contextlib.suppress(*REFUSALS):
        assert kind.decode(data).encode() == data, "what is accepted has one form"


@pytest.mark.parametrize(
    ("kind", "fields", "change"),
    [
        (ResponseHead, HEAD, {"status": 99}),
        (ResponseHead, HEAD, {"status": 600}),
        (ResponseHead, HEAD, {"content_type": "x" * 257}),
        (HopHead, HOP_HEAD, {"engine": "another"}),
        (HopHead, HOP_HEAD, {"status": 1000}),
        (HopTail, HOP_TAIL, {"usage": {"words": 1}}),
        (HopTail, HOP_TAIL, {"usage": {"prompt_tokens": -1}}),
        (HopTail, HOP_TAIL, {"wash": {"id": "x", "time": -1}}),
        (HopTail, HOP_TAIL, {"spans": [["name", 1]]}),
        (HopTail, HOP_TAIL, {"spans": [["name", 1, 1]] * 33}),
        (HopMessage, HOP_MESSAGE, {"priority": 1001}),
        (HopMessage, HOP_MESSAGE, {"deadline_ms": -1}),
        (HopMessage, HOP_MESSAGE, {"deadline_ms": 86_400_001}),
        (HopMessage, HOP_MESSAGE, {"traceparent": "x" * 257}),
    ],
)
def test_values_out_of_range_are_refused(kind: Any, fields: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(REFUSALS):
        kind.decode(cbor.encode(on_the_wire(kind, fields) | change))


def test_a_tail_without_token_counts_is_a_tail() -> None:
    tail = HopTail(usage={}, wash=WASH)
    assert HopTail.decode(tail.encode()).usage == {}, "an engine error has no usage"


def test_a_worker_that_was_never_washed_says_so() -> None:
    assert HopTail.decode(HopTail(usage={}).encode()).wash is None, "a start is no wash"


@pytest.mark.parametrize("path", ["/v1/models", "/", "", "/v1/chat/completions/", "/v1/chat/../completions"])
def test_an_unknown_path_is_the_tenants_404(path: str) -> None:
    with pytest.raises(MessageError) as caught:
        RequestMessage.decode(cbor.encode(REQUEST | {"path": path}))
    assert caught.value.status == 404, "answered inside the envelope"
    assert "/v1/embeddings" in str(caught.value), "and the sentence says what there is"


def test_a_request_that_is_no_message_is_the_tenants_400() -> None:
    for data in (b"", b"{}", cbor.encode([]), cbor.encode(REQUEST | {"body": "text"})):
        with pytest.raises(MessageError) as caught:
            RequestMessage.decode(data)
        assert caught.value.status == 400, "answered inside the envelope"


Shown = Callable[[], object]


@pytest.mark.parametrize(
    "make",
    [
        lambda: RequestMessage(path="/v1/completions", content_type="application/json", body=b"private prompt"),
        lambda: HopMessage(**(HOP_MESSAGE | {"body": b"private prompt", "cache_salt": "private salt"})),
    ],
)
def test_neither_prompt_nor_salt_shows_in_a_repr(make: Shown) -> None:
    assert "private" not in repr(make()), "a repr may reach a log or an exception"
