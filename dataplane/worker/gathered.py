"""An engine's pieces, joined before they are sealed to the enclave: one frame a piece would count the tokens in clear.

The parent relays the hop and sees its frames. The hop gathers as the response does (docs/protocol.md): the first piece
at once, so that the time to it stays what it is; then what came within 20 ms, or 4 KiB, is one frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from dataplane.protocol.gather import FrameGatherer


async def gathered(pieces: AsyncIterator[bytes], *, monotonic: Callable[[], float]) -> AsyncGenerator[bytes, None]:
    """Yield what `pieces` yields, joined.

    What `pieces` raises is raised as soon as no frame is due; what then gathers is dropped. Close it
    (`contextlib.aclosing`): it owns the task that reads `pieces`.
    """
    frames = _Frames(monotonic)
    reading = asyncio.create_task(frames.fill(pieces), name="gather")
    reading.add_done_callback(frames.wake)
    try:
        while frames.waiting or not reading.done():
            if frame := frames.take():
                yield frame
            else:
                await frames.wait()
        await reading
        if rest := frames.rest():
            yield rest
    finally:
        frames.close()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


class _Frames:
    """What one task reads and another takes: a frame that is due, and what gathers behind it.

    A piece costs no task and no wait of its own: hundreds of streams come through one loop, a piece a token.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._gatherer = FrameGatherer()
        self._due = b""
        self._changed = asyncio.Event()
        self._taken = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    async def fill(self, pieces: AsyncIterator[bytes]) -> None:
        """Read to the end. A frame waits for the one before to be taken, so a slow reader slows the engine."""
        async for piece in pieces:
            for frame in self._gatherer.push(piece, self._monotonic()):
                self.close()  # the timer was for what this frame has taken along
                while self._due:
                    self._taken.clear()
                    await self._taken.wait()
                self._hand_over(frame)
            self._set_timer()

    @property
    def waiting(self) -> bool:
        """Whether a frame is due."""
        return bool(self._due)

    def take(self) -> bytes:
        """Return the frame that is due, or nothing."""
        frame, self._due = self._due, b""
        if frame:
            self._taken.set()
            self._set_timer()
        return frame

    async def wait(self) -> None:
        """Wait until there is something to look at."""
        await self._changed.wait()
        self._changed.clear()

    def wake(self, _reading: asyncio.Task[None]) -> None:
        """Have whoever waits look."""
        self._changed.set()

    def rest(self) -> bytes:
        """Return what waits at the end."""
        return self._gatherer.flush()

    def close(self) -> None:
        """Have nothing fall due any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hand_over(self, frame: bytes) -> None:
        self._due = frame
        self._changed.set()

    def _set_timer(self) -> None:
        """Have what gathers fall due in its time; behind a frame that is not taken yet, when that is taken."""
        due_at = self._gatherer.due_at
        if due_at is None or self._timer is not None or self._due:
            return
        self._timer = asyncio.get_running_loop().call_later(max(0.0, due_at - self._monotonic()), self._fall_due)

    def _fall_due(self) -> None:
        self._timer = None
        if not self._due:
            self._hand_over(self._gatherer.flush(self._monotonic()))
