"""Anybody may have a KMS key of their own and seal as tenant "victim": what that gets them from an enclave."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.enclave.replay import ReplayWindow
from dataplane.enclave.salt import cache_salt
from dataplane.enclave.tenant_key import TenantKey
from dataplane.protocol.errors import ProblemError
from tests.unit.enclave.harness import KEY_ARN, Enclave, enclave

ATTACKERS_ARN = "arn:aws:kms:us-east-1:444455556666:key/mrk-0000000000000000000000000000000a"
"""A key in the attacker's own account, whose policy the attacker writes."""

LOCAL_ARN = "arn:aws:kms:us-east-1:111122223333:key/12345678-90ab-cdef-1234-567890abcdef"


async def sealed_as_victim(running: Enclave, kms: str) -> str:
    """Ask as tenant "victim" under a key; return the salt that the worker was given, or the problem."""
    context, _, _ = running.session("victim")
    session = (context, *running.kms.wrap(context, kms))
    before = len(running.worker.seen)
    outcome = await running.infer(running.seal(tenant="victim", session=session, kms=kms))
    return running.worker.seen[-1].cache_salt if len(running.worker.seen) > before else outcome.problem


async def test_naming_the_victim_under_another_key_gets_another_salt(tmp_path: Path) -> None:
    async with enclave(tmp_path) as running:
        victims = await sealed_as_victim(running, KEY_ARN)
        assert await sealed_as_victim(running, KEY_ARN) == victims, "control: the victim shares with itself"
        assert await sealed_as_victim(running, ATTACKERS_ARN) != victims, "a name is free; a key is not"


async def test_a_multi_region_key_has_one_salt_wherever_it_is_named(tmp_path: Path) -> None:
    async with enclave(tmp_path) as running:
        at_home = await sealed_as_victim(running, KEY_ARN)
        abroad = await sealed_as_victim(running, KEY_ARN.replace("us-east-1", "us-west-2"))
        assert at_home == abroad, "a replica has the same key material: the tenant finds its own cache"


async def test_naming_the_victim_does_not_fill_the_victims_share_of_the_replay_window(tmp_path: Path) -> None:
    window = ReplayWindow(max_entries=8, max_share=0.25, max_account_share=0.5)
    async with enclave(tmp_path, replay=window) as running:
        for _ in range(2):
            assert len(await sealed_as_victim(running, ATTACKERS_ARN)) == 64, "the attacker's own share takes these"
        assert await sealed_as_victim(running, ATTACKERS_ARN) == "tenant-over-limit", "control: then it is full"
        for _ in range(2):
            assert len(await sealed_as_victim(running, KEY_ARN)) == 64, "the victim's own share is untouched"


def test_a_request_of_another_key_with_the_victims_rid_is_another_request() -> None:
    window = ReplayWindow()
    for kms in (ATTACKERS_ARN, KEY_ARN):
        # What was sealed under another key cannot mark the victim's request as served.
        window.record(key=TenantKey.parse(kms), tenant="victim", rid=b"r", expires_ms=1_000, now_ms=0)
    with pytest.raises(ProblemError, match="already served"):
        window.record(key=TenantKey.parse(KEY_ARN), tenant="victim", rid=b"r", expires_ms=1_000, now_ms=0)


def test_many_names_and_many_keys_of_one_account_leave_room_for_others() -> None:
    window = ReplayWindow(max_entries=8, max_share=0.25, max_account_share=0.5)
    codes = []
    for number in range(6):
        key = TenantKey.parse(f"{ATTACKERS_ARN}{number % 3}")
        try:
            window.record(key=key, tenant=f"name-{number}", rid=b"r", expires_ms=1_000, now_ms=0)
        except ProblemError as problem:
            codes.append(problem.code)
    assert codes == ["tenant-over-limit"] * 2, "an account has half of the window, whatever it calls itself"
    window.record(key=TenantKey.parse(KEY_ARN), tenant="victim", rid=b"r", expires_ms=1_000, now_ms=0)


@pytest.mark.parametrize(
    "arn",
    [
        "",
        "mrk-1",
        "alias/victim",
        "arn:aws:kms:us-east-1:111122223333:alias/victim",
        "arn:aws:kms:us-east-1:111122223333:key/",
        "arn:aws:kms:us-east-1:111122223333:key/mrk-1 ",
        "arn:aws:kms:us-east-1:111122223333:key/mrk-1\n",
        "arn:aws:kms:us-east-1:11112222333:key/mrk-1",
        "arn:aws:kms:us-east-1:١١١١٢٢٢٢٣٣٣٣:key/mrk-1",
        "arn:aws-cn:kms:cn-north-1:111122223333:key/mrk-1",
        "ARN:AWS:KMS:us-east-1:111122223333:key/mrk-1",
        "arn:aws:kms:us-east-1:111122223333:key/mrk-1:key/mrk-2",
    ],
)
def test_what_is_no_key_arn_has_no_identity(arn: str) -> None:
    with pytest.raises(ProblemError) as caught:
        TenantKey.parse(arn)
    assert caught.value.code == "kms-denied", "an alias can be pointed at another key: only a key's own ARN counts"


def test_only_a_multi_region_key_loses_its_region() -> None:
    west = LOCAL_ARN.replace("us-east-1", "us-west-2")
    assert TenantKey.parse(LOCAL_ARN).identity == LOCAL_ARN, "a key of one region is named as it is"
    assert TenantKey.parse(LOCAL_ARN) != TenantKey.parse(west), "two regions' keys may have one id and are two keys"
    multi = TenantKey.parse(KEY_ARN)
    assert multi.identity == KEY_ARN.replace("us-east-1", ""), "account and id name a multi-region key"
    assert multi.account == "111122223333", "whose it is"
    other = KEY_ARN.replace("111122223333", "444455556666")
    assert TenantKey.parse(other) != multi, "the same id in another account is another key"


def test_the_salt_is_what_the_protocol_says() -> None:
    # HKDF-SHA256 (RFC 5869) with hmac alone; lengths are u32 over UTF-8 bytes.
    key = b"arn:aws:kms::111122223333:key/mrk-1"
    tenant = "ténant".encode()
    info = b"mrgc/1 cache salt" + len(key).to_bytes(4, "big") + key + b"\x00\x00\x00\x07" + tenant
    prk = hmac.new(bytes(32), b"\x01" * 32, hashlib.sha256).digest()
    expected = hmac.new(prk, info + b"\x01", hashlib.sha256).hexdigest()
    given_key = TenantKey.parse("arn:aws:kms:us-west-2:111122223333:key/mrk-1")
    assert cache_salt(b"\x01" * 32, given_key, "ténant") == expected, "HKDF by hand"


IDS = st.from_regex(r"[A-Za-z0-9-]{1,8}", fullmatch=True)
KEYS = st.builds("arn:aws:kms:{}:{}:key/{}".format, st.sampled_from(["us-east-1", "us-west-2"]), st.just("1" * 12), IDS)


@given(KEYS, st.text(max_size=6), KEYS, st.text(max_size=6))
def test_two_pairs_of_key_and_tenant_never_share_a_salt(one: str, tenant: str, two: str, other: str) -> None:
    secret = bytes(32)
    same = (TenantKey.parse(one), tenant) == (TenantKey.parse(two), other)
    salts = {cache_salt(secret, TenantKey.parse(one), tenant), cache_salt(secret, TenantKey.parse(two), other)}
    assert len(salts) == (1 if same else 2), "the lengths keep key and tenant apart"
