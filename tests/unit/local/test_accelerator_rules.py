"""Global Accelerator's documented rules, one by one and under random configurations."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacks.local.accelerator.rules import (
    AcceleratorError,
    Endpoint,
    Group,
    decide,
    nearest,
)

LATENCY = {"us-east-1": 1.0, "us-east-2": 14.0, "us-west-2": 66.0, "eu-west-1": 80.0}


def group(region: str, *, healthy: bool = True, weight: int = 128, dial: float = 100) -> Group:
    return Group(region, (Endpoint(region, weight, healthy=healthy),), dial)


def three(**changed: Group) -> list[Group]:
    groups = {"use1": group("us-east-1"), "use2": group("us-east-2"), "usw2": group("us-west-2")}
    return list((groups | changed).values())


def share(groups: list[Group], latency: dict[str, float] = LATENCY, n: int = 4000) -> Counter[str]:
    draw = random.Random(7).random  # noqa: S311 - a seeded draw, so that the shares are the same each run
    return Counter(decide(groups, latency, draw).endpoint for _ in range(n))


def test_nearest_healthy_region_takes_all() -> None:
    assert share(three()) == {"us-east-1": 4000}, "dial 100 and healthy: nothing goes further"
    west = {"us-west-2": 1.0, "us-east-2": 56.0, "us-east-1": 66.0}
    assert share(three(), west) == {"us-west-2": 4000}, "nearness is the client's, not the accelerator's"


def test_dial_is_a_share_of_the_traffic_that_the_group_would_get() -> None:
    counts = share(three(use1=group("us-east-1", dial=25), use2=group("us-east-2", dial=50)))
    assert counts["us-east-1"] == pytest.approx(1000, rel=0.1), "a quarter stays in the nearest region"
    assert counts["us-east-2"] == pytest.approx(1500, rel=0.1), "half of the three quarters that were passed on"
    assert counts["us-west-2"] == pytest.approx(1500, rel=0.1), "the rest"


def test_failover_ignores_the_dial() -> None:
    groups = three(use1=group("us-east-1", healthy=False), use2=group("us-east-2", dial=0))
    decision = decide(groups, LATENCY, lambda: 0.5)
    assert (decision.region, decision.reason) == ("us-east-2", "failover"), "dial 0 does not stop a failover"


def test_dial_zero_without_any_failure_is_obeyed() -> None:
    decision = decide(three(use1=group("us-east-1", dial=0)), LATENCY, lambda: 0.0)
    assert (decision.region, decision.reason) == ("us-east-2", "dial"), "even a draw of 0 is not below dial 0"


def test_failover_starts_from_the_nearest_even_when_the_dial_chose_another() -> None:
    groups = three(use1=group("us-east-1", dial=0), use2=group("us-east-2", healthy=False))
    decision = decide(groups, LATENCY, lambda: 0.5)
    assert (decision.region, decision.reason) == ("us-east-1", "failover"), (
        "the dial passed us-east-1 over, us-east-2 is down, and failover looks at us-east-1 first, dial or not"
    )


def test_weights_share_within_a_group_and_zero_takes_nothing() -> None:
    endpoints = (
        Endpoint("a", 1, healthy=True),
        Endpoint("b", 3, healthy=True),
        Endpoint("c", 0, healthy=True),
        Endpoint("d", 200, healthy=False),
    )
    counts = share([Group("us-east-1", endpoints)])
    assert counts["b"] == pytest.approx(3000, rel=0.1), "3 of 4, since c weighs 0 and d is not healthy"
    assert counts["a"] == pytest.approx(1000, rel=0.1), "1 of 4"


def test_a_group_of_weight_zero_fails_over() -> None:
    decision = decide(three(use1=group("us-east-1", weight=0)), LATENCY, lambda: 0.5)
    assert (decision.region, decision.reason) == ("us-east-2", "failover"), "weight 0 evacuates a region"


def test_nothing_healthy_fails_open_to_the_nearest() -> None:
    groups = [group(region, healthy=False) for region in ("us-west-2", "us-east-2", "us-east-1")]
    decision = decide(groups, LATENCY, lambda: 0.99)
    assert (decision.region, decision.reason) == ("us-east-1", "fail-open"), "a random endpoint of the closest group"


def test_a_fourth_group_is_never_tried() -> None:
    groups = [group(region, healthy=region == "eu-west-1") for region in LATENCY]
    decision = decide(groups, LATENCY, lambda: 0.5)
    assert (decision.region, decision.reason) == ("us-east-1", "fail-open"), "three groups were tried, then it opens"


def test_all_dials_closed_takes_the_nearest() -> None:
    decision = decide([group("us-east-1", dial=0), group("us-east-2", dial=0)], LATENCY, lambda: 0.5)
    assert (decision.region, decision.reason) == ("us-east-1", "dials-closed")


def test_an_unknown_region_is_far_away_and_ties_go_by_name() -> None:
    ordered = nearest([group("zz"), group("us-west-2"), group("aa")], LATENCY)
    assert [each.region for each in ordered] == ["us-west-2", "aa", "zz"]


@pytest.mark.parametrize(("weight", "dial"), [(-1, 100), (256, 100), (1, -0.1), (1, 100.1)])
def test_numbers_outside_the_documented_range_are_refused(weight: int, dial: float) -> None:
    with pytest.raises(AcceleratorError, match="give one from 0 to"):
        group("us-east-1", weight=weight, dial=dial)


def test_an_accelerator_without_endpoints_says_so() -> None:
    with pytest.raises(AcceleratorError, match="no endpoint"):
        decide([Group("us-east-1", ())], LATENCY, lambda: 0.5)


ENDPOINTS = st.lists(st.tuples(st.integers(0, 255), st.booleans()), min_size=1, max_size=3)
GROUPS = st.lists(st.tuples(st.floats(0, 100), ENDPOINTS), min_size=1, max_size=4)
DRAWS = st.lists(st.floats(0, 1, exclude_max=True), min_size=8, max_size=8)


@given(configuration=GROUPS, draws=DRAWS)
def test_a_usable_endpoint_within_three_groups_is_always_preferred(
    configuration: list[tuple[float, list[tuple[int, bool]]]], draws: list[float]
) -> None:
    groups = [
        Group(region, tuple(Endpoint(f"{region}/{i}", *each) for i, each in enumerate(endpoints)), dial)
        for region, (dial, endpoints) in zip(LATENCY, configuration, strict=False)
    ]
    source = iter(draws)
    decision = decide(groups, LATENCY, lambda: next(source))
    endpoint = {each.name: each for g in groups for each in g.endpoints}[decision.endpoint]
    if decision.reason == "fail-open":
        assert decision.region == "us-east-1", "fail-open goes to the group closest to the client"
        tried = sum(1 for g in groups if not g.usable)
        assert tried >= min(3, len(groups)), "only after three groups, or all there are, had nothing usable"
    else:
        assert endpoint.healthy, "every other rule sends to healthy endpoints only"
        assert endpoint.weight > 0, "and never to weight 0"
