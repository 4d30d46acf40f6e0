"""A KMS session: one call for many requests, renewal in time, and clear failures."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from dataplane.tenant.session import LIFETIME_S, RENEW_BEFORE_S, RENEWAL_PAUSE_S, KmsSession, SessionError, region_of
from observability.tracing import Telemetry
from tests.unit.tenant.fake_cluster import KEY_ARN, TENANT, FakeKms

START_MS = 1_700_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def wall_ms(self) -> int:
        return START_MS + int(self.now_s * 1000)

    def monotonic(self) -> float:
        return self.now_s


def make(kms: FakeKms, clock: Clock, **changes: Any) -> KmsSession:
    return KmsSession(
        tenant=TENANT,
        key_arn=KEY_ARN,
        kms=kms,
        clock_ms=clock.wall_ms,
        monotonic=clock.monotonic,
        telemetry=Telemetry.from_environment("tenant", environ={}),
        **changes,
    )


async def settled(session: KmsSession) -> None:
    """Wait for the background call, if one runs."""
    for _ in range(200):
        if session._making is None:
            return
        await asyncio.sleep(0.005)
    pytest.fail("the background renewal did not end")


def denied(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "GenerateDataKey")


async def test_a_thousand_requests_cost_one_call() -> None:
    kms, clock = FakeKms(), Clock()
    session = make(kms, clock)
    keys = await asyncio.gather(*(session.key() for _ in range(1000)))
    assert len(kms.contexts) == 1, "all of them wait for the same call"
    assert {id(key) for key in keys} == {id(keys[0])}, "and share its key"
    context = kms.contexts[0]
    assert set(context) == {"mrgc:tenant", "mrgc:session", "mrgc:expires"}, "the context is exactly the protocol's"
    assert context["mrgc:tenant"] == TENANT, "the context names the tenant"
    assert len(bytes.fromhex(context["mrgc:session"])) == 16, "the session is 32 hex digits"
    assert int(context["mrgc:expires"]) == START_MS // 1000 + LIFETIME_S, "it ends within 15 minutes less clock lead"
    await session.close()


async def test_the_next_key_is_made_before_the_last_one_ends() -> None:
    kms, clock = FakeKms(), Clock()
    session = make(kms, clock)
    first = await session.key()
    clock.now_s = LIFETIME_S - RENEW_BEFORE_S + 1
    assert await session.key() is first, "nobody waits for the renewal"
    await settled(session)
    second = await session.key()
    assert second is not first, "the renewed key takes over"
    assert len(kms.contexts) == 2, "one call for each key"
    await session.close()


async def test_a_failed_renewal_leaves_the_old_key_and_is_not_repeated_at_once() -> None:
    kms, clock = FakeKms(), Clock()
    session = make(kms, clock)
    first = await session.key()
    clock.now_s = LIFETIME_S - RENEW_BEFORE_S + 1
    kms.fail = denied("KMSInternalException")
    for _ in range(5):
        assert await session.key() is first, "requests go on with the key that is left"
        await settled(session)
    assert len(kms.contexts) == 2, "five requests within the pause make one renewal"
    clock.now_s += RENEWAL_PAUSE_S
    kms.fail = None
    await session.key()
    await settled(session)
    assert await session.key() is not first, "the next renewal worked"
    await session.close()


async def test_an_ended_key_is_never_used() -> None:
    kms, clock = FakeKms(), Clock()
    session = make(kms, clock)
    await session.key()
    clock.now_s = LIFETIME_S
    kms.fail = denied("AccessDeniedException")
    with pytest.raises(SessionError, match="refused GenerateDataKey"):
        await session.key()
    await session.close()


@pytest.mark.parametrize(
    ("fault", "is_denied"),
    [
        (denied("AccessDeniedException"), True),
        (denied("NotFoundException"), True),
        (denied("ThrottlingException"), False),
        (EndpointConnectionError(endpoint_url="https://kms"), False),
    ],
)
async def test_failures_say_whether_asking_again_may_help(fault: Exception, *, is_denied: bool) -> None:
    kms = FakeKms()
    kms.fail = fault
    session = make(kms, Clock())
    with pytest.raises(SessionError) as caught:
        await session.key()
    assert caught.value.denied is is_denied, "a refusal is final, an outage is not"
    assert KEY_ARN in str(caught.value), "the sentence names the key"
    await session.close()


async def test_a_silent_kms_is_given_up_at_the_deadline() -> None:
    kms = FakeKms()
    kms.wait_s = 0.3
    session = make(kms, Clock(), deadline_s=0.02)
    started = time.monotonic()
    with pytest.raises(SessionError, match=r"within 0\.02 s"):
        await session.key()
    assert time.monotonic() - started < 0.25, "the caller did not wait for the thread"
    await session.close()


async def test_one_caller_that_gives_up_fails_no_other() -> None:
    kms = FakeKms()
    kms.wait_s = 0.05
    session = make(kms, Clock())
    first, second = asyncio.create_task(session.key()), asyncio.create_task(session.key())
    await asyncio.sleep(0.01)
    first.cancel()
    assert (await second).cek, "the other caller still gets the key"
    assert len(kms.contexts) == 1, "from the same call"
    await session.close()


async def test_closing_ends_the_call_and_forgets_the_key() -> None:
    session = make(FakeKms(), Clock())
    await session.key()
    await session.close()
    with pytest.raises(SessionError, match="closed"):
        await session.key()
    assert session._current is None, "the key is not kept"


async def test_no_key_shows_in_a_repr() -> None:
    session = make(FakeKms(), Clock())
    key = await session.key()
    assert key.cek.hex() not in repr(key), "hex of the key is not shown"
    assert repr(key.cek) not in repr(key), "nor its bytes"
    await session.close()


@pytest.mark.parametrize("text", ["", "alias/mine", "arn:aws:s3:us-east-1:1:x", "arn:aws:kms::1:key/2"])
def test_what_is_no_key_arn_is_named(text: str) -> None:
    with pytest.raises(SessionError, match="no key ARN"):
        region_of(text)


@pytest.mark.parametrize("lifetime", [0, 45, 901])
def test_a_lifetime_out_of_range_is_refused(lifetime: int) -> None:
    with pytest.raises(SessionError, match="out of range"):
        make(FakeKms(), Clock(), lifetime_s=lifetime)
