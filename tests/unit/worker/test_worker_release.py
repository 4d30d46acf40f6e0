"""The rule by which totals leave the worker, on a virtual clock."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dataplane.worker.release import (
    QUANTA,
    RELEASE_REQUESTS,
    SLOW_RELEASE_REQUESTS,
    SLOW_RELEASE_S,
    Release,
    Released,
    Sample,
    sixteenths,
)

ONE = Sample(
    prompt_tokens=5_137,
    completion_tokens=2_011,
    cached_tokens=1_024,
    prefill_ms=1_733,
    decode_ms=9_011,
    kv_cache_usage=0.3,
)


def after(count: int, *, now_s: float = 0.0) -> Release:
    release = Release()
    for _ in range(count):
        release.add(ONE, now_s=now_s)
    return release


def test_fifteen_requests_at_once_tell_nothing_and_the_sixteenth_tells_totals() -> None:
    assert after(15).totals(now_s=599.9) == Released(), "neither 16 requests nor ten minutes"
    told = after(16).totals(now_s=0.0)
    assert told.requests == 16, "the totals say of how many they are"
    assert told.prompt_tokens == 16 * 5_137 // 1000 * 1000, "whole thousands"
    assert told.kv_cache_usage == 5 / 16, "0.3, in sixteenths"


def test_ten_minutes_release_four_requests_and_never_three() -> None:
    assert after(3).totals(now_s=86_400.0) == Released(), "three requests wait for a fourth, however long"
    assert after(4).totals(now_s=599.0) == Released(), "four wait for their ten minutes"
    assert after(4).totals(now_s=600.0).requests == 4, "and are told then"


def test_whoever_fills_a_window_with_his_own_requests_learns_no_exact_figure_of_the_other() -> None:
    told = set()
    for tokens in range(200, 300):
        release = after(15)
        release.add(replace(ONE, completion_tokens=tokens), now_s=0.0)
        told.add(release.totals(now_s=0.0).completion_tokens)
    assert len(told) <= 2, "a hundred different answers make one bit, not a hundred values"


class Windows(RuleBasedStateMachine):
    """Any order of requests, time and looks: no small window is told, and what was added is told or still waits."""

    def __init__(self) -> None:
        super().__init__()
        self.release = Release()
        self.now_s = 1_000.0
        self.added = dict.fromkeys(QUANTA, 0)
        self.requests = 0
        self.told = Released()
        self.opened_s = 0.0

    @rule(step=st.floats(0, 400))
    def time_passes(self, step: float) -> None:
        self.now_s += step

    @rule(
        tokens=st.tuples(*(st.integers(0, 5_000) for _ in QUANTA)),
        share=st.floats(0, 1),
        times=st.integers(1, 20),
    )
    def requests_end(self, tokens: tuple[int, ...], share: float, times: int) -> None:
        for _ in range(times):
            figures = dict(zip(QUANTA, tokens, strict=True))
            if self.requests == self.told.requests:
                self.opened_s = self.now_s
            self.release.add(Sample(**figures, kv_cache_usage=share), now_s=self.now_s)
            self.requests += 1
            for name, value in figures.items():
                self.added[name] += value
            self.look()

    @rule()
    def look(self) -> None:
        before, self.told = self.told, self.release.totals(now_s=self.now_s)
        window = self.told.requests - before.requests
        if window == 0:
            assert self.told == before, "without a release nothing changes"
            assert not self.due(before), "what is due is told"
            return
        old_enough = self.now_s - self.opened_s >= SLOW_RELEASE_S
        assert window >= RELEASE_REQUESTS or (window >= SLOW_RELEASE_REQUESTS and old_enough), "no small window"

    def due(self, before: Released) -> bool:
        waiting = self.requests - before.requests
        return waiting >= RELEASE_REQUESTS or (
            waiting >= SLOW_RELEASE_REQUESTS and self.now_s - self.opened_s >= SLOW_RELEASE_S
        )

    @invariant()
    def totals_are_conserved(self) -> None:
        for name, quantum in QUANTA.items():
            told = getattr(self.told, name)
            assert told + self.release._pending[name] == self.added[name], f"{name} is told or waits, and never lost"
            assert told % quantum == 0, f"{name} is told in whole quanta"
            if self.told.requests == self.requests:
                assert self.added[name] - told < quantum, f"with no request waiting, less than a quantum of {name} does"
        assert self.told.kv_cache_usage * 16 == int(self.told.kv_cache_usage * 16), "gauges are sixteenths"


TestWindows = Windows.TestCase


@given(st.floats(0, 1))
def test_a_sixteenth_is_the_nearest(share: float) -> None:
    assert abs(sixteenths(share) - share) <= 1 / 32, "half a step at most"


def test_a_samples_repr_holds_no_figure() -> None:
    assert "5137" not in repr(ONE), "a log of a sample would be a log of its counts"
