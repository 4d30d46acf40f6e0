"""What the worker counts about its requests, and what of it may be told."""

from __future__ import annotations

from dataclasses import dataclass, field

from dataplane.worker.release import Release, Sample


@dataclass(slots=True)
class Tally:
    """Requests since the start, counted once each when they end, and the figures of those that were answered.

    How many ended and how many failed the parent knows, for it carried them. Everything else goes through `Release`.
    """

    total: int = 0
    failed: int = 0
    release: Release = field(default_factory=Release, repr=False)

    def ended(self, *, failed: bool) -> None:
        """Count one request; a client that left is neither success nor failure of ours."""
        self.total += 1
        self.failed += failed

    def answered(self, sample: Sample, *, now_s: float) -> None:
        """Take the figures of one request that was answered to its end, whatever its inner status."""
        self.release.add(sample, now_s=now_s)

    def as_maps(self, *, now_s: float) -> dict[str, object]:
        """The members `requests`, `released` and `kv_cache_usage` of the `stats` reply."""
        released = self.release.totals(now_s=now_s)
        return {
            "requests": {"total": self.total, "failed": self.failed, "avg_s": released.average_s},
            "released": released.as_map(),
            "kv_cache_usage": released.kv_cache_usage,
        }
