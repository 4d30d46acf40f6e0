"""An engine's pieces, joined before they are sealed to the enclave: one frame a piece would count the tokens in clear.

The parent relays the hop and sees its frames. The hop gathers as the response does (docs/protocol.md): the first piece
at once, so that the time to it stays what it is; then what came within 20 ms, or 4 KiB, is one frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from dataplane.protocol.gather import FrameGatherer


async def gathered(pieces: AsyncIterator[bytes], *, monotonic: Callable[[], float]) -> AsyncGenerator[bytes, None]:
    """Yield what `pieces` yields, joined; whatever it raises is raised at once, and what then waits is dropped.

    Close it (`contextlib.aclosing`): it owns the one read of `pieces` that may be pending.
    """
    gatherer = FrameGatherer()
    reading = asyncio.ensure_future(_next(pieces))
    try:
        while True:
            due_at = gatherer.due_at
            await asyncio.wait({reading}, timeout=None if due_at is None else max(0.0, due_at - monotonic()))
            if not reading.done():
                yield gatherer.flush(monotonic())
                continue
            piece = reading.result()
            if piece is None:
                break
            reading = asyncio.ensure_future(_next(pieces))
            for frame in gatherer.push(piece, monotonic()):
                yield frame
        if rest := gatherer.flush():
            yield rest
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _next(pieces: AsyncIterator[bytes]) -> bytes | None:
    async for piece in pieces:
        return piece
    return None
