import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.mesh.budget import RetryBudget


def drain(budget: RetryBudget, now: float) -> int:
    taken = 0
    while budget.try_retry(now):
        taken += 1
    return taken


def test_retries_are_a_fraction_of_requests() -> None:
    budget = RetryBudget(ratio=0.2, min_per_s=0, window_s=10, now=0)
    drain(budget, 0)
    for _ in range(4):
        budget.record_request(0)
    assert not budget.try_retry(0), "four requests at a ratio of 0.2 do not pay for a retry"
    budget.record_request(0)
    budget.record_request(0)
    assert budget.try_retry(0), "six requests do"
    assert budget.refused >= 1, "refusals are counted"


def test_a_quiet_client_may_retry() -> None:
    budget = RetryBudget(ratio=0, min_per_s=10, now=0)
    drain(budget, 0)
    assert drain(budget, 0.5) == 5, "half a second brings five of ten a second"


def test_time_that_goes_back_brings_nothing() -> None:
    budget = RetryBudget(ratio=0, min_per_s=10, now=100)
    drain(budget, 100)
    assert not budget.try_retry(50), "an older time adds no token"
    assert not budget.try_retry(100), "and is not earned twice afterwards"


@pytest.mark.parametrize("wrong", [{"ratio": -0.1}, {"min_per_s": -1}, {"window_s": 0}])
def test_figures_that_make_no_budget_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="none may be negative"):
        RetryBudget(**wrong)


@given(
    ratio=st.floats(0, 1),
    rate=st.floats(0, 50),
    steps=st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=200),
)
def test_retries_never_exceed_what_was_earned(ratio: float, rate: float, steps: list[tuple[float, bool]]) -> None:
    budget = RetryBudget(ratio=ratio, min_per_s=rate, now=0)
    now, requests, retries = 0.0, 0, 0
    for pause, retry in steps:
        now += pause
        if retry:
            retries += budget.try_retry(now)
        else:
            budget.record_request(now)
            requests += 1
        assert 0 <= budget.tokens <= budget.capacity, "the bucket neither owes nor overflows"
    start = max(1.0, rate)
    assert retries <= start + requests * ratio + now * rate + 1e-6, "every retry was paid for"
