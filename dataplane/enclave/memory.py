"""A bound on the request bytes that the enclave holds at once: an enclave's memory is fixed when it starts.

A request's reservation follows what it holds: ciphertext until the data key is there, plaintext until the worker has
it, nothing while the answer is relayed.
"""

from __future__ import annotations

from dataplane.protocol.errors import ProblemError

MAX_REQUEST_BYTES = 256 * 1024 * 1024
"""Bytes held by all requests together: 60 of the largest bodies (4.3 MB) that wait for their key, 256 of the largest
messages, or 8,000 of 32 KiB. A buffer that grows is up to an eighth larger than what is in it, so 288 MiB. Beside it
stand the copies of one message (4 MiB, whatever the number of requests) while it is turned from the tenant's into the
worker's: that is one step of the loop, so there is one of them."""

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

    def hold(self, count: int) -> None:
        """Hold `count` bytes from now on; raises as `ByteBudget.reserve` where that is more than before."""
        if count > self._held:
            self._budget.reserve(count - self._held)
        else:
            self._budget.release(self._held - count)
        self._held = count

    def close(self) -> None:
        """Give everything back."""
        self._budget.release(self._held)
        self._held = 0
