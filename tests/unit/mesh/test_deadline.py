import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.mesh.deadline import CAP_S, Deadline
from dataplane.protocol.errors import ProblemError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_request_without_the_header_gets_the_default() -> None:
    deadline = Deadline.from_header(None, monotonic=Clock(), default_s=30)
    assert deadline.remaining_s == pytest.approx(30), "no header means the default"


def test_the_cap_bounds_both_the_header_and_the_default() -> None:
    clock = Clock()
    asked = Deadline.from_header("999999999", monotonic=clock, cap_s=60)
    default = Deadline.from_header(None, monotonic=clock, default_s=120, cap_s=60)
    assert asked.remaining_s == pytest.approx(60), "nobody may ask for more than the cap"
    assert default.remaining_s == pytest.approx(60), "a default over the cap is the cap"


def test_time_runs_out_and_never_below_zero() -> None:
    clock = Clock()
    deadline = Deadline.from_header("1500", monotonic=clock)
    clock.now += 1.0
    assert deadline.remaining_ms == 500, "a second of one and a half has passed"
    assert deadline.check("testing") == pytest.approx(0.5), "half a second is left"
    clock.now += 10
    assert deadline.remaining_ms == 0, "an old deadline has nothing left, not less"
    assert deadline.expired, "and says so"
    with pytest.raises(ProblemError) as refused:
        deadline.check("testing")
    assert refused.value.code == "deadline-exceeded", "a passed deadline has its own code"
    assert "testing" in refused.value.detail, "the sentence says what was being done"


@pytest.mark.parametrize("text", ["", "-1", "1.5", "soon", "0x10", "1_000", "²", "9" * 13])
def test_a_header_that_is_no_number_of_milliseconds_is_refused(text: str) -> None:
    with pytest.raises(ProblemError) as refused:
        Deadline.from_header(text, monotonic=Clock())
    assert refused.value.code == "malformed-envelope", "a bad header is the caller's fault"


def test_no_time_left_is_refused_as_such() -> None:
    with pytest.raises(ProblemError) as refused:
        Deadline.from_header("0", monotonic=Clock())
    assert refused.value.code == "deadline-exceeded", "zero is readable, and too late"


@given(st.integers(min_value=1, max_value=10**12 - 1))
def test_what_travels_on_is_never_more_than_what_came(milliseconds: int) -> None:
    deadline = Deadline.from_header(str(milliseconds), monotonic=Clock())
    assert deadline.remaining_ms <= min(milliseconds, CAP_S * 1000), "the next process must not believe in more time"
