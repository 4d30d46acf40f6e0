"""Exact times of one request, for its tenant alone: class S of `observability.disclosure`, sealed, never exported."""

from __future__ import annotations

from collections.abc import Callable


class Timeline:
    """Named stretches of time within one request; microseconds from its start."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Start now. `monotonic` gives seconds."""
        self._monotonic = monotonic
        self._started_s = monotonic()
        self._spans: list[tuple[str, int, int]] = []

    def now_us(self) -> int:
        """Microseconds since the start."""
        return round((self._monotonic() - self._started_s) * 1e6)

    def add(self, name: str, start_us: int, end_us: int) -> None:
        """Add a stretch; an end before its start counts as the start."""
        self._spans.append((name, start_us, max(0, end_us - start_us)))

    def spans(self) -> tuple[tuple[str, int, int], ...]:
        """Name, start and duration of each, in the order in which they were added."""
        return tuple(self._spans)
