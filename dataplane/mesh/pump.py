"""Copies bytes between two streams, both ways, without looking at them.

Used by the enclave proxy and by the loopback bridge inside the enclave. A half-close on one side becomes a
half-close on the other; a broken side breaks the other. Each direction holds at most one reader's buffer and one
writer's (asyncio pauses the reader at twice its limit, and `drain` holds the writer at its high-water mark), so a
slow side slows the other down and costs no memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

CHUNK_BYTES = 65_536
"""Most bytes moved at once: one message of the host link, and one read of a socket."""

CLOSE_TIMEOUT_S = 1.0
"""How long a stream may take to close before its transport is aborted."""

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(slots=True)
class PumpReport:
    """How one pair of streams ended: bytes each way and `ended`: `closed`, `idle` or `broken`."""

    up: int = 0
    down: int = 0
    ended: str = "closed"


class _Quiet(Exception):  # noqa: N818 - a signal between two copies, not an error that leaves this module
    """Nothing moved in either direction for the whole idle time."""


async def pump(left: Stream, right: Stream, *, idle_timeout_s: float, monotonic: Callable[[], float]) -> PumpReport:
    """Copy until both sides have ended, one has broken, or nothing moved for `idle_timeout_s` seconds.

    `up` counts bytes from `left` to `right`. Both streams are closed on return, cancelled or not.
    """
    report = PumpReport()
    activity = _Activity(monotonic, idle_timeout_s)
    try:
        async with asyncio.TaskGroup() as group:
            up = group.create_task(_copy(left[0], right[1], activity))
            down = group.create_task(_copy(right[0], left[1], activity))
    except* _Quiet:
        report.ended = "idle"
    except* OSError:
        report.ended = "broken"
    finally:
        report.up, report.down = activity.moved[id(right[1])], activity.moved[id(left[1])]
        broken = report.ended != "closed" or not (up.done() and down.done()) or up.cancelled() or down.cancelled()
        await asyncio.shield(_close_both(left[1], right[1], abort=broken))
    return report


class _Activity:
    """When something last moved, and how much went to each writer."""

    def __init__(self, monotonic: Callable[[], float], idle_timeout_s: float) -> None:
        self._monotonic = monotonic
        self._idle_timeout_s = idle_timeout_s
        self._last = monotonic()
        self.moved: dict[int, int] = {}

    def touch(self, writer: asyncio.StreamWriter, count: int) -> None:
        self._last = self._monotonic()
        self.moved[id(writer)] = self.moved.get(id(writer), 0) + count

    def remaining_s(self) -> float:
        """Seconds until the pair counts as idle; zero or less when it does."""
        return self._last + self._idle_timeout_s - self._monotonic()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, activity: _Activity) -> None:
    activity.touch(writer, 0)
    while True:
        data = await _read(reader, activity)
        if not data:
            break
        activity.touch(writer, len(data))
        writer.write(data)
        try:
            async with asyncio.timeout(max(activity.remaining_s(), 0)):
                await writer.drain()
        except TimeoutError:
            raise _Quiet from None
        activity.touch(writer, 0)
    # The other side may have gone already; then there is nobody to tell.
    with contextlib.suppress(OSError):
        if writer.can_write_eof():
            writer.write_eof()


async def _read(reader: asyncio.StreamReader, activity: _Activity) -> bytes:
    """Read what there is; the other direction's bytes keep this one alive."""
    while True:
        try:
            async with asyncio.timeout(max(activity.remaining_s(), 0)):
                return await reader.read(CHUNK_BYTES)
        except TimeoutError:
            if activity.remaining_s() <= 0:
                raise _Quiet from None


async def _close_both(*writers: asyncio.StreamWriter, abort: bool) -> None:
    for writer in writers:
        if abort:
            writer.transport.abort()
    await asyncio.gather(*(close_writer(writer) for writer in writers))


async def close_writer(writer: asyncio.StreamWriter) -> None:
    """Close `writer` within `CLOSE_TIMEOUT_S`, flushing what it holds; after that its transport is aborted."""
    try:
        writer.close()
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        writer.transport.abort()
