"""Tenants that misbehave or go away, and the router's own leaving, over the wire."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from dataplane.mesh.httpserver import HEAD_S, KEEPALIVE_S
from dataplane.protocol.errors import MrgcError, SettingsError
from dataplane.registry.memory import MemoryRegistry
from dataplane.router.app import Router
from observability.tracing import Telemetry
from tests.unit.router.harness import (
    ANSWER,
    ENVELOPE,
    Exchange,
    FakeParent,
    eventually,
    head,
    make_settings,
    now_ms,
    running,
    write_tenants,
)


async def test_a_body_that_stops_midway_is_refused_and_the_host_is_let_go(tmp_path: Path) -> None:
    async with (
        FakeParent() as parent,
        running(tmp_path, parent, body_idle_s=0.1) as router,
        router.client() as client,
    ):
        await client.send(head(content_length="1000") + b"MRGC")
        reply = await client.reply()
        assert (reply.status, reply.code) == (400, "malformed-envelope"), reply.body
        assert "after 4 bytes" in reply.problem["detail"], "the sentence says how far it came"
        await asyncio.wait_for(parent.exchanges[0].cut_off.wait(), 5)
        assert router.router.hosts.views()[0].breaker == "closed", "the host is not blamed"


async def test_a_tenant_that_leaves_in_its_body_lets_the_host_go_at_once(tmp_path: Path) -> None:
    async with FakeParent() as parent, running(tmp_path, parent) as router, router.client() as client:
        await client.send(head(content_length="1000") + b"MRGC")
        await asyncio.wait_for(parent.arrived.wait(), 5)
        client.cut()
        await asyncio.wait_for(parent.exchanges[0].cut_off.wait(), 1)
        assert router.router.hosts.views()[0].breaker == "closed", "the host is not blamed"


@pytest.mark.parametrize("begun", [False, True])
async def test_a_tenant_that_leaves_lets_the_host_go_at_once(tmp_path: Path, begun: bool) -> None:  # noqa: FBT001 - a case
    let_go = asyncio.Event()
    working = asyncio.Event()

    async def work(exchange: Exchange) -> None:
        if begun:
            await exchange.head()
            await exchange.chunk(b"MRGC")
        working.set()
        await exchange.wait_closed()
        let_go.set()

    async with FakeParent(work) as parent, running(tmp_path, parent) as router, router.client() as client:
        await client.send(head(content_length=str(len(ENVELOPE))) + ENVELOPE)
        await asyncio.wait_for(working.wait(), 5)
        if begun:
            await client.read_head()
        client.cut()
        await asyncio.wait_for(let_go.wait(), 1)
        await eventually(lambda: router.router.admission.in_flight == 0, "the request is counted out")
        page = await router.get("/metrics", admin=True)
        assert b'mrgc_router_requests_total{outcome="tenant-gone"} 1.0' in page.body, "and told apart from failures"


async def test_a_slow_reader_holds_the_host_back_and_loses_nothing(tmp_path: Path) -> None:
    total = 32 * 2**20
    sent = 0

    async def pour(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.head()
        piece = b"x" * 65_536
        while sent < total:
            await exchange.chunk(piece)
            sent += len(piece)
        await exchange.end()

    async with FakeParent(pour) as parent, running(tmp_path, parent) as router, router.client() as client:
        await client.send(head(content_length=str(len(ENVELOPE))) + ENVELOPE)
        status, headers = await client.read_head()
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.05)
        assert sent < total, "the host is held back while the tenant reads nothing"
        assert status == 200, headers
        body = 0
        while size := int((await client.reader.readuntil(b"\r\n")).strip(), 16):
            await client.reader.readexactly(size + 2)
            body += size
        assert body == total, "nothing is lost once the tenant reads on"


async def test_a_tenant_that_never_reads_is_cut_off(tmp_path: Path) -> None:
    let_go = asyncio.Event()

    async def pour(exchange: Exchange) -> None:
        await exchange.head()
        try:
            while True:
                await exchange.chunk(b"x" * 65_536)
        except ConnectionError:
            let_go.set()
            raise

    async with FakeParent(pour) as parent, running(tmp_path, parent, write_stall_s=0.2) as router:
        async with router.client() as client:
            await client.send(head(content_length=str(len(ENVELOPE))) + ENVELOPE)
            await client.read_head()
            await asyncio.wait_for(let_go.wait(), 5)
        assert router.router.hosts.views()[0].breaker == "closed", "the host is not blamed"


async def test_a_slow_writer_is_served_as_long_as_it_goes_on(tmp_path: Path) -> None:
    async with (
        FakeParent() as parent,
        running(tmp_path, parent, body_idle_s=1) as router,
        router.client() as client,
    ):
        await client.send(head(content_length="8"))
        for byte in b"MRGCMRGC":
            await client.send(bytes([byte]))
            await asyncio.sleep(0.01)
        assert (await client.reply()).body == ANSWER, "slow is not broken"
        assert parent.exchanges[0].body == b"MRGCMRGC", "the body arrived whole"


async def test_a_writer_that_dawdles_past_the_first_byte_limit_is_blamed_itself(tmp_path: Path) -> None:
    async with (
        FakeParent() as parent,
        running(tmp_path, parent, first_byte_timeout_s=0.1) as router,
        router.client() as client,
    ):
        await client.send(head(content_length="8") + b"MRGC")
        reply = await client.reply()
        assert (reply.status, reply.code) == (400, "malformed-envelope"), reply.body
        assert router.router.hosts.views()[0].breaker == "closed", "the host is not blamed"


async def test_one_connection_carries_many_requests(tmp_path: Path) -> None:
    async with FakeParent() as parent, running(tmp_path, parent) as router, router.client() as client:
        for _ in range(5):
            await client.send(head(content_length=str(len(ENVELOPE))) + ENVELOPE)
            assert (await client.reply()).body == ANSWER, "each is answered in turn"
        await client.send((head(content_length=str(len(ENVELOPE))) + ENVELOPE) * 3)
        for _ in range(3):
            assert (await client.reply()).body == ANSWER, "also when they are sent ahead"
        assert len(parent.exchanges) == 8, "no request was lost or doubled"


async def test_an_idle_connection_makes_room_for_one_that_has_something_to_say(tmp_path: Path) -> None:
    async with FakeParent() as parent, running(tmp_path, parent, max_connections=1) as router, router.client() as idle:
        await idle.send(head(content_length=str(len(ENVELOPE))) + ENVELOPE)
        assert (await idle.reply()).status == 200, "the first is served"
        assert (await router.infer()).status == 200, "and so is the next, over the limit"
        with contextlib.suppress(ConnectionError):  # cut with a reset or without, as the kernel likes
            assert await asyncio.wait_for(idle.reader.read(), 5) == b"", "the idle one had to go"
        assert router.router.server.refused_connections == 1, "and is counted"


async def test_a_connection_in_use_is_never_cut_for_another(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def hold(exchange: Exchange) -> None:
        await release.wait()
        await exchange.answer()

    async with FakeParent(hold) as parent, running(tmp_path, parent, max_connections=1) as router:
        asked = asyncio.create_task(router.infer())
        await asyncio.wait_for(parent.arrived.wait(), 5)
        async with router.client() as surplus:
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(surplus.reader.read(), 5) == b"", "the surplus hears nothing"
        release.set()
        assert (await asked).status == 200, "and the first is not disturbed"


async def test_half_sent_heads_of_one_address_drive_out_only_each_other(tmp_path: Path) -> None:
    async with (
        FakeParent() as parent,
        running(tmp_path, parent, max_connections=20, max_strangers=5) as router,
        contextlib.AsyncExitStack() as stack,
    ):
        for _ in range(40):
            half = await stack.enter_async_context(router.client())
            await half.send(b"POST /inference HTTP/1.1\r\nHost: ro")
            assert (await router.infer()).status == 200, "a tenant is served meanwhile, from the same address"
        assert len(router.router.server.connections) <= 5 + 1, "strangers of one address are bounded"
        assert router.router.server.refused_connections >= 40 - 5, "the oldest had to go"


async def test_a_head_that_does_not_come_is_given_up_long_before_the_keepalive_ends(tmp_path: Path) -> None:
    assert HEAD_S <= 10 < KEEPALIVE_S, "a connection without a head is not worth an idle one's time"
    async with FakeParent() as parent, running(tmp_path, parent) as router:
        router.router.server.head_s = 0.1
        async with router.client() as silent, router.client() as half, router.client() as slow, router.client() as kept:
            await half.send(b"POST /inference HTTP/1.1\r\nHost: ro")
            await kept.send(head("GET", "/models"))
            assert (await kept.reply()).status == 200, "a whole head is answered"
            await kept.send(b"GET /models HTTP/1.1\r\nHost: ro")
            for byte in b"GET /":
                with contextlib.suppress(ConnectionError):
                    await slow.send(bytes([byte]))
                await asyncio.sleep(0.03)
            for what, client in (("silent", silent), ("half", half), ("a byte at a time", slow), ("later", kept)):
                with contextlib.suppress(ConnectionError):
                    assert await asyncio.wait_for(client.reader.read(), 5) == b"", what
            assert router.router.server.late_heads == 4, "each is counted"
            assert (await router.infer()).status == 200, "and others are served"


async def test_a_connection_that_is_idle_between_two_requests_is_kept(tmp_path: Path) -> None:
    async with FakeParent() as parent, running(tmp_path, parent) as router:
        router.router.server.head_s = 0.05
        async with router.client() as kept:
            for _ in range(3):
                await kept.send(head("GET", "/models"))
                assert (await kept.reply()).status == 200, "the time for a head runs from its first byte"
                await asyncio.sleep(0.1)


async def test_a_drain_says_not_ready_first_finishes_what_it_has_and_then_refuses(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def hold(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunk(b"MRGC")
        await release.wait()
        await exchange.chunk(b"rest")
        await exchange.end()

    async with FakeParent(hold) as parent, running(tmp_path, parent, drain_delay_s=0.2) as router:
        assert (await router.get("/health")).status == 200, "ready before"
        running_one = asyncio.create_task(router.infer())
        await asyncio.wait_for(parent.arrived.wait(), 5)
        async with router.client() as kept:
            await kept.send(head("GET", "/models"))
            assert (await kept.reply()).status == 200, "a connection that stays open"
            draining = asyncio.create_task(router.router.drain())
            await asyncio.sleep(0.02)
            page = await router.get("/health")
            assert (page.status, b"draining" in page.body) == (503, True), "health is false first"
            late = asyncio.create_task(router.infer())
            await eventually(lambda: len(parent.exchanges) == 2, "new requests are still served meanwhile")
            await eventually(lambda: router.router.server.listening is False, "then the listener closes")
            with pytest.raises(ConnectionError):
                await router.infer()
            assert not draining.done(), "it waits for what is in flight"
            release.set()
            assert (await running_one).body == b"MRGCrest", "which ends well"
            assert (await late).clean, "all of it"
            assert await asyncio.wait_for(draining, 5) is True, "and the drain is done"
            assert (await router.get("/health", admin=True)).status == 503, "the operator still sees it leave"


async def test_a_drain_is_bounded_and_cuts_what_does_not_finish(tmp_path: Path) -> None:
    let_go = asyncio.Event()

    async def hold(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunk(b"MRGC")
        await exchange.wait_closed()
        let_go.set()

    async with FakeParent(hold) as parent, running(tmp_path, parent, drain_timeout_s=0.2) as router:
        asked = asyncio.create_task(router.infer())
        await asyncio.wait_for(parent.arrived.wait(), 5)
        assert await asyncio.wait_for(router.router.drain(), 2) is False, "it says that something was left"
        await router.router.abort()
        reply = await asked
        assert (reply.status, reply.clean) == (200, False), "what is left is cut, never ended"
        await asyncio.wait_for(let_go.wait(), 1)


async def test_attestation_comes_from_one_enclave_and_names_it(tmp_path: Path) -> None:
    async def attest(exchange: Exchange) -> None:
        await exchange.head(200, "application/cbor")
        await exchange.chunk(exchange.line.encode())
        await exchange.end()

    async def no_document(exchange: Exchange) -> None:
        await exchange.problem(503, "no-capacity")

    async with FakeParent(no_document) as bad, FakeParent(attest) as good, running(tmp_path, bad, good) as router:
        nonce = "ab" * 32
        for _ in range(4):
            reply = await router.get(f"/attestation?nonce={nonce}")
            assert (reply.status, reply.headers["content-type"]) == (200, "application/cbor"), reply.body
            assert reply.headers["x-mrgc-instance"] == "i-1", "the enclave's host is named"
            assert reply.body == f"GET /attestation?nonce={nonce} HTTP/1.1".encode(), "the nonce reached it"
        for wrong in ("", "?nonce=abc", "?nonce=" + "zz" * 16, "?nonce=" + "00" * 15, "?nonce=" + "00" * 65):
            reply = await router.get("/attestation" + wrong)
            assert (reply.status, reply.code) == (400, "malformed-envelope"), wrong
        good.behave = no_document
        reply = await router.get(f"/attestation?nonce={nonce}")
        assert (reply.status, reply.code) == (502, "host-failed"), "no host has a document to give"


async def test_models_are_for_tenants_only_and_admin_pages_for_operators(tmp_path: Path) -> None:
    async with FakeParent() as parent, running(tmp_path, parent) as router:
        reply = await router.get("/models")
        assert b'{"id": "tiny", "engine": "synthetic", "assurance": 0, "hosts": 1}' in reply.body, "one pool"
        assert (await router.get("/models", x_tenant_id=None)).status == 200, "the key alone names the tenant"
        assert (await router.get("/models", authorization="Bearer wrong")).code == "unauthenticated", "not for others"
        assert b'"instance_id": "i-0"' in (await router.get("/hosts", admin=True)).body, "hosts for operators"
        assert b"mrgc_router_routable_hosts 1.0" in (await router.get("/metrics", admin=True)).body, "and figures"
        assert (await router.get("/models", admin=True)).code == "not-found", "nothing of tenants there"


async def test_a_port_in_use_is_said_in_one_sentence(tmp_path: Path) -> None:
    settings = make_settings(write_tenants(tmp_path / "tenants.json"))
    telemetry = Telemetry.from_environment("router", environ={})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        router = Router(
            settings, registry=MemoryRegistry(clock_ms=now_ms), telemetry=telemetry, port=port, admin_port=0
        )
        with pytest.raises(MrgcError, match=f"can't listen on 127.0.0.1:{port} .it is in use.; free the port"):
            async with router:
                pass


@pytest.mark.parametrize("content", [None, "", "[]", '{"tenants": [{"id": "x"}]}'])
async def test_an_unusable_tenants_file_is_named_before_anything_is_bound(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "tenants.json"
    if content is not None:
        path.write_text(content)
    settings = make_settings(path)
    with pytest.raises(SettingsError, match=r"TENANTS_FILE is '.*tenants\.json'"):
        Router(
            settings,
            registry=MemoryRegistry(clock_ms=now_ms),
            telemetry=Telemetry.from_environment("router", environ={}),
        )
