"""When totals over many requests may leave the worker: the rule that keeps one request's figures out of them.

A window takes requests that were answered to their end, refused messages too: which of them the engine ran is as sealed
as their status. It is released, into totals that only ever grow, once it holds 16 requests,
or 4 of them ten minutes after its first. What is released is cut down to whole thousands of tokens and whole seconds;
the rest waits for the next window, so that nothing is lost and totals stay true. Pure: time is an argument.

The cut is for who can fill a window with requests of his own but one: by subtracting his own he would have the other's
exact figures; with it he learns whether they passed one threshold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

RELEASE_REQUESTS: Final = 16
"""Requests that release a window at once."""

SLOW_RELEASE_REQUESTS: Final = 4
SLOW_RELEASE_S: Final = 600.0
"""A quiet worker's rule: this many requests, and this long since the first of them."""

TOKEN_QUANTUM: Final = 1000
"""Released tokens are a multiple of this: 16 answers of some hundred tokens make a few of them."""

TIME_QUANTUM_MS: Final = 1000
SIXTEENTHS: Final = 16

QUANTA: Final = {
    "prompt_tokens": TOKEN_QUANTUM,
    "completion_tokens": TOKEN_QUANTUM,
    "cached_tokens": TOKEN_QUANTUM,
    "prefill_ms": TIME_QUANTUM_MS,
    "decode_ms": TIME_QUANTUM_MS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One request that was answered to its end.

    `prefill_ms` is from asking the engine to its first piece, `decode_ms` from there to its last; `kv_cache_usage` (0
    to 1) is the engine's at the first piece.
    """

    prompt_tokens: int = field(repr=False)
    completion_tokens: int = field(repr=False)
    cached_tokens: int = field(repr=False)
    prefill_ms: int = field(repr=False)
    decode_ms: int = field(repr=False)
    kv_cache_usage: float = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """Totals since the start, as of the last release. `kv_cache_usage` is the last window's mean, in sixteenths."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    prefill_ms: int = 0
    decode_ms: int = 0
    kv_cache_usage: float = 0.0

    @property
    def average_s(self) -> float:
        """Seconds in the engine through requests."""
        return (self.prefill_ms + self.decode_ms) / 1000 / self.requests if self.requests else 0.0

    def as_map(self) -> dict[str, int]:
        """The `released` map of the `stats` reply; times in whole seconds."""
        return {
            "requests": self.requests,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cached_tokens": self.cached_tokens,
            "prefill_s": self.prefill_ms // 1000,
            "decode_s": self.decode_ms // 1000,
        }


class Release:
    """Collects samples and lets totals go by the rule."""

    def __init__(self) -> None:
        """Nothing collected, nothing released."""
        self._released = Released()
        self._pending = dict.fromkeys(QUANTA, 0)
        self._waiting = 0
        self._kv_cache_usage = 0.0
        self._opened_s: float | None = None

    def add(self, sample: Sample, *, now_s: float) -> None:
        """Take one request into the window; `now_s` is monotonic, in seconds."""
        if self._opened_s is None:
            self._opened_s = now_s
        self._waiting += 1
        self._kv_cache_usage += min(max(sample.kv_cache_usage, 0.0), 1.0)
        for name in QUANTA:
            self._pending[name] += getattr(sample, name)
        self._release(now_s)

    def totals(self, *, now_s: float) -> Released:
        """What may be told now."""
        self._release(now_s)
        return self._released

    def _release(self, now_s: float) -> None:
        if not self._due(now_s):
            return
        cut = {name: self._pending[name] // quantum * quantum for name, quantum in QUANTA.items()}
        for name, amount in cut.items():
            self._pending[name] -= amount
        before = self._released
        self._released = Released(
            requests=before.requests + self._waiting,
            kv_cache_usage=sixteenths(self._kv_cache_usage / self._waiting),
            **{name: getattr(before, name) + amount for name, amount in cut.items()},
        )
        self._waiting, self._kv_cache_usage, self._opened_s = 0, 0.0, None

    def _due(self, now_s: float) -> bool:
        if self._waiting >= RELEASE_REQUESTS:
            return True
        if self._waiting < SLOW_RELEASE_REQUESTS or self._opened_s is None:
            return False
        return now_s - self._opened_s >= SLOW_RELEASE_S


def sixteenths(share: float) -> float:
    """The nearest sixteenth of a share from 0 to 1."""
    return round(share * SIXTEENTHS) / SIXTEENTHS
