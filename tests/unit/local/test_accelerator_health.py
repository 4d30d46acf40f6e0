"""A load balancer's verdict on its target."""

from __future__ import annotations

from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from stacks.local.accelerator.health import TargetHealth, Thresholds


def after(checks: list[bool], thresholds: Thresholds) -> TargetHealth:
    health = TargetHealth()
    for passed in checks:
        health = health.after(passed=passed, thresholds=thresholds)
    return health


def test_a_new_target_is_healthy_after_one_good_check() -> None:
    assert after([], Thresholds()).state == "initial", "no traffic before the first verdict"
    assert after([True], Thresholds()).state == "healthy"


def test_one_bad_check_changes_nothing_and_two_do() -> None:
    assert after([True, False], Thresholds()).state == "healthy", "the threshold is 2"
    assert after([True, False, False], Thresholds()).state == "unhealthy"
    assert after([True, False, False, True], Thresholds()).state == "unhealthy", "and so is the way back"
    assert after([True, False, False, True, True], Thresholds()).state == "healthy"


@given(
    checks=st.lists(st.booleans(), min_size=1, max_size=40),
    healthy=st.integers(1, 5),
    unhealthy=st.integers(1, 5),
)
def test_the_verdict_is_the_last_run_that_was_long_enough(checks: list[bool], healthy: int, unhealthy: int) -> None:
    verdict = "initial"
    for passed, run in groupby(checks):
        needed = (1 if verdict == "initial" else healthy) if passed else unhealthy
        if len(list(run)) >= needed:
            verdict = "healthy" if passed else "unhealthy"
    assert after(checks, Thresholds(healthy, unhealthy)).state == verdict, "only a full run in a row turns a verdict"
