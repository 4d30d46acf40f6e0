"""Holding back the end of an event stream, and reading its events."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol.errors import OpenError
from dataplane.tenant.sse import MAX_EVENT_BYTES, DoneGate, EventReader

STREAM = b'data: {"a": 1}\n\ndata: {"text": "data: [DONE]"}\n\ndata: [DONE]\n\n'


def test_all_but_the_end_marker_passes_at_once() -> None:
    gate = DoneGate()
    assert gate.push(STREAM) == STREAM[: -len(b"data: [DONE]\n\n")], "events before the marker are not delayed"
    assert gate.push(b"data: late\n\n") == b"", "nothing overtakes the marker"
    assert gate.release() == b"data: [DONE]\n\ndata: late\n\n", "all of it goes on once the response is whole"


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_the_marker_is_held_back_however_the_stream_is_split(cuts: list[int]) -> None:
    gate = DoneGate()
    edges = [0, *sorted(cuts), len(STREAM)]
    passed = b"".join(gate.push(STREAM[a:b]) for a, b in itertools.pairwise(edges))
    assert passed == STREAM[: -len(b"data: [DONE]\n\n")], "the split changes nothing"
    assert passed + gate.release() == STREAM, "no byte is lost or added"


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_the_gate_keeps_every_byte_in_order(pieces: list[bytes]) -> None:
    gate = DoneGate()
    out = b"".join([*(gate.push(piece) for piece in pieces), gate.release()])
    assert out == b"".join(pieces), "a gate delays and does nothing else"


def test_the_marker_without_a_space_is_held_back_too() -> None:
    gate = DoneGate()
    assert gate.push(b"data: 1\n\ndata:[DONE]\n\n") == b"data: 1\n\n", "the format lets the space be absent"


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_events_are_read_however_the_stream_is_split(cuts: list[int]) -> None:
    reader = EventReader()
    edges = [0, *sorted(cuts), len(STREAM)]
    events = [event for a, b in itertools.pairwise(edges) for event in reader.feed(STREAM[a:b])]
    assert events == ['{"a": 1}', '{"text": "data: [DONE]"}', "[DONE]"], "one entry for each data line"


def test_an_event_without_an_end_is_not_kept_for_ever() -> None:
    with pytest.raises(OpenError, match="event of over"):
        EventReader().feed(b"data: " + b"x" * MAX_EVENT_BYTES)
