"""What the parent can count on the hop: frames, and no longer tokens."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from dataplane.protocol.gather import FrameGatherer
from dataplane.worker.gathered import gathered


async def pieces(texts: Sequence[bytes], *, fails: bool = False) -> AsyncIterator[bytes]:
    for text in texts:
        await asyncio.sleep(0)
        yield text
    if fails:
        raise ValueError("broken off")


async def collect(texts: Sequence[bytes]) -> list[bytes]:
    async with aclosing(gathered(pieces(texts), monotonic=lambda: 0.0)) as frames:
        return [frame async for frame in frames]


async def test_sixty_tokens_within_one_tick_are_two_frames() -> None:
    frames = await collect([b"token"] * 60)
    assert [len(frame) for frame in frames] == [5, 295], "the first at once, the rest as one: 60 can't be counted"


@given(st.lists(st.binary(max_size=5000), max_size=12))
def test_nothing_is_lost_or_reordered(texts: list[bytes]) -> None:
    assert b"".join(asyncio.run(collect(texts))) == b"".join(texts), "every byte comes, in order"


async def test_what_waits_is_sent_when_its_time_has_come() -> None:
    more = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"1"
        yield b"2"
        await more.wait()
        yield b"3"

    async with asyncio.timeout(5), aclosing(gathered(slow(), monotonic=asyncio.get_running_loop().time)) as frames:
        assert [await anext(frames), await anext(frames)] == [b"1", b"2"], "a slow engine does not hold a token back"
        more.set()
        assert b"".join([frame async for frame in frames]) == b"3", "and the rest follows"


async def test_a_failure_is_raised_and_leaving_early_cancels_the_read() -> None:
    with pytest.raises(ValueError, match="broken off"):
        async with aclosing(gathered(pieces([b"a"], fails=True), monotonic=lambda: 0.0)) as frames:
            assert [frame async for frame in frames] == [b"a"], "never reached: the failure comes first"
    ended = False

    async def endless() -> AsyncIterator[bytes]:
        nonlocal ended
        try:
            yield b"a"
            await asyncio.Event().wait()
        finally:
            ended = True

    async with aclosing(gathered(endless(), monotonic=lambda: 0.0)) as frames:
        assert await anext(frames) == b"a", "the first piece"
        await asyncio.sleep(0)
    assert ended, "the engine's body is told to end, so that its request is aborted"


class Jumping(selectors.DefaultSelector):
    """Lets a loop's time pass at once where the loop would wait."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop of virtual time."""

    def __init__(self) -> None:
        self.clock = Jumping()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


Flow = list[tuple[bytes, float]]
"""Data with the second at which it comes."""


SIZES = st.sampled_from([1, 40, 300, 2000, 4095, 4096])


def as_written(flow: Flow) -> Flow:
    """What the protocol makes of a flow: the gatherer called with the right times, and no loop, task or timer."""
    gatherer, out = FrameGatherer(), []
    for data, now in flow:
        due = gatherer.due_at
        assume(due is None or abs(due - now) > 1e-6)  # at one and the same time either may be first
        if due is not None and due < now:
            out.append((gatherer.flush(due), due))
        out += [(frame, now) for frame in gatherer.push(data, now)]
    rest = gatherer.flush()
    return [*out, (rest, flow[-1][1])] if rest else out


async def as_run(flow: Flow, *, pauses: Sequence[float] = ()) -> Flow:
    """Run it; the reader takes its time over each frame, as `pauses` says."""
    now = asyncio.get_running_loop().time
    resting = iter(pauses)
    seen = []

    async def engine() -> AsyncIterator[bytes]:
        for data, at in flow:
            await asyncio.sleep(at - now())
            yield data

    async with aclosing(gathered(engine(), monotonic=now)) as frames:
        async for frame in frames:
            seen.append((frame, now()))
            await asyncio.sleep(next(resting, 0.0))
    return seen


TOKENS = st.lists(st.tuples(SIZES.map(bytes), st.floats(0, 0.05)), min_size=1, max_size=20)


def flow_of(tokens: list[tuple[bytes, float]]) -> Flow:
    at, flow = 0.0, []
    for data, pause in tokens:
        at += pause
        flow.append((data, at))
    return flow


@example([(b"1", 0.0), (b"2", 0.001), (bytes(4096), 0.009), (b"3", 0.001), (b"4", 0.015)])  # 2's time is not 3's
@given(TOKENS)
def test_frames_leave_as_the_gatherer_says_to_the_microsecond(tokens: list[tuple[bytes, float]]) -> None:
    flow = flow_of(tokens)
    expected = as_written(flow)
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        seen = runner.run(as_run(flow))
    assert [frame for frame, _ in seen] == [frame for frame, _ in expected], "the same frames"
    assert [when for _, when in seen] == pytest.approx([when for _, when in expected], abs=1e-6), "at the same times"


@given(TOKENS, st.lists(st.floats(0, 0.2), max_size=20))
def test_a_slow_reader_gets_every_byte_in_order(tokens: list[tuple[bytes, float]], pauses: list[float]) -> None:
    flow = [(bytes([index]) * len(data), at) for index, (data, at) in enumerate(flow_of(tokens))]
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        seen = runner.run(as_run(flow, pauses=pauses))
    assert b"".join(frame for frame, _ in seen) == b"".join(data for data, _ in flow), "whatever piles up behind it"


async def test_a_reader_that_takes_nothing_stops_the_engine() -> None:
    made = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal made
        while True:
            await asyncio.sleep(0)
            made += 1
            yield b"x" * 1024

    async with aclosing(gathered(endless(), monotonic=lambda: 0.0)) as frames:
        await anext(frames)
        for _ in range(200):
            await asyncio.sleep(0)
    assert made <= 10, "two frames of 4 KiB wait at most, whatever the engine could make"


async def test_a_piece_costs_no_task_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = 0
    loop = asyncio.get_running_loop()
    make = loop.create_task

    def counting(*given: Any, **named: Any) -> asyncio.Task[Any]:
        nonlocal tasks
        tasks += 1
        return make(*given, **named)

    monkeypatch.setattr(loop, "create_task", counting)
    await collect([b"token"] * 500)
    assert tasks == 1, "hundreds of streams share one loop, and a piece is a token"
