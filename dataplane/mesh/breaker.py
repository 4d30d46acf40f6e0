"""A circuit breaker for one peer: after some failures in a row nothing is sent to it for a while, then one probe.

Pure: the caller passes `now`, seconds on any monotonic clock.
"""

from __future__ import annotations

import enum


class BreakerState(enum.Enum):
    """What the breaker lets through."""

    CLOSED = "closed"
    """Everything."""
    OPEN = "open"
    """Nothing until the time is up."""
    HALF_OPEN = "half-open"
    """One request, the probe."""


class CircuitBreaker:
    """Opens after `failures` failures in a row, for `open_s` seconds, doubled per failed probe up to `max_open_s`.

    A caller asks `allow(now)`, and when it says True reports exactly one of `success`, `failure` or `release`
    (neither: cancelled, or refused for a reason that says nothing of the peer). A probe whose report never comes is
    given up after `probe_s`, so that a lost caller cannot shut a peer out for ever.
    """

    def __init__(
        self, *, failures: int = 5, open_s: float = 1.0, max_open_s: float = 30.0, probe_s: float = 30.0
    ) -> None:
        if failures < 1 or open_s <= 0 or max_open_s < open_s or probe_s <= 0:
            message = f"failures={failures}, open_s={open_s}, max_open_s={max_open_s}, probe_s={probe_s}: out of range"
            raise ValueError(message)
        self._limit = failures
        self._first_open_s = open_s
        self._max_open_s = max_open_s
        self._probe_s = probe_s
        self._open_s = open_s
        self._failures = 0
        self._open_until: float | None = None
        self._probe_until: float | None = None

    def state(self, now: float) -> BreakerState:
        """The state at `now`; asking changes nothing."""
        if self._open_until is None:
            return BreakerState.CLOSED
        if now < self._open_until:
            return BreakerState.OPEN
        return BreakerState.HALF_OPEN

    def would_allow(self, now: float) -> bool:
        """Whether `allow` would say True, without taking the probe: for choosing among peers."""
        if self._open_until is None:
            return True
        return now >= self._open_until and (self._probe_until is None or now >= self._probe_until)

    def allow(self, now: float) -> bool:
        """Whether a request may be sent now; in the half-open state True goes to one caller at a time."""
        if not self.would_allow(now):
            return False
        if self._open_until is not None:
            self._probe_until = now + self._probe_s
        return True

    def success(self, now: float) -> None:  # noqa: ARG002 - the three reports are called alike
        """A request that was allowed has succeeded: the breaker closes."""
        self._failures = 0
        self._open_s = self._first_open_s
        self._open_until = None
        self._probe_until = None

    def failure(self, now: float) -> None:
        """A request that was allowed has failed."""
        if self._open_until is not None:
            if now < self._open_until:
                return  # sent before the breaker opened: it has been counted in
            self._open_s = min(self._max_open_s, self._open_s * 2)
            self._open_until = now + self._open_s
            self._probe_until = None
            return
        self._failures += 1
        if self._failures >= self._limit:
            self._open_until = now + self._open_s

    def release(self, now: float) -> None:  # noqa: ARG002 - the three reports are called alike
        """A request that was allowed has ended and says nothing of the peer."""
        self._probe_until = None
