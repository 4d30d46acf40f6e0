"""When to try again: a pure decision over an attempt's number, the peer's wish and the time left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
"""Answers that may be different elsewhere or later; all others are about the request itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with jitter.

    Seventeen attempts wait 0.1 + 0.2 + 0.4 + 0.8 + 1.6 + 11 * 2 = 25.1 s at most and half of it, 12.55 s, at least:
    longer than the 12 s after which a load balancer has noticed that a region has no router (a check just before it
    died, two failed ones 5 s apart, 2 s for the last to time out), and the accelerator sends elsewhere.
    """

    max_attempts: int = 17
    base_s: float = 0.1
    cap_s: float = 2.0

    def delay_s(
        self, attempt: int, *, remaining_s: float, random: Callable[[], float], retry_after_s: int | None = None
    ) -> float | None:
        """Seconds to wait after failed attempt number `attempt` (from 1), or None to give up.

        Never less than the peer's Retry-After; None when the wait would not leave any time. `random` gives 0 <= x < 1.
        """
        if attempt >= self.max_attempts:
            return None
        backoff = min(self.cap_s, self.base_s * 2 ** (attempt - 1))
        wait = backoff * (0.5 + random() / 2)
        if retry_after_s is not None:
            if retry_after_s >= remaining_s:
                return None
            # The jitter goes on top: everyone was told the same second.
            wait += retry_after_s
        return wait if wait < remaining_s else None
