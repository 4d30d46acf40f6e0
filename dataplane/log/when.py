"""Times for people."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_text(time_s: int | None) -> str:
    """Seconds since 1970 for people, as 2026-01-31T12:00:00Z; never fails."""
    if time_s is None:
        return "at an unsaid time"
    try:
        return datetime.fromtimestamp(time_s, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{time_s} s after 1970"
