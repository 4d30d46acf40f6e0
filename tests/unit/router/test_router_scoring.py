"""The score and the choice: bounds, direction, and that many routers with old reports do not herd."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dataplane.registry.host import HostState
from dataplane.router.choose import WARM_MARGIN, Candidate, WarmTable, choose
from dataplane.router.hosts import FULL_FOR_S, STALE_AFTER_MS, HostTable
from dataplane.router.score import (
    HEALTH_WEIGHT,
    LATENCY_WEIGHT,
    QUEUE_WEIGHT,
    Latency,
    Load,
    outstanding,
    score,
)
from tests.unit.router.harness import record

counts = st.integers(0, 10_000)
loads = st.builds(
    Load,
    queue_depth=counts,
    running=counts,
    capacity=st.integers(0, 1000),
    in_flight=counts,
    in_flight_at_report=counts,
    latency_ms=st.floats(0, 1e7),
    health=st.integers(0, 100),
    stale=st.booleans(),
)


def changed(load: Load, **changes: object) -> Load:
    values = {name: getattr(load, name) for name in Load.__dataclass_fields__}
    return Load(**{**values, **changes})


def idle(**changes: object) -> Load:
    load = Load(
        queue_depth=0,
        running=0,
        capacity=8,
        in_flight=0,
        in_flight_at_report=0,
        latency_ms=0.0,
        health=100,
        stale=False,
    )
    return changed(load, **changes)


def test_the_weights_are_a_half_three_tenths_and_a_fifth() -> None:
    assert (QUEUE_WEIGHT, LATENCY_WEIGHT, HEALTH_WEIGHT) == (50, 30, 20), "as the architecture says"
    assert score(idle()) == 100, "an idle, instant, healthy host has them all"
    assert score(idle(health=0)) == 80, "health alone is worth a fifth"
    assert 20 < score(idle(latency_ms=1e12)) - 50 < 20.001, "latency alone is worth three tenths"
    assert 50 < score(idle(queue_depth=10**12)) < 50.001, "the queue alone is worth half"


@given(loads)
def test_the_score_is_from_0_to_100(load: Load) -> None:
    assert 0 <= score(load) <= 100, "whatever is reported"


@given(loads, st.integers(1, 1000))
def test_more_work_never_raises_the_score(load: Load, more: int) -> None:
    for field in ("queue_depth", "running", "in_flight"):
        busier = changed(load, **{field: getattr(load, field) + more})
        assert score(busier) <= score(load), f"more {field} is no better"


@given(loads, st.floats(1, 1e6))
def test_more_latency_never_raises_the_score(load: Load, more: float) -> None:
    assert score(changed(load, latency_ms=load.latency_ms + more)) <= score(load), "slower is no better"


@given(loads, st.integers(0, 100))
def test_better_health_never_lowers_the_score(load: Load, other: int) -> None:
    worse, better = sorted((load.health, other))
    assert score(changed(load, health=worse)) <= score(changed(load, health=better)), "healthier is no worse"


@given(loads)
def test_a_stale_report_never_raises_the_score(load: Load) -> None:
    assert score(changed(load, stale=True)) <= score(changed(load, stale=False)) or (
        outstanding(changed(load, stale=False)) > outstanding(changed(load, stale=True))
    ), "silence is no good news, short of a host known to be busier than saturated"


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_requests_since_the_report_count_once(reported: int, before: int, since: int) -> None:
    load = idle(running=reported + before, in_flight=before + since, in_flight_at_report=before)
    assert outstanding(load) == reported + before + since, "ours that the report knew are not counted twice"


def test_stale_hosts_still_differ_by_what_was_sent_to_them() -> None:
    assert score(idle(stale=True, in_flight=1)) < score(idle(stale=True)), "or they would draw all alike"


def test_a_host_that_fails_fast_is_slow_and_is_forgiven_with_time() -> None:
    latency = Latency()
    assert latency.expected_ms(0, 50) == 50, "before anything is seen the report counts"
    latency.failed(0, 50)
    assert latency.expected_ms(0, 50) == Latency.FAILURE_MS, "a failure is slow, however fast it came"
    latency.succeeded(1, 0, 50)
    assert latency.expected_ms(0, 50) > Latency.FAILURE_MS / 2, "one success does not wipe it out"
    assert latency.expected_ms(10, 50) < latency.expected_ms(0, 50) * 0.51, "half is forgiven in a half-life"
    assert latency.expected_ms(300, 50) < 51, "and all of it in the end"


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1e5), st.floats(0, 100)), max_size=30), st.floats(0, 1e5))
def test_expected_latency_stays_within_what_was_seen(steps: list[tuple[bool, float, float]], prior: float) -> None:
    latency, now = Latency(), 0.0
    for failed, sample, pause in steps:
        now += pause
        if failed:
            latency.failed(now, prior)
        else:
            latency.succeeded(sample, now, prior)
    highest = max([prior, Latency.FAILURE_MS, *(sample for _, sample, _ in steps)])
    assert 0 <= latency.expected_ms(now, prior) <= highest * 1.000001, "an average lies between its samples"


candidate_lists = st.lists(st.floats(0, 100), min_size=1, max_size=20).map(
    lambda scores: [Candidate(f"i-{n}", value) for n, value in enumerate(scores)]
)


@given(candidate_lists, st.randoms(use_true_random=False))
def test_the_choice_is_never_the_worst_of_all(candidates: list[Candidate], chance: random.Random) -> None:
    chosen = choose(candidates, randrange=chance.randrange)
    assert chosen in candidates, "one of those that were given"
    if len({c.score for c in candidates}) == len(candidates) > 1:
        assert chosen != min(candidates, key=lambda c: c.score), "of two different ones the better is taken"


@given(candidate_lists, st.randoms(use_true_random=False))
def test_a_warm_host_is_taken_only_when_its_score_is_close(candidates: list[Candidate], chance: random.Random) -> None:
    warm = candidates[0]
    chosen = choose(candidates, randrange=chance.randrange, warm=warm.instance_id)
    assert chosen is not None, "there is a candidate"
    if chosen != warm and len(candidates) > 1:
        assert warm.score < chosen.score - WARM_MARGIN, "it was passed over because it is clearly worse"


def test_without_candidates_there_is_no_choice() -> None:
    assert choose([], randrange=random.randrange) is None, "and nobody is made up"
    assert choose([Candidate("i-0", 1)], randrange=random.randrange, warm="i-gone") == Candidate("i-0", 1), "no i-gone"


def test_both_draws_reach_every_pair() -> None:
    pairs = set()
    for first in range(3):
        for second in range(2):
            draws = iter([first, second])
            scores = [Candidate(f"i-{n}", n) for n in range(3)]
            chosen = choose(scores, randrange=lambda _, draws=draws: next(draws))  # type: ignore[misc]
            pairs.add(chosen)
    assert {c.instance_id for c in pairs if c} == {"i-1", "i-2"}, "the worst never wins, every other can"


def test_the_warm_table_is_bounded_and_belongs_to_each_tenant() -> None:
    table = WarmTable(max_entries=3)
    table.remember("a", ["t1", "t2", "t3"], "i-0")
    assert table.lookup("a", ["t1", "t2", "t9"]) == "i-0", "the longest known prefix counts"
    assert table.lookup("b", ["t1", "t2", "t3"]) is None, "another tenant's tags match nothing"
    table.remember("a", ["t1", "t4"], "i-1")
    assert len(table) == 3, "the oldest made room"
    assert table.lookup("a", ["t1", "t3"]) == "i-0", "a longer prefix wins over a newer one"
    assert table.lookup("a", ["t2"]) is None, "the least recently used is gone"
    assert table.lookup("a", []) is None, "without tags nothing is warm"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def ms(self) -> int:
        return int(self.now * 1000)


def table_of(clock: Clock, hosts: int) -> HostTable:
    table = HostTable(monotonic=clock.monotonic, clock_ms=clock.ms)
    table.refresh([record(f"i-{n}", f"http://10.0.0.{n}", reported_ms=clock.ms()) for n in range(hosts)])
    return table


def spread(routers: int, hosts: int, requests: int, *, pick_best: bool) -> Counter[str]:
    """Let routers that all saw the same old reports send requests that do not end; count them by host."""
    clock, chance = Clock(), random.Random(7)  # noqa: S311 - a simulation
    tables = [table_of(clock, hosts) for _ in range(routers)]
    for table in tables:
        # One host looks idle, the others busy: the report that makes routers herd.
        table.refresh(
            [
                record(f"i-{n}", f"http://10.0.0.{n}", running=0 if n == 0 else 4, reported_ms=clock.ms() + 1)
                for n in range(hosts)
            ]
        )
    sent: Counter[str] = Counter()
    for number in range(requests):
        table = tables[number % routers]
        candidates = table.candidates("tiny")
        chosen = max(candidates, key=lambda c: c.score) if pick_best else choose(candidates, randrange=chance.randrange)
        assert chosen is not None, "hosts are ready"
        assert table.begin(chosen.instance_id) is not None, "and their breakers closed"
        sent[chosen.instance_id] += 1
    return sent


def test_many_routers_with_the_same_old_reports_do_not_herd() -> None:
    routers, hosts, requests = 20, 10, 100
    naive = spread(routers, hosts, requests, pick_best=True)
    ours = spread(routers, hosts, requests, pick_best=False)
    fair = requests / hosts
    assert naive["i-0"] > 6 * fair, "the herd is real: taking the best sends most to the host that looked idle"
    assert max(ours.values()) < 2.5 * fair, f"two choices spread the same requests: {ours}"


def test_stale_reports_spread_by_our_own_requests() -> None:
    clock, chance = Clock(), random.Random(7)  # noqa: S311 - a simulation
    table = table_of(clock, 10)
    clock.now += STALE_AFTER_MS / 1000 + 1
    sent: Counter[str] = Counter()
    for _ in range(400):
        chosen = choose(table.candidates("tiny"), randrange=chance.randrange)
        assert chosen is not None, "stale is not gone"
        table.begin(chosen.instance_id)
        sent[chosen.instance_id] += 1
    assert max(sent.values()) <= 1.25 * min(sent.values()), f"nearly even, though nobody reports: {sent}"


def test_a_host_that_fails_fast_does_not_attract_traffic() -> None:
    clock, chance = Clock(), random.Random(7)  # noqa: S311 - a simulation
    table = table_of(clock, 4)
    sent: Counter[str] = Counter()
    for _ in range(400):
        chosen = choose(table.candidates("tiny"), randrange=chance.randrange)
        assert chosen is not None, "three hosts work"
        flight = table.begin(chosen.instance_id)
        assert flight is not None, "its breaker lets it through"
        sent[chosen.instance_id] += 1
        clock.now += 0.05
        flight.failed() if chosen.instance_id == "i-0" else flight.answered()
        flight.end()
    assert sent["i-0"] < 0.1 * 400, f"it is asked now and then, and no more: {sent}"
    clock.now += 60
    table.refresh([record(f"i-{n}", f"http://10.0.0.{n}", reported_ms=clock.ms()) for n in range(4)])
    for busy in ("i-1", "i-2", "i-3"):
        table.begin(busy)
    best = max(table.candidates("tiny"), key=lambda c: c.score)
    assert best.instance_id == "i-0", "and a minute later it is the best again once the others have work"


def test_a_flight_is_counted_out_once_and_judged_once() -> None:
    clock = Clock()
    table = table_of(clock, 1)
    flight = table.begin("i-0")
    assert flight is not None, "the host is there"
    assert table.views()[0].in_flight == 1, "counted in"
    flight.answered()
    flight.end()
    flight.end()
    assert table.views()[0].in_flight == 0, "ending twice counts once"
    assert table.begin("i-9") is None, "a host that is not there takes nothing"


def test_a_full_host_counts_as_saturated_for_a_moment() -> None:
    clock = Clock()
    table = table_of(clock, 1)
    before = table.views()[0].score
    flight = table.begin("i-0")
    assert flight is not None, "the host is there"
    flight.full()
    flight.end()
    assert table.views()[0].score < before - 40, "nearly all of the queue's points are gone"
    clock.now += FULL_FOR_S
    assert table.views()[0].score == before, "and come back"
    assert table.views()[0].breaker == "closed", "a full host is a well host"


def test_a_host_that_left_and_came_back_starts_anew_and_old_flights_do_it_no_harm() -> None:
    clock = Clock()
    table = table_of(clock, 1)
    flight = table.begin("i-0")
    assert flight is not None, "the host is there"
    table.refresh([])
    assert (table.routable, table.candidates("tiny")) == (0, []), "gone is gone"
    assert table.knows_pool("tiny"), "but its pool is remembered"
    table.refresh([record("i-0", "http://10.0.0.0", reported_ms=clock.ms())])
    flight.failed()
    flight.end()
    view = table.views()[0]
    assert (view.in_flight, view.breaker) == (0, "closed"), "the new host is not charged for the old one's request"


def test_only_ready_hosts_of_the_pool_are_candidates() -> None:
    clock = Clock()
    table = HostTable(monotonic=clock.monotonic, clock_ms=clock.ms)
    assert table.knows_pool("anything"), "before the first report nothing can be called unknown"
    table.refresh(
        [
            record("i-0", "http://h", state=HostState.DRAINING),
            record("i-1", "http://h", state=HostState.UNHEALTHY),
            record("i-2", "http://h", pools=("other",)),
            record("i-3", "http://h"),
            record("i-4", "http://h"),
        ]
    )
    assert [c.instance_id for c in table.candidates("tiny", without={"i-4"})] == ["i-3"], "ready, serving, not tried"
    assert not table.knows_pool("missing"), "a pool that nobody ever served is unknown"
    assert table.routable == 3, "pools do not matter to readiness"
