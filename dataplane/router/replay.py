"""A request's body on its way through: kept only as long, and only as much, as a retry could need it.

The router never reads an envelope. It keeps the bytes that it has passed on until the first byte of an answer has
come, so that another host can be given the same request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from dataplane.protocol.errors import ProblemError
from dataplane.router.head import MAX_REQUEST_BYTES

REPLAY_TOTAL_BYTES = 64 * 1024 * 1024
"""Bytes kept for retries in the whole process: 15 requests of the largest size (4,268,062 bytes), or 16,384 of the
usual 4 KiB. A request that finds no room is passed on all the same, and just can't be tried again."""

BODY_IDLE_S = 15.0
"""Longest pause within a body: a 64 KiB piece needs less at 40 kbit/s; longer, and a slow writer holds a host."""


class ReplayStore:
    """How many bytes all requests together keep."""

    def __init__(self, *, total_bytes: int = REPLAY_TOTAL_BYTES) -> None:
        """Start empty."""
        self._total = total_bytes
        self.used = 0

    def reserve(self, size: int) -> bool:
        """Take `size` bytes if they fit."""
        if self.used + size > self._total:
            return False
        self.used += size
        return True

    def release(self, size: int) -> None:
        """Give `size` bytes back."""
        self.used -= size


class RequestBody:
    """One body. `read` returns the next piece, and b"" at the end; it raises `OSError` or `ValueError` on a bad body.

    `fault` is what was wrong with the body itself, if anything: the tenant's fault, and never the host's.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[bytes]],
        *,
        store: ReplayStore,
        max_bytes: int = MAX_REQUEST_BYTES,
        idle_s: float = BODY_IDLE_S,
    ) -> None:
        """Read nothing yet."""
        self._read = read
        self._store = store
        self._max_bytes = max_bytes
        self._idle_s = idle_s
        self._kept: list[bytes] | None = []
        self._reserved = 0
        self._lock = asyncio.Lock()
        self._lost = False
        self.received = 0
        self.complete = False
        self.fault: ProblemError | None = None

    @property
    def replayable(self) -> bool:
        """Whether a further attempt would see the body from its first byte."""
        return self.fault is None and not self._lost

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the body from its start, for one attempt; raises `ProblemError` if the body itself is bad.

        Attempts follow one another. One that was given up may still be waiting for a piece: the lock lets it finish,
        and what it read is kept for its successor.
        """
        position = 0
        while True:
            if self._kept is not None and position < len(self._kept):
                piece = self._kept[position]
                position += 1
                yield piece
                continue
            async with self._lock:
                if self._kept is not None and position < len(self._kept):
                    continue
                if self.complete and self.fault is None:
                    return
                piece = await self._next()
            if not piece:
                return
            position += 1
            yield piece

    def stop_keeping(self) -> None:
        """Forget what was kept: an answer has begun, or the request has ended. Calling it again does nothing."""
        if self._kept:
            self._lost = True
        self._kept = None
        self._store.release(self._reserved)
        self._reserved = 0

    async def _next(self) -> bytes:
        if self.fault is not None:
            raise self.fault
        try:
            async with asyncio.timeout(self._idle_s):
                piece = await self._read()
        except TimeoutError:
            raise self._bad(
                "malformed-envelope",
                f"The body stopped for {self._idle_s:g} s after {self.received} bytes; send it without a pause.",
            ) from None
        except (OSError, ValueError):
            raise self._bad(
                "malformed-envelope", f"The body ended wrongly after {self.received} bytes; send all of it."
            ) from None
        if not piece:
            self.complete = True
            if self.received == 0:
                raise self._bad("malformed-envelope", "The request's body is empty; send the envelope.")
            return b""
        self.received += len(piece)
        if self.received > self._max_bytes:
            raise self._bad("too-large", f"The body is over {self._max_bytes} bytes, the most an envelope has.")
        self._keep(piece)
        return piece

    def _keep(self, piece: bytes) -> None:
        if self._kept is None:
            self._lost = True
        elif self._store.reserve(len(piece)):
            self._reserved += len(piece)
            self._kept.append(piece)
        else:
            self.stop_keeping()
            self._lost = True

    def _bad(self, code: str, sentence: str) -> ProblemError:
        self.fault = ProblemError(code, sentence)
        return self.fault
