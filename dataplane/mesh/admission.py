"""Admission: so many requests at once, so many waiting, and a clear refusal for the rest.

A server without a limit answers everyone late; one with a limit and a short queue answers most in time and tells the
others at once, while they can still go elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

from dataplane.protocol.errors import ProblemError


class Admission:
    """At most `max_in_flight` holders and `max_queue` waiters, first come first served, on one event loop."""

    def __init__(self, *, max_in_flight: int, max_queue: int = 0, retry_after_s: int = 1) -> None:
        if max_in_flight < 1 or max_queue < 0:
            message = f"max_in_flight={max_in_flight} must be at least 1 and max_queue={max_queue} at least 0"
            raise ValueError(message)
        self._max_in_flight = max_in_flight
        self._max_queue = max_queue
        self._retry_after_s = retry_after_s
        self._in_flight = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()
        self.refused = 0
        """Requests refused so far."""

    @property
    def in_flight(self) -> int:
        """Slots held now."""
        return self._in_flight

    @property
    def waiting(self) -> int:
        """Requests waiting for a slot now."""
        return len(self._waiters)

    @property
    def capacity(self) -> int:
        """Slots in all."""
        return self._max_in_flight

    @contextlib.asynccontextmanager
    async def slot(self, *, timeout_s: float) -> AsyncIterator[None]:
        """One slot for the block, waiting up to `timeout_s` for it.

        Raises ProblemError `overloaded` (with Retry-After) when the queue is full or the wait too long.
        """
        await self._acquire(timeout_s)
        try:
            yield
        finally:
            self._release()

    async def idle(self) -> None:
        """Return when nothing is in flight and nothing waits; the caller sets the limit in time."""
        await self._idle.wait()

    async def _acquire(self, timeout_s: float) -> None:
        if self._in_flight < self._max_in_flight and not self._waiters:
            self._in_flight += 1
            self._idle.clear()
            return
        if len(self._waiters) >= self._max_queue:
            raise self._overloaded(f"{self._in_flight} requests are in flight and {len(self._waiters)} wait")
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(granted)
        try:
            async with asyncio.timeout(timeout_s):
                await granted
        except BaseException as error:
            if granted.done() and not granted.cancelled():
                self._release()  # the slot had been handed over in the same turn of the loop
            else:
                with contextlib.suppress(ValueError):  # a release in between may have passed over it
                    self._waiters.remove(granted)
                self._note_idle()
            if isinstance(error, TimeoutError):
                raise self._overloaded(f"no slot came free within {timeout_s:.3g} s") from None
            raise

    def _release(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)  # the slot changes hands: the count stays
                return
        self._in_flight -= 1
        self._note_idle()

    def _note_idle(self) -> None:
        if self._in_flight == 0 and not self._waiters:
            self._idle.set()

    def _overloaded(self, why: str) -> ProblemError:
        self.refused += 1
        return ProblemError(
            "overloaded", f"This server is full: {why}; try again later.", retry_after_s=self._retry_after_s
        )
