"""`GET /attestation` under a flood: inference notices nothing, and who asks is told what to expect."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dataplane.protocol.attestation.nonces import MAX_SHARED_NONCES, format_nonces
from dataplane.protocol.errors import ProblemError
from dataplane.router.attestation_limits import (
    ADDRESS_BURST,
    STRANGERS_BURST,
    TENANT_BURST,
    AttestationLimits,
)
from dataplane.tenant.attest import attest
from stacks.local.nsm import SoftwareNsm
from stacks.local.pki import create_nsm_root
from tests.support.whole_path import Options, chat, whole_path
from tests.unit.enclave.harness import PCRS
from tests.unit.router.harness import API_KEY, Client, Exchange, FakeParent, Reply, head, running

NONCE = "ab" * 32
NO_KEY: dict[str, str | None] = {"authorization": None, "x_tenant_id": None}


def ask(path: str = f"/attestation?nonce={NONCE}", /, **headers: str | None) -> bytes:
    plain: dict[str, str | None] = {"content-type": None, "x-kms-key-arn": None, "x-model-pool": None}
    return head("GET", path, **{**plain, **headers})


async def from_address(number: int, port: int, data: bytes) -> Reply:
    """Send a request from 127.1.x.y: every number is a client of its own."""
    local = f"127.1.{number // 250}.{number % 250 + 1}"
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(local, 0))
    client = Client(reader, writer)
    try:
        await client.send(data)
        return await client.reply()
    finally:
        await client.close()


async def give_document(exchange: Exchange) -> None:
    if exchange.line.startswith("GET /attestation"):
        await exchange.head(200, "application/cbor")
        await exchange.chunk(b"a document")
        await exchange.end()
    else:
        await exchange.answer()


async def refuse_documents(exchange: Exchange) -> None:
    if exchange.line.startswith("GET /attestation"):
        await exchange.problem(429, "overloaded", Retry_After="1")
    else:
        await exchange.answer()


async def fail_documents(exchange: Exchange) -> None:
    if exchange.line.startswith("GET /attestation"):
        exchange.cut()
    else:
        await exchange.answer()


@pytest.mark.parametrize(
    ("behave", "status", "code"), [(refuse_documents, 429, "overloaded"), (fail_documents, 502, "host-failed")]
)
async def test_hosts_that_give_no_document_serve_inference_as_before(
    tmp_path: Path, behave: Any, status: int, code: str
) -> None:
    async with FakeParent(behave) as one, FakeParent(behave) as two, running(tmp_path, one, two) as router:
        before = [(view.score, view.routable) for view in router.router.hosts.views()]
        for _ in range(12):
            reply = await router.ask(ask())
            assert reply.status in {status, 503}, "no host has a document to give"
            if reply.status == status:
                assert reply.code == code, reply.body
            assert "retry-after" in reply.headers, "and it is said when to come back"
        views = router.router.hosts.views()
        assert [view.breaker for view in views] == ["closed", "closed"], "nobody's inference breaker moved"
        assert [(view.score, view.routable) for view in views] == before, "nor any host's score"
        for _ in range(10):
            assert (await router.infer()).status == 200, "inference is served"


async def test_a_host_that_fails_attestations_is_not_asked_for_them_for_a_while(tmp_path: Path) -> None:
    async def no_document(exchange: Exchange) -> None:
        await exchange.problem(502, "host-failed")

    async with (
        FakeParent(no_document) as bad,
        FakeParent(give_document) as good,
        running(tmp_path, bad, good) as router,
    ):
        for _ in range(15):
            assert (await router.ask(ask())).headers["x-mrgc-instance"] == "i-1", "another host has one"
        assert len(bad.exchanges) <= 6, "its own breaker opens after five failures"


async def test_without_a_key_an_address_may_ask_now_and_then_and_with_one_a_tenant_more_often(tmp_path: Path) -> None:
    async with FakeParent(give_document) as parent, running(tmp_path, parent) as router:
        replies = [await router.ask(ask(**NO_KEY)) for _ in range(int(ADDRESS_BURST) + 3)]
        assert [reply.status for reply in replies[: int(ADDRESS_BURST)]] == [200] * int(ADDRESS_BURST), "a few are free"
        last = replies[-1]
        assert (last.status, last.code) == (429, "overloaded"), "then it is enough"
        assert "1 a second from one address" in last.problem["detail"], "the sentence says what the limit is"
        assert "Authorization: Bearer" in last.problem["detail"], "and what helps"
        assert int(last.headers["retry-after"]) == 1, "and when to come back"
        assert (await from_address(7, router.router.port, ask(**NO_KEY))).status == 200, "other addresses are free"
        known = [await router.ask(ask()) for _ in range(int(TENANT_BURST) + 8)]
        assert known[0].status == 200, "a tenant's key is another count"
        assert (known[-1].status, known[-1].code) == (429, "tenant-over-limit"), "bounded as well"
        assert "retry-after" in known[-1].headers, "with a time"
        assert (await router.infer()).status == 200, "and no part of the limits of inference"


async def test_a_wrong_key_gets_no_document(tmp_path: Path) -> None:
    async with FakeParent(give_document) as parent, running(tmp_path, parent) as router:
        reply = await router.ask(ask(authorization="Bearer wrong"))
        assert (reply.status, reply.code) == (401, "unauthenticated"), "it is not taken for no key"
        reply = await router.ask(ask(x_tenant_id="tenant-b"))
        assert (reply.status, reply.code) == (401, "unauthenticated"), "nor another tenant's name"
        assert not parent.exchanges, "no host was asked"


def test_many_addresses_together_are_bounded_and_the_table_of_them_too() -> None:
    limits = AttestationLimits(now=0.0, max_entries=100)
    for number in range(1_000):
        address = f"10.0.{number // 250}.{number % 250}"
        if number < STRANGERS_BURST:
            limits.admit_address(address, now=0.0)
            continue
        with pytest.raises(ProblemError, match="from all addresses"):
            limits.admit_address(address, now=0.0)
    assert len(limits) == 100, "and are forgotten, the oldest first"


async def test_the_document_of_one_named_host_can_be_asked_for(tmp_path: Path) -> None:
    async with (
        FakeParent(give_document) as one,
        FakeParent(give_document) as two,
        running(tmp_path, one, two) as router,
    ):
        for name, parent in (("i-0", one), ("i-1", two)):
            reply = await router.ask(ask(f"/attestation?nonce={NONCE}&instance={name}"))
            assert (reply.status, reply.headers["x-mrgc-instance"]) == (200, name), "that host's and no other's"
            assert parent.exchanges[-1].line.startswith(f"GET /attestation?nonce={NONCE}"), "it was asked"
        for unknown in ("i-9", "", "x" * 200, "i-0%20"):
            reply = await router.ask(ask(f"/attestation?nonce={NONCE}&instance={unknown}"))
            assert (reply.status, reply.code) == (404, "not-found"), unknown
            assert "takes requests" in reply.problem["detail"], "in a sentence"
        one.behave = fail_documents
        reply = await router.ask(ask(f"/attestation?nonce={NONCE}&instance=i-0"))
        assert (reply.status, reply.code) == (502, "host-failed"), "no other host stands in for it"


@pytest.mark.parametrize(
    ("nonces", "status"),
    [
        (None, 200),
        (format_nonces([bytes.fromhex(NONCE), bytes(16)]), 200),
        (format_nonces([bytes(16), bytes(17)]), 502),
        ("nonsense", 502),
        (NONCE, 502),
        (",".join(f"{n:0128x}" for n in range(MAX_SHARED_NONCES + 1)), 502),
    ],
)
async def test_a_list_of_nonces_passes_if_the_asker_could_take_it(
    tmp_path: Path, nonces: str | None, status: int
) -> None:
    async def answer(exchange: Exchange) -> None:
        more = {} if nonces is None else {"X_MRGC_Nonces": nonces}
        await exchange.head(200, "application/cbor", **more)
        await exchange.chunk(b"a document")
        await exchange.end()

    async with FakeParent(answer) as parent, running(tmp_path, parent) as router:
        reply = await router.ask(ask())
        assert reply.status == status, reply.body
        if status == 200:
            assert reply.headers.get("x-mrgc-nonces") == nonces, "as the host said it"


class SlowNsm(SoftwareNsm):
    """Signs one document at a time and takes 20 ms for it: a flood would keep it busy for ever."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.asked_for = 0

    def attest(self, *, nonce: bytes | None, user_data: bytes | None, public_key: bytes | None) -> bytes:
        if nonce is not None:
            self.asked_for += 1
            time.sleep(0.02)
        return super().attest(nonce=nonce, user_data=user_data, public_key=public_key)


async def test_no_inference_is_refused_while_attestations_are_asked_for_without_end(tmp_path: Path) -> None:
    """Router, parent and enclave are real; strangers ask the router, and as many as three routers ask the parent."""
    root = create_nsm_root()
    nsm = SlowNsm(root=root, pcrs=PCRS, instance_id="i-0aaaabbbbccccdddd", clock_ms=lambda: time.time_ns() // 1_000_000)
    async with whole_path(tmp_path, Options(enclave={"nsm": nsm, "root": root})) as path:
        done = asyncio.Event()
        told: Counter[int] = Counter()

        async def flood(number: int, port: int) -> None:
            while not done.is_set():
                data = ask(f"/attestation?nonce={secrets.token_hex(32)}", **NO_KEY)
                with contextlib.suppress(ConnectionError):
                    told[(await from_address(number, port, data)).status] += 1
                await asyncio.sleep(0)

        started = time.monotonic()
        flooding = [asyncio.create_task(flood(number, path.router.router.port)) for number in range(20)]
        # What the other routers of a region would ask of this host.
        flooding += [asyncio.create_task(flood(100 + number, path.parent_port)) for number in range(40)]
        try:
            outcomes = Counter([(await path.ask(path.seal(chat(max_tokens=2)))).status for _ in range(60)])
        finally:
            done.set()
            await asyncio.wait(flooding, timeout=10)
        elapsed_s = time.monotonic() - started
    assert outcomes == {200: 60}, "no request of a tenant was refused"
    assert sum(told.values()) > 200, f"it was a flood: {told}"
    assert set(told) <= {200, 429}, f"and everybody was answered: {told}"
    assert nsm.asked_for <= elapsed_s + 2, "the module made one document a second at most"


async def test_many_tenants_who_ask_together_share_documents_and_each_verifies_its_own(tmp_path: Path) -> None:
    root = create_nsm_root()
    nsm = SlowNsm(root=root, pcrs=PCRS, instance_id="i-0aaaabbbbccccdddd", clock_ms=lambda: time.time_ns() // 1_000_000)
    async with whole_path(tmp_path, Options(enclave={"nsm": nsm, "root": root})) as path:
        asking = [
            attest(
                endpoint=f"http://127.0.0.1:{path.router.router.port}",
                tls=None,
                api_key=API_KEY,
                tenant="tenant-a",
                measurements=[{index: PCRS[index] for index in range(3)}],
                roots=[root.certificate],
            )
            for _ in range(12)
        ]
        documents = await asyncio.gather(*asking)
    assert {document.pcrs[0] for document in documents} == {PCRS[0]}, "each has verified what it got"
    assert nsm.asked_for <= 3, "for twelve the module signed three times at most"
