"""The replay window: at most once, bounded, and closed when full."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dataplane.enclave.replay import MAX_ENTRIES, SWEEP_ENTRIES, ReplayWindow
from dataplane.enclave.tenant_key import TenantKey
from dataplane.protocol.errors import ProblemError
from dataplane.protocol.header import IAT_MAX_AGE_MS, IAT_MAX_AHEAD_MS
from tests.support.cost import LOOP_STEP_S, TRIES, least_cpu_s

NOW_MS = 1_800_000_000_000
KEY = TenantKey(region="", account="111122223333", id="mrk-1")


def code_of(
    window: ReplayWindow, rid: bytes, *, tenant: str = "a", expires_ms: int = NOW_MS + 1000, now_ms: int
) -> str:
    try:
        window.record(key=KEY, tenant=tenant, rid=rid, expires_ms=expires_ms, now_ms=now_ms)
    except ProblemError as problem:
        return problem.code
    return "served"


def test_a_request_is_served_once_and_its_copy_refused() -> None:
    window = ReplayWindow()
    assert code_of(window, b"r", now_ms=NOW_MS) == "served", "the first time"
    assert code_of(window, b"r", now_ms=NOW_MS + 999) == "replayed", "as long as it would be accepted"


def test_the_same_rid_of_another_tenant_is_another_request() -> None:
    window = ReplayWindow()
    assert code_of(window, b"r", tenant="a", now_ms=NOW_MS) == "served", "one tenant's"
    assert code_of(window, b"r", tenant="b", now_ms=NOW_MS) == "served", "another's"
    assert code_of(window, b"xr", tenant="", now_ms=NOW_MS) == "served", "the length keeps them apart"
    assert code_of(window, b"r", tenant="x", now_ms=NOW_MS) == "served", "from this one"


def test_an_entry_is_forgotten_only_after_its_time() -> None:
    window = ReplayWindow()
    code_of(window, b"r", expires_ms=NOW_MS + 1, now_ms=NOW_MS)
    assert code_of(window, b"r", expires_ms=NOW_MS + 90_000, now_ms=NOW_MS) == "replayed", "another iat is no way in"
    code_of(window, b"other", expires_ms=NOW_MS + 90_000, now_ms=NOW_MS + 1001)
    assert len(window) == 1, "the lapsed one has made room"


def test_a_clock_set_back_does_not_bring_old_requests_to_life() -> None:
    window = ReplayWindow()
    code_of(window, b"r", expires_ms=NOW_MS + 1000, now_ms=NOW_MS)
    code_of(window, b"later", expires_ms=NOW_MS + 90_000, now_ms=NOW_MS + 60_000)
    assert code_of(window, b"r", expires_ms=NOW_MS + 1000, now_ms=NOW_MS) == "expired", "its entry is gone: refuse"


def test_a_full_window_fails_closed_and_opens_as_entries_lapse() -> None:
    window = ReplayWindow(max_entries=2, max_share=1, max_account_share=1)
    code_of(window, b"1", now_ms=NOW_MS)
    code_of(window, b"2", now_ms=NOW_MS)
    assert code_of(window, b"3", now_ms=NOW_MS) == "overloaded", "what can't be remembered is refused"
    assert code_of(window, b"1", now_ms=NOW_MS) == "replayed", "a copy is told so, full or not"
    assert code_of(window, b"3", expires_ms=NOW_MS + 9000, now_ms=NOW_MS + 2000) == "served", "there is room again"


def test_one_tenant_can_not_shut_the_others_out() -> None:
    window = ReplayWindow(max_entries=4, max_share=0.5, max_account_share=1)
    assert [code_of(window, bytes([n]), tenant="busy", now_ms=NOW_MS) for n in range(3)] == [
        "served",
        "served",
        "tenant-over-limit",
    ], "half is its share"
    assert code_of(window, b"x", tenant="other", now_ms=NOW_MS) == "served", "others have room"
    assert code_of(window, b"y", tenant="busy", expires_ms=NOW_MS + 9000, now_ms=NOW_MS + 2000) == "served", "it renews"


def test_the_default_holds_what_one_host_can_serve() -> None:
    window_s = (IAT_MAX_AGE_MS + IAT_MAX_AHEAD_MS) / 1000
    assert MAX_ENTRIES / window_s > 700, "requests a second, for the whole window"


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 400_000)), max_size=60))
def test_no_order_of_times_serves_a_request_twice_within_its_life(steps: list[tuple[int, int]]) -> None:
    window = ReplayWindow()
    served: dict[int, int] = {}
    for rid, offset in steps:
        now = NOW_MS + offset
        # One request has one iat, sealed into its header.
        if code_of(window, bytes([rid]), expires_ms=NOW_MS + 300_000, now_ms=now) == "served":
            served[rid] = served.get(rid, 0) + 1
    assert all(count == 1 for count in served.values()), "at most once per enclave"


class Window(RuleBasedStateMachine):
    """The window against a plain set, under any order of requests and time."""

    def __init__(self) -> None:
        super().__init__()
        self.window = ReplayWindow(max_entries=5, max_share=0.6, max_account_share=1)
        self.now_ms = NOW_MS
        self.expected: dict[tuple[str, bytes], int] = {}

    @rule(step=st.integers(0, 5000))
    def time_passes(self, step: int) -> None:
        self.now_ms += step

    @rule(tenant=st.sampled_from("ab"), rid=st.binary(min_size=1, max_size=1), life=st.integers(1, 20_000))
    def request(self, tenant: str, rid: bytes, life: int) -> None:
        # An entry lives to the end of its second, never less than asked.
        live = {key: end for key, end in self.expected.items() if end > self.now_ms // 1000}
        got = code_of(self.window, rid, tenant=tenant, expires_ms=self.now_ms + life, now_ms=self.now_ms)
        mine = sum(1 for name, _ in live if name == tenant)
        if (tenant, rid) in live:
            wanted = "replayed"
        elif len(live) >= 5:
            wanted = "overloaded"
        elif mine >= 3:
            wanted = "tenant-over-limit"
        else:
            wanted = "served"
            live[(tenant, rid)] = -(-(self.now_ms + life) // 1000)
        assert got == wanted, "as the plain set says"
        self.expected = live

    @invariant()
    def it_is_bounded(self) -> None:
        assert len(self.window) <= 5, "never more than its entries"


TestWindow = Window.TestCase


def test_a_refusal_says_what_to_do_and_when_to_come_back() -> None:
    window = ReplayWindow(max_entries=1, max_share=1)
    window.record(key=KEY, tenant="a", rid=b"1", expires_ms=NOW_MS + 1000, now_ms=NOW_MS)
    with pytest.raises(ProblemError) as caught:
        window.record(key=KEY, tenant="a", rid=b"2", expires_ms=NOW_MS + 1000, now_ms=NOW_MS)
    assert caught.value.retry_after_s == 5, "429 comes with Retry-After"


def test_a_full_second_of_lapsed_requests_does_not_hold_the_loop() -> None:
    def full() -> ReplayWindow:
        window = ReplayWindow(max_entries=131_072, max_share=1, max_account_share=1)
        for number in range(131_072):
            window.record(key=KEY, tenant="a", rid=number.to_bytes(4), expires_ms=NOW_MS + 1000, now_ms=NOW_MS)
        return window

    window = full()
    took = least_cpu_s(lambda: window.sweep(NOW_MS + 2000))
    assert took < LOOP_STEP_S / 2, f"one step took {took * 1000:.1f} ms"
    assert len(window) >= 131_072 - TRIES * SWEEP_ENTRIES, "the others wait"
    assert code_of(window, b"new", expires_ms=NOW_MS + 9000, now_ms=NOW_MS + 2000) == "served", "there is room at once"
    while window.sweep(NOW_MS + 2000):
        pass
    assert len(window) == 1, "slice by slice all of it goes"


@given(
    lives=st.lists(st.integers(1, 9), max_size=40),
    steps=st.lists(st.integers(0, 3), max_size=20),
    slice_size=st.integers(1, 7),
)
def test_a_sweep_in_slices_drops_what_has_lapsed_and_nothing_else(
    lives: list[int], steps: list[int], slice_size: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dataplane.enclave.replay.SWEEP_ENTRIES", slice_size)
        window = ReplayWindow(max_share=1, max_account_share=1)
        for number, life in enumerate(lives):
            window.record(key=KEY, tenant="a", rid=bytes([number]), expires_ms=NOW_MS + life * 1000, now_ms=NOW_MS)
        now_ms = NOW_MS
        for step in steps:
            now_ms += step * 1000
            before = len(window)
            live = sum(1 for life in lives if NOW_MS + life * 1000 > now_ms)
            more = window.sweep(now_ms)
            assert before - len(window) == min(slice_size, before - live), "a slice, or all that has lapsed"
            assert more == (len(window) > live), "and it says whether more is left"
