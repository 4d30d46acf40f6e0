"""What the worker counts about its requests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """Requests since the start. One is counted once, when it ends."""

    total: int = 0
    failed: int = 0
    seconds: float = 0.0

    def ended(self, seconds: float, *, failed: bool) -> None:
        """Count one request and how long it took; a client that left is neither success nor failure of ours."""
        self.total += 1
        self.failed += failed
        self.seconds += seconds

    def as_map(self) -> dict[str, object]:
        """The `requests` map of the `stats` reply."""
        return {
            "total": self.total,
            "failed": self.failed,
            "avg_s": self.seconds / self.total if self.total else 0.0,
        }
