"""Tenants' limits, tenants' files and the body on its way: counts that must come out even."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol.errors import ProblemError, SettingsError
from dataplane.router.limits import BURST_S, Lease, TenantLimits, TokenBucket
from dataplane.router.replay import ReplayStore, RequestBody
from dataplane.router.tenants import MAX_FILE_BYTES, Tenant, TenantDirectory, Tenants, load_tenants
from tests.unit.router.harness import API_KEY, KMS_KEY, write_tenants


@given(
    st.floats(0.1, 1000),
    st.floats(0, 100),
    st.lists(st.floats(0, 5), min_size=1, max_size=100),
)
def test_a_bucket_never_gives_more_than_burst_and_rate(rate: float, burst: float, pauses: list[float]) -> None:
    bucket = TokenBucket(rate=rate, burst=burst, now=0)
    now, given_out = 0.0, 0
    for pause in pauses:
        now += pause
        wait_s = bucket.take(now)
        assert wait_s >= 0, "time to wait is not negative"
        given_out += wait_s == 0
    assert given_out <= max(1.0, burst) + rate * now + 1e-6, "what was saved and what came in, no more"


@given(st.floats(0.1, 100))
def test_waiting_as_long_as_told_is_enough(rate: float) -> None:
    bucket = TokenBucket(rate=rate, burst=1, now=0)
    assert bucket.take(0) == 0, "it starts full"
    wait_s = bucket.take(0)
    assert wait_s > 0, "it is empty"
    assert bucket.take(wait_s * 1.000001) == 0, "the time that was told was true"


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5))
def test_places_come_out_even_whatever_the_order(steps: list[bool], most: int) -> None:
    limits, held = TenantLimits(), list[Lease]()
    for take in steps:
        if take:
            if len(held) < most:
                held.append(limits.admit("a", max_in_flight=most, per_minute=10_000_000, now=0))
            else:
                with pytest.raises(ProblemError, match=f"the most is {most}"):
                    limits.admit("a", max_in_flight=most, per_minute=10_000_000, now=0)
        elif held:
            lease = held.pop()
            lease.release()
            lease.release()
        assert limits.in_flight("a") == len(held) <= most, "each place is counted once"


def test_limits_are_each_tenants_own_and_follow_the_file() -> None:
    limits = TenantLimits()
    burst = int(6 / 60 * BURST_S)
    assert burst == 1, "six a minute save up one"
    lease = limits.admit("a", max_in_flight=9, per_minute=6, now=0)
    with pytest.raises(ProblemError, match="6 requests per minute"):
        limits.admit("a", max_in_flight=9, per_minute=6, now=1)
    limits.admit("b", max_in_flight=9, per_minute=6, now=1).release()
    limits.admit("a", max_in_flight=9, per_minute=600, now=1).release()
    limits.keep_only({"b"})
    assert limits.in_flight("a") == 1, "a tenant with something in flight is not forgotten"
    lease.release()
    limits.keep_only({"b"})
    assert limits.in_flight("a") == 0, "then it is"


def test_a_tenant_is_known_by_the_hash_of_its_key(tmp_path: Path) -> None:
    tenants = load_tenants(write_tenants(tmp_path / "tenants.json"))
    tenant = tenants.authenticate("tenant-a", API_KEY)
    assert tenant.id == "tenant-a", "the right key"
    assert tenants.authenticate(None, API_KEY) == tenant, "the key alone names its tenant"
    assert tenant.api_key_sha256[0] not in repr(tenant), "not even the hash is shown"
    Tenants.check_key(tenant, KMS_KEY)
    sentences = set()
    for name, key in (("tenant-a", "wrong"), ("tenant-b", API_KEY), ("nobody", API_KEY), (None, "wrong"), ("", "")):
        with pytest.raises(ProblemError) as caught:
            tenants.authenticate(name, key)
        sentences.add(caught.value.detail)
    assert len(sentences) == 1, "a refusal does not tell a wrong key from an unknown tenant"
    digest = hashlib.sha256(API_KEY.encode()).hexdigest()
    with pytest.raises(ProblemError):
        tenants.authenticate("tenant-a", digest)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"api_key_sha256": ["short"]}, "tenants.0.api_key_sha256.0"),
        ({"api_key_sha256": []}, "tenants.0.api_key_sha256"),
        ({"api_key_sha256": ["A" * 64]}, "tenants.0.api_key_sha256.0"),
        ({"kms_keys": ["not-an-arn"]}, "tenants.0.kms_keys.0"),
        ({"max_in_flight": 0}, "tenants.0.max_in_flight"),
        ({"requests_per_minute": "many"}, "tenants.0.requests_per_minute"),
        ({"surprise": 1}, "tenants.0.surprise"),
        ({"id": "tenant-b"}, "'tenant-b' is listed twice"),
        ({"api_key_sha256": [hashlib.sha256(b"key-of-tenant-b").hexdigest()]}, "hash is listed twice"),
        ({"id": ""}, "tenants.0.id"),
    ],
)
def test_a_faulty_file_is_refused_whole_and_the_fault_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = write_tenants(tmp_path / "tenants.json", **change)
    with pytest.raises(SettingsError) as caught:
        load_tenants(path)
    assert words in str(caught.value), "the sentence says where"
    assert str(path) in str(caught.value), "and in which file"
    assert json.loads(path.read_text())["tenants"][1]["api_key_sha256"][0] not in str(caught.value), "no hash in it"


def test_a_reload_takes_a_good_file_and_keeps_the_old_on_a_bad_one(tmp_path: Path) -> None:
    path = write_tenants(tmp_path / "tenants.json")
    told: list[frozenset[str]] = []
    directory = TenantDirectory(path, changed=lambda tenants: told.append(tenants.ids))
    path.write_text("{ half a fi")
    assert directory.reload() is False, "it is refused"
    assert directory.current.authenticate("tenant-a", API_KEY).id == "tenant-a", "the old ones stay"
    path.unlink()
    assert directory.reload() is False, "a file that is gone is refused likewise"
    write_tenants(path, id="tenant-c")
    assert directory.reload() is True, "a good one is taken"
    assert directory.current.authenticate("tenant-c", API_KEY).id == "tenant-c", "and is in force"
    assert told == [frozenset({"tenant-b", "tenant-c"})], "whoever counts tenants is told once"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    assert directory.reload() is False, "a file that is far too large is not even parsed"


def body_of(*pieces: bytes | Exception, store: ReplayStore, **more: Any) -> RequestBody:
    rest = iter([*pieces, b""])

    async def read() -> bytes:
        await asyncio.sleep(0)
        piece = next(rest)
        if isinstance(piece, Exception):
            raise piece
        return piece

    return RequestBody(read, store=store, **more)


async def collect(stream: AsyncIterator[bytes], most: int | None = None) -> list[bytes]:
    got: list[bytes] = []
    while most is None or len(got) < most:
        try:
            got.append(await anext(stream))
        except StopAsyncIteration:
            break
    return got


@given(
    st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=8),
    st.lists(st.integers(0, 8), max_size=3),
)
def test_every_attempt_sees_the_body_from_its_first_byte(pieces: list[bytes], stops: list[int]) -> None:
    async def run() -> None:
        store = ReplayStore()
        body = body_of(*pieces, store=store)
        for stop in stops:
            got = await collect(body.stream(), stop)
            assert got == pieces[: len(got)], "an attempt that is given up saw the beginning"
        assert body.replayable, "everything was kept"
        assert await collect(body.stream()) == pieces, "and the last one all of it"
        assert body.complete, "the end was reached"
        assert store.used == sum(map(len, pieces)), "what is kept is counted"
        body.stop_keeping()
        body.stop_keeping()
        assert store.used == 0, "and given back once"
        assert not body.replayable, "then it can't be sent again"

    asyncio.run(run())


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=8), st.integers(0, 100))
def test_a_body_that_finds_no_room_passes_whole_and_can_not_be_repeated(pieces: list[bytes], room: int) -> None:
    async def run() -> None:
        store = ReplayStore(total_bytes=room)
        body = body_of(*pieces, store=store)
        assert await collect(body.stream()) == pieces, "it passes whole"
        fits = sum(map(len, pieces)) <= room
        assert body.replayable == fits, "it may be repeated only if all of it was kept"
        assert store.used <= room, "the bound holds"
        body.stop_keeping()
        assert store.used == 0, "and nothing stays behind"

    asyncio.run(run())


async def test_a_piece_read_for_an_attempt_that_was_cancelled_is_not_lost() -> None:
    gate = asyncio.Event()
    rest = iter([b"one", b"two", b""])

    async def read() -> bytes:
        await gate.wait()
        return next(rest)

    body = RequestBody(read, store=ReplayStore())
    first = asyncio.create_task(collect(body.stream()))
    await asyncio.sleep(0)
    second = asyncio.create_task(collect(body.stream()))
    await asyncio.sleep(0)
    first.cancel()
    gate.set()
    assert await second == [b"one", b"two"], "the next attempt goes on where the body is"


@pytest.mark.parametrize(
    ("pieces", "code", "words"),
    [
        ([], "malformed-envelope", "empty"),
        ([b"x" * 11], "too-large", "over 10 bytes"),
        ([b"x" * 6, b"y" * 6], "too-large", "over 10 bytes"),
        ([b"abc", ValueError("secret")], "malformed-envelope", "after 3 bytes"),
        ([b"abc", ConnectionResetError("secret")], "malformed-envelope", "after 3 bytes"),
    ],
)
async def test_a_bad_body_is_the_tenants_fault(pieces: list[bytes | Exception], code: str, words: str) -> None:
    body = body_of(*pieces, store=ReplayStore(), max_bytes=10)
    with pytest.raises(ProblemError) as caught:
        await collect(body.stream())
    assert (caught.value.code, body.fault, body.replayable) == (code, caught.value, False), "no host is asked again"
    assert words in caught.value.detail, "the sentence says what happened"
    assert "secret" not in caught.value.detail, "and repeats nothing of it"
    with pytest.raises(ProblemError):
        await collect(body.stream(), most=9)


def many_tenants(count: int) -> Tenants:
    def digest(number: int) -> str:
        return hashlib.sha256(f"key-{number}".encode()).hexdigest()

    return Tenants(
        tuple(
            Tenant.model_validate(
                {"id": f"t-{number}", "api_key_sha256": [digest(number), digest(-1 - number)], "kms_keys": []}
            )
            for number in range(count)
        )
    )


class CountingHashes(dict[str, Tenant]):
    """An index that counts how often a stored hash is looked at."""

    looks = 0

    def get(self, key: str, default: Any = None) -> Any:
        self.looks += 1
        return super().get(key, default)

    def __iter__(self) -> Any:
        self.looks += len(self)
        return super().__iter__()


@pytest.mark.parametrize("name", [None, "t-1", "nobody"])
@pytest.mark.parametrize("key", ["wrong", "key-2999"])
def test_a_key_is_looked_up_once_however_many_tenants_there_are(name: str | None, key: str) -> None:
    tenants = many_tenants(3_000)
    index = CountingHashes(tenants._by_digest)
    tenants._by_digest = index
    if key == "wrong" or name is not None:
        with pytest.raises(ProblemError) as caught:
            tenants.authenticate(name, key)
        assert caught.value.code == "unauthenticated", "one refusal, whatever was wrong"
    else:
        assert tenants.authenticate(name, key).id == "t-2999", "the key alone says whose it is"
    assert index.looks == 1, "one look, and no walk over everybody's hashes"


def test_each_of_a_tenants_keys_is_taken_and_no_other_tenants() -> None:
    tenants = many_tenants(10)
    for key in ("key-3", "key--4"):
        assert tenants.authenticate("t-3", key).id == "t-3", "two while one is rotated"
        with pytest.raises(ProblemError):
            tenants.authenticate("t-4", key)
