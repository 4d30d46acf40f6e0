import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.mesh.breaker import BreakerState, CircuitBreaker


def opened(now: float = 0.0, **options: float) -> CircuitBreaker:
    breaker = CircuitBreaker(failures=3, open_s=1.0, max_open_s=8.0, **options)
    for _ in range(3):
        assert breaker.allow(now), "a closed breaker lets everything through"
        breaker.failure(now)
    return breaker


def test_failures_in_a_row_open_it_and_nothing_passes() -> None:
    breaker = opened()
    assert breaker.state(0.5) is BreakerState.OPEN, "three failures of three open it"
    assert not breaker.allow(0.5), "an open breaker lets nothing through"


def test_a_success_in_between_starts_the_count_again() -> None:
    breaker = CircuitBreaker(failures=2)
    breaker.failure(0)
    breaker.success(0)
    breaker.failure(0)
    assert breaker.state(0) is BreakerState.CLOSED, "failures must be in a row"


def test_one_probe_at_a_time_decides() -> None:
    breaker = opened()
    assert breaker.would_allow(1.0), "the time is up"
    assert breaker.allow(1.0), "so one probe may go"
    assert not breaker.allow(1.0), "and a second may not"
    breaker.success(1.1)
    assert breaker.state(1.1) is BreakerState.CLOSED, "a good probe closes it"
    assert breaker.allow(1.1), "for everyone"


def test_failed_probes_wait_longer_each_time_up_to_a_bound() -> None:
    breaker, now, waits = opened(), 1.0, []
    for _ in range(5):
        assert breaker.allow(now), "each time that is up allows one probe"
        breaker.failure(now)
        wait = next(step for step in range(1, 100) if breaker.would_allow(now + step))
        waits.append(wait)
        now += wait
    assert waits == [2, 4, 8, 8, 8], "the pause doubles up to its bound"


def test_a_probe_that_says_nothing_is_given_up() -> None:
    breaker = opened(probe_s=5.0)
    assert breaker.allow(1.0), "the probe goes"
    assert not breaker.allow(5.9), "and holds its place"
    assert breaker.allow(6.0), "until its time is up, or a lost caller would shut the peer out for ever"


def test_a_released_probe_lets_the_next_one_go() -> None:
    breaker = opened()
    assert breaker.allow(1.0), "the probe goes"
    breaker.release(1.0)
    assert breaker.allow(1.0), "cancelled, it says nothing of the peer"


def test_a_late_failure_does_not_prolong_the_pause() -> None:
    breaker = opened()
    breaker.failure(0.9)
    assert breaker.would_allow(1.0), "requests sent before it opened have been counted in"


def test_figures_that_make_no_breaker_are_refused() -> None:
    with pytest.raises(ValueError, match="out of range"):
        CircuitBreaker(failures=0)


@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from(["success", "failure", "release", "lost"])), max_size=100))
def test_no_history_shuts_a_peer_out_for_ever(history: list[tuple[float, str]]) -> None:
    breaker, now = CircuitBreaker(failures=2, open_s=1, max_open_s=4, probe_s=2), 0.0
    for pause, outcome in history:
        now += pause
        if breaker.allow(now) and outcome != "lost":
            getattr(breaker, outcome)(now)
    assert breaker.would_allow(now + 4.01), "after the longest pause and a probe's time something may be tried"
