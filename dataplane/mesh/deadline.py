"""A request's deadline: one moment on the monotonic clock, carried between processes as remaining time.

Wall clocks of two hosts differ, so a moment never travels: `X-Deadline-Ms` and the links' `deadline_ms` say how many
milliseconds are left, and every receiver starts its own deadline from that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dataplane.protocol.errors import ProblemError

HEADER = "X-Deadline-Ms"
DEFAULT_S = 120.0
"""What a request without a deadline gets: a long completion at about 20 tokens a second is two minutes."""
CAP_S = 600.0
"""The longest deadline anyone may ask for; past it a stuck stream holds a slot for no one."""
MAX_DIGITS = 12
"""Digits read from the header: 10**12 ms is 31 years, so more than that is no duration."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """The moment `at` (seconds on `monotonic`) by which a request must have ended."""

    at: float
    monotonic: Callable[[], float] = field(repr=False, compare=False)

    @classmethod
    def after(cls, seconds: float, *, monotonic: Callable[[], float]) -> Deadline:
        """The deadline `seconds` from now."""
        return cls(monotonic() + seconds, monotonic)

    @classmethod
    def from_header(
        cls,
        text: str | None,
        *,
        monotonic: Callable[[], float],
        default_s: float = DEFAULT_S,
        cap_s: float = CAP_S,
    ) -> Deadline:
        """The deadline that an `X-Deadline-Ms` header asks for: `default_s` without one, at most `cap_s`.

        Raises ProblemError `malformed-envelope` when the text is not a whole number of milliseconds, and
        `deadline-exceeded` when nothing is left.
        """
        if text is None:
            return cls.after(min(default_s, cap_s), monotonic=monotonic)
        digits = text.strip()
        if not (digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS):
            raise ProblemError(
                "malformed-envelope",
                f"{HEADER} is {text[:32]!r}, which is not a whole number of milliseconds; send the remaining time.",
            )
        remaining_ms = int(digits)
        if remaining_ms == 0:
            raise ProblemError("deadline-exceeded", f"{HEADER} is 0: no time was left when the request arrived.")
        return cls.after(min(remaining_ms / 1000, cap_s), monotonic=monotonic)

    @property
    def remaining_s(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self.at - self.monotonic())

    @property
    def remaining_ms(self) -> int:
        """Whole milliseconds left, rounded down, so that the next process never believes it has more."""
        return int(self.remaining_s * 1000)

    @property
    def expired(self) -> bool:
        """Whether nothing is left."""
        return self.remaining_s <= 0

    def check(self, doing: str) -> float:
        """The seconds left, or ProblemError `deadline-exceeded` that names what was being done."""
        remaining = self.remaining_s
        if remaining <= 0:
            raise ProblemError("deadline-exceeded", f"The deadline passed while {doing}.")
        return remaining
