"""A load balancer's view of its target: healthy after so many good checks in a row, unhealthy after so many bad.

Source: Elastic Load Balancing, "Health checks for Network Load Balancer target groups": interval 5 to 300 s, thresholds
2 to 10, timeout 2 to 120 s. A new target is `initial` until its first verdict, and takes no traffic before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

MIN_INTERVAL_S = 5.0
MIN_THRESHOLD = 2
MIN_TIMEOUT_S = 2.0
"""The least that a real network load balancer accepts; the emulator's defaults."""

State = Literal["initial", "healthy", "unhealthy"]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Checks in a row that change the verdict; a real balancer's bounds are not enforced: tests are quicker."""

    healthy: int = MIN_THRESHOLD
    unhealthy: int = MIN_THRESHOLD


@dataclass(frozen=True, slots=True)
class TargetHealth:
    """The verdict on one target and the checks since the verdict last agreed with them."""

    state: State = "initial"
    good: int = 0
    bad: int = 0

    def after(self, *, passed: bool, thresholds: Thresholds) -> TargetHealth:
        """Return the health after one more check."""
        if passed:
            checked = replace(self, good=self.good + 1, bad=0)
            # A target that has just been registered counts after its first good check ("one successful health check").
            needed = 1 if self.state == "initial" else thresholds.healthy
            return replace(checked, state="healthy") if checked.good >= needed else checked
        checked = replace(self, good=0, bad=self.bad + 1)
        return replace(checked, state="unhealthy") if checked.bad >= thresholds.unhealthy else checked
