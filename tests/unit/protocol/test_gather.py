"""Tokens into frames: the first at once, then by time or size, and nothing is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol.gather import FrameGatherer


def due(gatherer: FrameGatherer) -> float | None:
    return gatherer.due_at


def test_the_first_token_is_sent_at_once() -> None:
    assert FrameGatherer().push(b"first", 100.0) == [b"first"], "time to first token pays no delay"


def test_tokens_within_20_ms_wait_for_each_other() -> None:
    gatherer = FrameGatherer()
    gatherer.push(b"first", 0.0)
    assert gatherer.push(b"a", 0.005) == [], "too early"
    assert gatherer.push(b"b", 0.019) == [], "still too early"
    assert due(gatherer) == 0.020, "20 ms after the frame before"
    assert gatherer.flush(0.020) == b"ab", "one frame for both"
    assert due(gatherer) is None, "nothing waits"
    assert gatherer.push(b"c", 0.040) == [b"c"], "20 ms later a token goes at once"


def test_4_kib_are_sent_without_waiting() -> None:
    gatherer = FrameGatherer()
    gatherer.push(b"first", 0.0)
    assert gatherer.push(b"x" * 4095, 0.001) == [], "one byte short"
    assert gatherer.push(b"y", 0.002) == [b"x" * 4095 + b"y"], "full"


def test_the_end_of_the_stream_sends_the_rest() -> None:
    gatherer = FrameGatherer()
    assert gatherer.flush() == b"", "nothing came"
    gatherer.push(b"first", 0.0)
    gatherer.push(b"rest", 0.001)
    assert gatherer.flush() == b"rest", "whatever waits"


def test_empty_data_makes_no_frame() -> None:
    gatherer = FrameGatherer()
    assert gatherer.push(b"", 0.0) == [], "nothing to send"
    assert gatherer.due_at is None, "and nothing due"
    assert gatherer.push(b"first", 5.0) == [b"first"], "the first token is still the first"


@given(tokens=st.lists(st.tuples(st.binary(max_size=3000), st.floats(0, 0.05)), max_size=40))
def test_nothing_is_lost_reordered_or_late(tokens: list[tuple[bytes, float]]) -> None:
    gatherer, now, out = FrameGatherer(), 0.0, []
    for data, pause in tokens:
        due = gatherer.due_at
        if due is not None and due <= now + pause:
            out.append(gatherer.flush(due))
        now += pause
        frames = gatherer.push(data, now)
        out += frames
        assert all(frames), "no empty frame"
        next_due = gatherer.due_at
        assert next_due is None or next_due > now - 1e-9, "what waits is due in the future"
        assert len(gatherer._pending) < 4096, "less than a frame waits"
    out.append(gatherer.flush())
    assert b"".join(out) == b"".join(data for data, _ in tokens), "the same bytes in the same order"


Flow = list[tuple[bytes, float]]
"""Data with the second at which it comes."""


def gathered(flow: Flow) -> Flow:
    """What a gatherer makes of a flow whose end is not the stream's: every frame with its time."""
    gatherer, out = FrameGatherer(), []
    for data, now in flow:
        due = gatherer.due_at
        if due is not None and due <= now:
            out.append((gatherer.flush(due), due))
        out += [(frame, now) for frame in gatherer.push(data, now)]
    due = gatherer.due_at
    return out if due is None else [*out, (gatherer.flush(due), due)]


def times(flow: Flow) -> list[float]:
    """When each byte of a flow is there."""
    return [now for data, now in flow for _ in data]


@given(
    tokens=st.lists(st.tuples(st.binary(min_size=1, max_size=3000), st.floats(0, 0.05)), max_size=30),
    way=st.lists(st.floats(0, 0.01), min_size=100, max_size=100),
)
def test_the_worker_and_the_enclave_gather_one_after_the_other_and_nobody_waits_twice(
    tokens: list[tuple[bytes, float]], way: list[float]
) -> None:
    now, engine = 0.0, []
    for data, pause in tokens:
        now += pause
        engine.append((data, now))
    worker = gathered(engine)
    arrived, last = [], 0.0
    for (frame, left), takes in zip(worker, way, strict=False):
        last = max(last, left + takes)  # the hop keeps the order
        arrived.append((frame, last))
    tenant = gathered(arrived)
    assert b"".join(frame for frame, _ in tenant) == b"".join(data for data, _ in engine), "control: all came through"
    slowest = max(way)
    for left, came in zip(times(worker), times(tenant), strict=True):
        assert came <= left + slowest + 1e-9, "the second gathering adds the hop's own jitter, and no 20 ms of its own"
    for made, left in zip(times(engine), times(worker), strict=True):
        assert left <= made + 0.020 + 1e-9, "and the first one at most 20 ms"
