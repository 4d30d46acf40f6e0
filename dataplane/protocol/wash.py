"""A car wash: the moment when a worker's host was emptied between tenants, named by 16 random bytes.

A worker's start is none: who has washed nothing has no wash to name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from dataplane.protocol.errors import OpenError
from dataplane.protocol.receipt import check_wash

WASH_ID_BYTES: Final = 16
TIME_BYTES: Final = 8
MAX_TIME_MS: Final = 2**53
"""Times in ms since 1970 stay below this, so that every reader holds them exactly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wash:
    """One car wash: `id` (16 bytes, not all zero) and `time_ms`, ms since 1970, above 0."""

    id: bytes
    time_ms: int

    def __post_init__(self) -> None:
        """Raise `ValueError` for what would read like no wash at all in `wash_bytes`."""
        if len(self.id) != WASH_ID_BYTES or not any(self.id):
            raise ValueError(f"a wash's id is {WASH_ID_BYTES} bytes that are not all zero")
        if not 0 < self.time_ms < MAX_TIME_MS:
            raise ValueError("a wash's time is ms since 1970, above 0")

    def as_map(self) -> dict[str, str | int]:
        """Return `{"id": 32 hex digits, "time": ms}`, as bindings, hop tails and receipts carry it."""
        return {"id": self.id.hex(), "time": self.time_ms}

    @classmethod
    def from_map(cls, value: object, what: str) -> Self:
        """Read what `as_map` made; `OpenError` naming `what` for anything else."""
        check_wash(value, what)
        fields = value if isinstance(value, dict) else {}
        try:
            made = cls(id=bytes.fromhex(fields["id"]), time_ms=fields["time"])
        except ValueError:
            made = None
        # One spelling each: `fromhex` would take spaces and capitals as well.
        if made is None or made.as_map() != fields:
            raise OpenError(f"the {what}'s wash needs {2 * WASH_ID_BYTES} hex digits in id and a time above 0")
        return made


def wash_bytes(wash: Wash | None) -> bytes:
    """Return the 24 bytes that a worker's binding digest has of its wash: id and u64 time; zeros for none."""
    if wash is None:
        return bytes(WASH_ID_BYTES + TIME_BYTES)
    return wash.id + wash.time_ms.to_bytes(TIME_BYTES)
