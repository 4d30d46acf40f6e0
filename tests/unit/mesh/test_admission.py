import asyncio
import contextlib

import pytest

from dataplane.mesh.admission import Admission
from dataplane.protocol.errors import ProblemError


class Holder:
    """A request that takes a slot and keeps it until told."""

    def __init__(self, admission: Admission, timeout_s: float = 5.0) -> None:
        self.inside = False
        self.leave = asyncio.Event()
        self.task = asyncio.create_task(self._hold(admission, timeout_s))

    async def _hold(self, admission: Admission, timeout_s: float) -> None:
        async with admission.slot(timeout_s=timeout_s):
            self.inside = True
            await self.leave.wait()

    async def finish(self) -> None:
        self.leave.set()
        await self.task


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_waiters_enter_in_the_order_they_came() -> None:
    admission = Admission(max_in_flight=1, max_queue=2)
    first, second, third = (Holder(admission) for _ in range(3))
    await settle()
    assert (admission.in_flight, admission.waiting) == (1, 2), "one holds, two wait"
    await first.finish()
    await settle()
    assert (second.inside, third.inside) == (True, False), "the older waiter is next"
    await second.finish()
    await third.finish()
    assert (admission.in_flight, admission.waiting) == (0, 0), "every slot came back once"


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    admission = Admission(max_in_flight=1, max_queue=0, retry_after_s=3)
    holder = Holder(admission)
    await settle()
    with pytest.raises(ProblemError) as refused:
        async with admission.slot(timeout_s=5):
            pytest.fail("there was no slot")
    assert (refused.value.code, refused.value.retry_after_s) == ("overloaded", 3), "429 with Retry-After"
    assert admission.refused == 1, "refusals are counted"
    await holder.finish()


async def test_a_wait_that_is_too_long_is_refused_and_leaves_no_trace() -> None:
    admission = Admission(max_in_flight=1, max_queue=1)
    holder = Holder(admission)
    await settle()
    with pytest.raises(ProblemError, match="no slot came free"):
        async with admission.slot(timeout_s=0.01):
            pytest.fail("there was no slot")
    assert admission.waiting == 0, "a waiter that gave up waits no more"
    await holder.finish()
    assert admission.in_flight == 0, "and took nothing"


@pytest.mark.parametrize("release_first", [True, False])
async def test_a_waiter_cancelled_around_a_release_loses_no_slot(*, release_first: bool) -> None:
    admission = Admission(max_in_flight=1, max_queue=2)
    holder, waiter, later = (Holder(admission) for _ in range(3))
    await settle()
    if release_first:
        holder.leave.set()
        await asyncio.sleep(0)  # the slot changes hands now, and the waiter has not run yet
        waiter.task.cancel()
    else:
        waiter.task.cancel()
        holder.leave.set()
    with contextlib.suppress(asyncio.CancelledError):
        await waiter.task
    await settle()
    assert later.inside, "the slot went on to the next waiter"
    await later.finish()
    await holder.task
    assert (admission.in_flight, admission.waiting) == (0, 0), "and came back once"


async def test_an_error_inside_gives_the_slot_back() -> None:
    admission = Admission(max_in_flight=1)
    with pytest.raises(RuntimeError):
        async with admission.slot(timeout_s=1):
            raise RuntimeError
    assert admission.in_flight == 0, "a failed request holds nothing"


async def test_idle_waits_for_the_last_one() -> None:
    admission = Admission(max_in_flight=2)
    await asyncio.wait_for(admission.idle(), 1)
    holder = Holder(admission)
    await settle()
    idle = asyncio.create_task(admission.idle())
    await settle()
    assert not idle.done(), "someone is still inside"
    await holder.finish()
    await asyncio.wait_for(idle, 1)


async def test_a_storm_of_arrivals_and_cancellations_ends_at_zero() -> None:
    admission = Admission(max_in_flight=3, max_queue=10)
    holders = []
    for number in range(60):
        holder = Holder(admission, timeout_s=0.02)
        holders.append(holder)
        await asyncio.sleep(0)
        if number % 3 == 0:
            holders[number // 2].task.cancel()
        if number % 4 == 0:
            holders[number // 3].leave.set()
        assert admission.in_flight <= 3, "the limit holds at every moment"
    for holder in holders:
        holder.leave.set()
    await asyncio.gather(*(holder.task for holder in holders), return_exceptions=True)
    assert (admission.in_flight, admission.waiting) == (0, 0), "every slot came back exactly once"
