"""Gathers tokens into frames: the first at once, then one frame per 20 ms or per 4 KiB, whichever comes first."""

from __future__ import annotations

from typing import Final

MAX_GATHER_BYTES: Final = 4096
MAX_GATHER_DELAY_S: Final = 0.020


class FrameGatherer:
    """Pure: times are given in, in seconds of any monotonic clock.

    The caller pushes data as it comes, seals what `push` returns, and calls `flush(now)` when `due_at` has passed and
    `flush()` at the end of the stream. At most `max_bytes` - 1 bytes wait between two calls.
    """

    def __init__(self, max_bytes: int = MAX_GATHER_BYTES, max_delay_s: float = MAX_GATHER_DELAY_S) -> None:
        """A frame is due at `max_bytes` of data or `max_delay_s` after the frame before it."""
        self._max_bytes = max_bytes
        self._max_delay_s = max_delay_s
        self._pending = bytearray()
        self._last: float | None = None

    def push(self, data: bytes, now: float) -> list[bytes]:
        """Add data and return the frames' data that are due at `now`: none or one."""
        self._pending += data
        if not self._pending:
            return []
        due = self._last is None or now - self._last >= self._max_delay_s or len(self._pending) >= self._max_bytes
        return [self.flush(now)] if due else []

    @property
    def due_at(self) -> float | None:
        """When what waits must be flushed; None while nothing waits."""
        return self._last + self._max_delay_s if self._pending and self._last is not None else None

    def flush(self, now: float | None = None) -> bytes:
        """Return all that waits, possibly nothing; `now` starts the next delay, and is left out at the stream's end."""
        data = bytes(self._pending)
        self._pending.clear()
        if now is not None and data:
            self._last = now
        return data
