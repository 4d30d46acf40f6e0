"""When a tenant tries again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dataplane.tenant.retry import RetryPolicy


@given(st.integers(1, 7), st.floats(0, 1, exclude_max=True))
def test_waits_grow_and_stay_within_their_bounds(attempt: int, draw: float) -> None:
    policy = RetryPolicy()
    wait = policy.delay_s(attempt, remaining_s=100, random=lambda: draw)
    ceiling = min(policy.cap_s, policy.base_s * 2 ** (attempt - 1))
    assert wait is not None, "there are attempts and time left"
    assert ceiling / 2 <= wait <= ceiling, "half of a wait is certain, half is jitter"


@given(st.integers(1, 7), st.integers(0, 60), st.floats(0.01, 200))
def test_a_peers_wish_is_honoured_or_the_client_gives_up(attempt: int, asked: int, remaining: float) -> None:
    wait = RetryPolicy().delay_s(attempt, remaining_s=remaining, random=lambda: 0.5, retry_after_s=asked)
    if wait is None:
        assert asked + 2 >= remaining, "it gives up only where the wait would outlast the deadline"
    else:
        assert asked <= wait < remaining, "never sooner than asked, never past the deadline"


def test_the_last_attempt_is_the_last() -> None:
    policy = RetryPolicy(max_attempts=3)
    assert policy.delay_s(2, remaining_s=10, random=lambda: 0) is not None, "a third attempt is allowed"
    assert policy.delay_s(3, remaining_s=10, random=lambda: 0) is None, "a fourth is not"


def test_a_wish_beyond_all_time_is_given_up_on() -> None:
    wait = RetryPolicy().delay_s(1, remaining_s=10, random=lambda: 0, retry_after_s=10**400)
    assert wait is None, "an integer that no float can hold is no reason to crash"
