"""A retry budget: retries may be a fraction of requests, so that they cannot multiply a failure.

With a limit per request only, three attempts each turn an outage into three times the load. A budget bounds the sum:
every request puts `ratio` of a token in, every retry takes one out, and `min_per_s` trickles in so that a quiet
client may retry at all (Finagle's RetryBudget and gRPC's retry throttling work alike).
"""

from __future__ import annotations


class RetryBudget:
    """A token bucket, pure: the caller passes the time, `now` in seconds on any monotonic clock.

    `ratio`: tokens that a request brings (0.2: one retry for five requests). `min_per_s`: tokens that time brings.
    `window_s`: the bucket holds what `min_per_s` brings in that time, and at least one token.
    """

    def __init__(
        self, *, ratio: float = 0.2, min_per_s: float = 10.0, window_s: float = 10.0, now: float = 0.0
    ) -> None:
        if ratio < 0 or min_per_s < 0 or window_s <= 0:
            message = f"ratio={ratio}, min_per_s={min_per_s}, window_s={window_s}: none may be negative, window_s not 0"
            raise ValueError(message)
        self._ratio = ratio
        self._min_per_s = min_per_s
        self.capacity = max(1.0, min_per_s * window_s)
        self._tokens = max(1.0, min_per_s)
        self._then = now
        self.refused = 0
        """Retries that the budget has refused."""

    def record_request(self, now: float) -> None:
        """One first attempt has been made."""
        self._refill(now)
        self._tokens = min(self.capacity, self._tokens + self._ratio)

    def try_retry(self, now: float) -> bool:
        """Take one token for a retry; False, and nothing taken, when there is none."""
        self._refill(now)
        if self._tokens < 1.0:
            self.refused += 1
            return False
        self._tokens -= 1.0
        return True

    @property
    def tokens(self) -> float:
        """Tokens at the last call."""
        return self._tokens

    def _refill(self, now: float) -> None:
        elapsed = max(0.0, now - self._then)
        self._then = max(self._then, now)
        self._tokens = min(self.capacity, self._tokens + elapsed * self._min_per_s)
