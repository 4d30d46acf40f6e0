"""Health of a sidecar: what its parts said last, and what that means for who asks.

Pure. A part that has not reported for `max_age_s` counts as failed: silence is no good news.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass


class Status(enum.Enum):
    """One word for the whole sidecar."""

    STARTING = "starting"
    """Some part has not reported yet and none has failed."""
    HEALTHY = "healthy"
    """Every part is well."""
    DEGRADED = "degraded"
    """Some part has failed or gone silent."""
    DRAINING = "draining"
    """Told to stop: it finishes what it has and takes nothing new."""


@dataclass(frozen=True, slots=True)
class PartHealth:
    """What one part said: whether it is well, why not, and when (seconds, monotonic)."""

    ok: bool
    detail: str
    at: float


class Health:
    """The parts named at construction, all of which must be well for the sidecar to be ready."""

    def __init__(self, parts: Iterable[str], *, monotonic: Callable[[], float], max_age_s: float = 5.0) -> None:
        self._monotonic = monotonic
        self._max_age_s = max_age_s
        self._parts: dict[str, PartHealth | None] = dict.fromkeys(parts)
        self.draining = False

    def report(self, part: str, *, ok: bool, detail: str = "") -> bool:
        """`part` is well or not; returns whether that is news. Raises KeyError for a part never named."""
        before = self._parts[part]
        self._parts[part] = PartHealth(ok, detail, self._monotonic())
        return before is None or before.ok != ok

    def ok(self, part: str) -> bool:
        """Whether `part` has said lately that it is well."""
        last = self._parts[part]
        return last is not None and last.ok and self._monotonic() - last.at <= self._max_age_s

    def why_not(self) -> Mapping[str, str]:
        """Part to reason, for the parts that are not well."""
        return {part: self._reason(last) for part, last in self._parts.items() if not self.ok(part)}

    @property
    def status(self) -> Status:
        """The one word."""
        if self.draining:
            return Status.DRAINING
        if all(map(self.ok, self._parts)):
            return Status.HEALTHY
        failed = any(last is not None and not self.ok(part) for part, last in self._parts.items())
        return Status.DEGRADED if failed else Status.STARTING

    @property
    def ready(self) -> bool:
        """Whether new work may come."""
        return self.status is Status.HEALTHY

    def _reason(self, last: PartHealth | None) -> str:
        if last is None:
            return "has not reported yet"
        age = self._monotonic() - last.at
        if age > self._max_age_s:
            return f"has not reported for {age:.1f} s"
        return last.detail or "is not well"
