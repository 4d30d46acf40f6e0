"""A bound on the request bytes that the enclave holds at once: an enclave's memory is fixed when it starts."""

from __future__ import annotations

from dataplane.protocol.errors import ProblemError

MAX_REQUEST_BYTES = 256 * 1024 * 1024
"""Envelope bytes held by all requests together. What they hold beside it (message, hop ciphertext) is at most as much
twice over, so requests take 768 MiB at most; 60 of the largest bodies (4.3 MB), or 8,000 of 32 KiB."""

RETRY_AFTER_S = 1


class ByteBudget:
    """Counts bytes out and in; pure."""

    def __init__(self, limit: int = MAX_REQUEST_BYTES) -> None:
        """Allow `limit` bytes at once."""
        self._limit = limit
        self.used = 0

    def reserve(self, count: int) -> None:
        """Take `count` bytes, or raise `ProblemError` (`overloaded`) and take none."""
        if self.used + count > self._limit:
            raise ProblemError(
                "overloaded",
                "The enclave holds as many request bytes as it has memory for; try again shortly.",
                retry_after_s=RETRY_AFTER_S,
            )
        self.used += count

    def release(self, count: int) -> None:
        """Give `count` bytes back."""
        self.used -= count


class Reservation:
    """What one request has taken; given back once, however often `close` is called."""

    def __init__(self, budget: ByteBudget) -> None:
        """Start with nothing taken."""
        self._budget = budget
        self._held = 0

    def add(self, count: int) -> None:
        """Take `count` more bytes; raises as `ByteBudget.reserve`."""
        self._budget.reserve(count)
        self._held += count

    def close(self) -> None:
        """Give everything back."""
        self._budget.release(self._held)
        self._held = 0
