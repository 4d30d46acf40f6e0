"""Why a log, or something that claims to come from one, is refused."""

from __future__ import annotations

from typing import Final

from dataplane.protocol.errors import MrgcError

REASONS: Final = frozenset(
    {
        "key",
        "note",
        "signature",
        "checkpoint",
        "tile",
        "entry",
        "proof",
        "fork",
        "rewound",
        "stale",
        "hidden",
        "not-included",
    }
)
"""Every name that `TransparencyError.reason` takes; docs/measurement-log.md says what each means."""


class TransparencyError(MrgcError):
    """A key, note, tile, entry, proof or tree head of a measurement log that was refused; `reason` is in `REASONS`."""

    def __init__(self, message: str, *, reason: str) -> None:
        """Raise `ValueError` for a reason that is not in the table: a refusal that nobody can look up is a bug."""
        if reason not in REASONS:
            raise ValueError(reason)
        super().__init__(message)
        self.reason = reason
