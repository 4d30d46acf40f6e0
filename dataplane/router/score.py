"""A host's routing score, 0 to 100, higher is better: queue 50 %, latency 30 %, health 20 %.

Pure. Every part falls smoothly and never reaches a plateau, so that two busy hosts still differ by how busy they are:
where all scores are equal, choosing by score is choosing blindly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

QUEUE_WEIGHT = 50.0
LATENCY_WEIGHT = 30.0
HEALTH_WEIGHT = 20.0
"""The weights add up to 100, which is what makes the score a number from 0 to 100."""

SATURATED_LOAD = 9.0
"""Load, in units of capacity, that a host without a fresh report is taken to have: 1 / (1 + 9) leaves it a tenth of
the queue's points, less than a fresh host at four times its capacity keeps (1 / 5)."""

HALF_LATENCY_MS = 1000.0
"""Time to first byte at which a host has half of the latency's points: about what a person notices as waiting."""

MAX_HEALTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is known of a host at one moment.

    `queue_depth`, `running` and `capacity` are requests, as the host last reported. `in_flight` is how many requests
    of this router it has now, `in_flight_at_report` how many when the report came in: the difference is what the
    report can't know yet. `latency_ms` is the expected time to first byte, `health` 0 to 100. `stale` means the
    report is too old, or the host has just said that it is full.
    """

    queue_depth: int
    running: int
    capacity: int
    in_flight: int
    in_flight_at_report: int
    latency_ms: float
    health: int
    stale: bool


def outstanding(load: Load) -> float:
    """Return the requests that the host is thought to have, waiting and running.

    Never less than this router alone has sent it; for a stale report, as many as a saturated host and ours on top,
    so that stale hosts still differ by what was sent to them.
    """
    capacity = max(1, load.capacity)
    reported = max(0, load.queue_depth) + max(0, load.running)
    if load.stale:
        return max(float(reported), SATURATED_LOAD * capacity) + max(0, load.in_flight)
    since = load.in_flight - load.in_flight_at_report
    return float(max(0, load.in_flight, reported + since))


def score(load: Load) -> float:
    """Return the score, 0 (avoid) to 100 (idle, instant, healthy)."""
    capacity = max(1, load.capacity)
    queue = capacity / (capacity + outstanding(load))
    latency = HALF_LATENCY_MS / (HALF_LATENCY_MS + max(0.0, load.latency_ms))
    health = min(MAX_HEALTH, max(0, load.health)) / MAX_HEALTH
    return QUEUE_WEIGHT * queue + LATENCY_WEIGHT * latency + HEALTH_WEIGHT * health


class Latency:
    """Expected time to first byte of one host, in ms, from what this router saw, with the host's report as prior.

    An average of samples (`ALPHA`) that fades back to the reported figure with a half-life: a host that was slow once
    would otherwise never be asked again and so never be seen to have recovered. A failure counts as
    `FAILURE_MS` at once: a host that fails fast must not look fast.
    """

    ALPHA = 0.3
    HALF_LIFE_S = 10.0
    FAILURE_MS = 10_000.0

    __slots__ = ("_at", "_value")

    def __init__(self) -> None:
        """Know nothing: the prior alone counts."""
        self._value = 0.0
        self._at: float | None = None

    def expected_ms(self, now: float, prior_ms: float) -> float:
        """Return the expectation at `now` (seconds, monotonic), given the host's own report `prior_ms`."""
        prior_ms = max(0.0, prior_ms)
        if self._at is None:
            return prior_ms
        weight = math.exp2(-max(0.0, now - self._at) / self.HALF_LIFE_S)
        return weight * self._value + (1.0 - weight) * prior_ms

    def succeeded(self, sample_ms: float, now: float, prior_ms: float) -> None:
        """Take in one time to first byte."""
        expected = sample_ms if self._at is None else self.expected_ms(now, prior_ms)
        self._value = expected + self.ALPHA * (max(0.0, sample_ms) - expected)
        self._at = now

    def failed(self, now: float, prior_ms: float, *, penalty_ms: float = FAILURE_MS) -> None:
        """Take in a failure, as if the answer had taken `penalty_ms`, or what was expected if that is more."""
        self._value = max(penalty_ms, self.expected_ms(now, prior_ms))
        self._at = now
