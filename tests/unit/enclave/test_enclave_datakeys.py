"""Data keys: held for a bounded time, shared by a session's requests, gone after a wash."""

from __future__ import annotations

import asyncio
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.enclave.datakeys import MAX_KEYS, DataKeyCache, key_name
from dataplane.enclave.keyring import Keyring
from dataplane.enclave.salt import cache_salt
from dataplane.enclave.tenant_key import TenantKey
from dataplane.protocol.errors import ProblemError
from tests.support.cost import LOOP_STEP_S, least_cpu_s
from tests.unit.enclave.harness import KEY_ARN, HeldKms

NOW_MS = 1_800_000_000_000
HOUR_MS = NOW_MS + 3_600_000
CEK = b"k" * 32


def held(cache: DataKeyCache, name: bytes = b"n", *, now_s: float = 0, now_ms: int = NOW_MS) -> bytes | None:
    return cache.get(name, now_s=now_s, now_ms=now_ms)


def put(cache: DataKeyCache, name: bytes = b"n", *, expires_ms: int = HOUR_MS, now_s: float = 0) -> bool:
    return cache.put(name, CEK, expires_ms=expires_ms, generation=cache.generation, now_s=now_s, now_ms=NOW_MS)


def test_a_key_is_held_for_five_minutes_at_most() -> None:
    cache = DataKeyCache()
    put(cache)
    assert held(cache, now_s=299.9) == CEK, "just within"
    assert held(cache, now_s=300) is None, "and no longer, whatever the wall clock says"
    assert len(cache) == 0, "a lapsed key is dropped, not kept"


def test_a_key_is_not_held_beyond_its_session() -> None:
    cache = DataKeyCache()
    put(cache, expires_ms=NOW_MS + 1000)
    assert held(cache, now_ms=NOW_MS + 999) == CEK, "the session runs"
    assert held(cache, now_ms=NOW_MS + 1000) is None, "mrgc:expires has come"
    assert not put(cache, expires_ms=NOW_MS), "and a session that is over is never held"


def test_the_least_recently_used_key_makes_room() -> None:
    cache = DataKeyCache(max_keys=2)
    put(cache, b"1")
    put(cache, b"2")
    held(cache, b"1")
    put(cache, b"3")
    assert held(cache, b"2") is None, "it was used longest ago"
    assert held(cache, b"1") == CEK, "it was used since"


def test_a_wash_drops_every_key_and_refuses_those_on_their_way() -> None:
    cache = DataKeyCache()
    before = cache.generation
    put(cache, b"1")
    cache.drop_all()
    assert held(cache, b"1") is None, "no key outlives a wash"
    assert not cache.put(b"2", CEK, expires_ms=HOUR_MS, generation=before, now_s=0, now_ms=NOW_MS), "asked for before"
    assert held(cache, b"2") is None, "so it is not held"


def test_a_sweep_drops_what_nobody_asks_for() -> None:
    cache = DataKeyCache()
    put(cache)
    cache.sweep(now_s=301, now_ms=NOW_MS)
    assert len(cache) == 0, "an idle enclave holds no old key"


def test_a_key_is_in_no_repr() -> None:
    cache = DataKeyCache()
    put(cache)
    assert "kkkk" not in repr(cache._held), "a held key hides itself"


@given(
    st.text(max_size=20), st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3), st.binary(max_size=20)
)
def test_every_part_of_a_request_to_kms_is_in_its_name(kms: str, context: dict[str, str], wrapped: bytes) -> None:
    name = key_name(kms=kms, context=context, wrapped=wrapped)
    assert name != key_name(kms=kms + "x", context=context, wrapped=wrapped), "another key"
    assert name != key_name(kms=kms, context=context | {"another": "x"}, wrapped=wrapped), "another context"
    assert name != key_name(kms=kms, context=context, wrapped=wrapped + b"x"), "another ciphertext"
    assert name == key_name(kms=kms, context=dict(reversed(context.items())), wrapped=wrapped), "order says nothing"


def test_salts_of_tenants_differ_and_are_stable() -> None:
    secret, key = os.urandom(32), TenantKey(region="", account="111122223333", id="mrk-1")
    assert cache_salt(secret, key, "a") == cache_salt(secret, key, "a"), "one tenant, one salt"
    assert cache_salt(secret, key, "a") != cache_salt(secret, key, "b"), "two tenants, two"
    assert cache_salt(secret, key, "a") != cache_salt(os.urandom(32), key, "a"), "another enclave, another"


class Ring:
    """A keyring over a KMS that holds still until told."""

    def __init__(self, timeout_s: float = 2.0) -> None:
        self.kms = HeldKms()
        self.now_s = 0.0
        self.ring = Keyring(
            kms=self.kms,
            cache=DataKeyCache(),
            clock_ms=lambda: NOW_MS,
            monotonic=lambda: self.now_s,
            call_timeout_s=timeout_s,
        )
        self.context = {"mrgc:tenant": "a"}
        self.cek, self.wrapped = self.kms.wrap(self.context)

    def fetch(self) -> asyncio.Task[bytes]:
        return asyncio.create_task(
            self.ring.fetch(kms=KEY_ARN, context=self.context, wrapped=self.wrapped, expires_s=HOUR_MS // 1000)
        )

    def held(self) -> bytes | None:
        return self.ring.held(kms=KEY_ARN, context=self.context, wrapped=self.wrapped)


async def test_requests_of_one_session_share_one_call() -> None:
    ring = Ring()
    ring.kms.gate = asyncio.Event()
    tasks = [ring.fetch() for _ in range(10)]
    await asyncio.sleep(0)
    ring.kms.gate.set()
    assert await asyncio.gather(*tasks) == [ring.cek] * 10, "all get the key"
    assert ring.kms.calls == 1, "for one call"
    assert ring.held() == ring.cek, "and it is held"


async def test_a_failure_is_told_to_all_and_not_remembered() -> None:
    ring = Ring()
    ring.kms.gate, ring.kms.refuse = asyncio.Event(), ProblemError("kms-denied", "no")
    tasks = [ring.fetch(), ring.fetch()]
    await asyncio.sleep(0)
    ring.kms.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, ProblemError) for each in results), "everyone learns of it"
    ring.kms.refuse = None
    assert await ring.fetch() == ring.cek, "the next one asks again"


async def test_one_caller_that_leaves_does_not_take_the_others_along() -> None:
    ring = Ring()
    ring.kms.gate = asyncio.Event()
    leaver, stayer = ring.fetch(), ring.fetch()
    await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    ring.kms.gate.set()
    assert await stayer == ring.cek, "the call goes on for who waits"
    assert ring.kms.cancelled == 0, "nobody cancelled KMS"


async def test_a_key_asked_for_before_a_wash_is_not_held_after_it() -> None:
    ring = Ring()
    ring.kms.gate = asyncio.Event()
    before = ring.fetch()
    await asyncio.sleep(0)
    ring.ring.wash()
    after = ring.fetch()
    await asyncio.sleep(0)
    ring.kms.gate.set()
    assert await before == ring.cek, "who waited is served"
    assert await after == ring.cek, "who came after asked anew"
    assert ring.kms.calls == 2, "two generations, two calls"


async def test_close_cancels_what_is_in_flight_and_forgets() -> None:
    ring = Ring()
    await ring.fetch()
    ring.ring.wash()
    ring.kms.gate = asyncio.Event()
    task = ring.fetch()
    while ring.kms.calls < 2:  # noqa: ASYNC110 - one turn of the loop is enough
        await asyncio.sleep(0)
    await ring.ring.close()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ring.kms.cancelled == 1, "the call itself ended"
    assert ring.held() is None, "no key is left"


async def test_the_sweeper_drops_lapsed_keys_by_itself() -> None:
    ring = Ring()
    await ring.fetch()
    ring.now_s = 301
    sweeper = asyncio.create_task(ring.ring.sweep(period_s=0.001))
    async with asyncio.timeout(2):
        while len(ring.ring):  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)
    sweeper.cancel()
    await asyncio.gather(sweeper, return_exceptions=True)


def test_a_full_cache_of_lapsed_keys_is_dropped_within_a_step() -> None:
    def full() -> DataKeyCache:
        cache = DataKeyCache()
        for number in range(MAX_KEYS):
            put(cache, number.to_bytes(32))
        return cache

    caches = [full() for _ in range(3)]
    took = least_cpu_s(lambda: caches.pop().sweep(now_s=301, now_ms=NOW_MS))
    assert took < LOOP_STEP_S / 4, f"dropping {MAX_KEYS} keys took {took * 1000:.1f} ms"
