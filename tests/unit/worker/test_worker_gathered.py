"""What the parent can count on the hop: frames, and no longer tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
