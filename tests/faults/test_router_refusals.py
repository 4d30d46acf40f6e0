"""Every refusal that the router itself makes, over the wire: status, code and sentence."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from dataplane.router.head import MAX_REQUEST_BYTES
from tests.unit.router.harness import (
    API_KEY,
    ENVELOPE,
    KMS_KEY,
    ROUTE_HEADERS,
    Exchange,
    FakeParent,
    head,
    running,
)


async def test_a_good_request_passes_unchanged_and_its_answer_comes_back(tmp_path: Path) -> None:
    async with FakeParent() as parent, running(tmp_path, parent) as router:
        reply = await router.infer(x_request_id="my-request", traceparent=f"00-{'a' * 32}-{'b' * 16}-01")
        assert reply.status == 200, reply.body
        assert reply.clean, "the answer ended properly"
        assert reply.headers["x-request-id"] == "my-request", "the tenant's request id comes back"
        assert reply.headers["x-mrgc-instance"] == "i-0", "the host that answered is named"
        assert reply.headers["x-mrgc-attempts"] == "1", "one host was tried"
        assert reply.headers["x-mrgc-region"] == "us-east-1", "the region is named"
        sent = parent.exchanges[0]
        assert sent.line == "POST /inference HTTP/1.1", "the parent's page is the same"
        assert sent.body == ENVELOPE, "the body passes unread and unchanged"
        assert "authorization" not in sent.headers, "the API key ends at the router"
        assert API_KEY not in json.dumps(sent.headers), "the API key is in no other header either"
        assert 0 < int(sent.headers["x-deadline-ms"]) <= 120_000, "the remaining time is passed on"
        assert sent.headers["traceparent"].split("-")[1] == "a" * 32, "the trace goes on"
        assert sent.headers["traceparent"].split("-")[2] != "b" * 16, "below the router's own span"


@pytest.mark.parametrize(
    ("changes", "status", "code", "words"),
    [
        ({"authorization": None}, 401, "unauthenticated", "No API key"),
        ({"authorization": "Basic abc"}, 401, "unauthenticated", "Bearer"),
        ({"authorization": "Bearer wrong"}, 401, "unauthenticated", "not valid for this tenant"),
        ({"authorization": "Bearer " + "x" * 600}, 401, "unauthenticated", "longer than any"),
        ({"x_tenant_id": "tenant-b"}, 401, "unauthenticated", "not valid for this tenant"),
        ({"x_tenant_id": "nobody"}, 401, "unauthenticated", "not valid for this tenant"),
        ({"x_kms_key_arn": KMS_KEY + "0"}, 403, "key-not-registered", "is not registered for this tenant"),
        ({"x_model_pool": "missing"}, 404, "unknown-model-pool", "No host here serves a model pool named 'missing'"),
        ({"x_tenant_id": None}, 400, "header-mismatch", "X-Tenant-ID is missing"),
        ({"x_model_pool": "m" * 129}, 400, "header-mismatch", "the most is 128"),
        ({"x_kms_key_arn": None}, 400, "header-mismatch", "X-KMS-Key-ARN is missing"),
        ({"content_type": "text/plain"}, 400, "malformed-envelope", "Content-Type is 'text/plain'"),
        ({"content_encoding": "gzip"}, 400, "malformed-envelope", "Content-Encoding"),
        ({"x_deadline_ms": "soon"}, 400, "malformed-envelope", "whole number of milliseconds"),
        ({"x_deadline_ms": "0"}, 504, "deadline-exceeded", "no time was left"),
        ({"x_request_id": "r" * 129}, 400, "malformed-envelope", "129 characters"),
        ({"expect": "a miracle"}, 400, "malformed-envelope", "Expect is"),
        ({"upgrade": "h2c"}, 400, "malformed-envelope", "Upgrade is not supported"),
        ({"content_length": str(MAX_REQUEST_BYTES + 1)}, 413, "too-large", str(MAX_REQUEST_BYTES)),
        ({"content_length": "0"}, 400, "malformed-envelope", "empty"),
        ({"content_length": None}, 400, "malformed-envelope", "no body"),
    ],
)
async def test_a_bad_head_is_refused(
    tmp_path: Path, changes: dict[str, str | None], status: int, code: str, words: str
) -> None:
    async with FakeParent() as parent, running(tmp_path, parent) as router, router.client() as client:
        await client.send(head(**{"content-length": str(len(ENVELOPE)), **changes}))
        reply = await client.reply()
        assert (reply.status, reply.code) == (status, code), reply.body
        assert words in reply.problem["detail"], "the sentence says what is wrong"
        assert API_KEY.encode() not in reply.body, "no refusal repeats the key"
        assert parent.exchanges == [], "nothing reached a host"


@pytest.mark.parametrize("name", ["Authorization", "X-Tenant-ID", "X-KMS-Key-ARN", "X-Model-Pool"])
async def test_a_header_given_twice_is_refused(tmp_path: Path, name: str) -> None:
    async with FakeParent() as parent, running(tmp_path, parent) as router:
        doubled = head(content_length="4").replace(b"\r\n\r\n", f"\r\n{name}: again\r\n\r\n".encode())
        reply = await router.ask(doubled + b"MRGC")
        assert (reply.status, reply.code) == (400, "malformed-envelope"), "two parsers could read it differently"
        assert "given twice" in reply.problem["detail"], "the sentence names the fault"
        assert parent.exchanges == [], "nothing reached a host"


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 4\r\nContent-Length: 5",
        "Content-Length: 4\r\nContent-Length: 4",
        "Content-Length: 4, 4",
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Content-Length: +4",
        "Content-Length: -4",
        "Content-Length: 0x4",
        "Content-Length : 4",
        "Transfer-Encoding : chunked",
    ],
)
async def test_framing_that_two_parsers_read_differently_is_refused(tmp_path: Path, framing: str) -> None:
    async with FakeParent() as parent, running(tmp_path, parent) as router, router.client() as client:
        lines = [f"{name}: {value}" for name, value in ROUTE_HEADERS.items()]
        request = "\r\n".join(["POST /inference HTTP/1.1", *lines, framing, "", ""]).encode()
        await client.send(request + b"4\r\nMRGC\r\n0\r\n\r\n")
        reply = await client.reply()
        assert (reply.status, reply.code) == (400, "malformed-envelope"), reply.body
        assert parent.exchanges == [], "nothing reached a host"
        rest = await asyncio.wait_for(client.reader.read(), 5)
        assert rest == b"", "and nothing behind it was taken for a second request"


@pytest.mark.parametrize("size", [9_000, 10_000_000])
async def test_a_huge_header_is_refused_and_the_refusal_arrives(tmp_path: Path, size: int) -> None:
    async with FakeParent() as parent, running(tmp_path, parent) as router, router.client() as client:
        sending = asyncio.create_task(client.send(head(x_junk="j" * size, content_length="4")))
        reply = await client.reply()
        assert (reply.status, reply.code) == (400, "malformed-envelope"), reply.body
        assert "8190" in reply.problem["detail"], "the limit is named"
        await asyncio.gather(sending, return_exceptions=True)
        assert parent.exchanges == [], "nothing reached a host"
        assert (await router.infer()).status == 200, "others are served as before"


async def test_too_many_headers_are_refused(tmp_path: Path) -> None:
    async with FakeParent() as parent, running(tmp_path, parent) as router:
        reply = await router.ask(head(content_length="4", **{f"x-{n}": "v" for n in range(200)}) + b"MRGC")
        assert (reply.status, reply.code) == (400, "malformed-envelope"), "200 fields are no ordinary request"


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"GARBAGE\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n"]
)
async def test_bytes_that_are_no_http_are_refused(tmp_path: Path, junk: bytes) -> None:
    async with FakeParent() as parent, running(tmp_path, parent) as router:
        reply = await router.ask(junk)
        assert (reply.status, reply.code) == (400, "malformed-envelope"), "garbage gets a problem document"


async def test_http_1_0_is_refused(tmp_path: Path) -> None:
    async with FakeParent() as parent, running(tmp_path, parent) as router:
        request = head(content_length="4").replace(b"HTTP/1.1", b"HTTP/1.0") + b"MRGC"
        reply = await router.ask(request)
        assert (reply.status, reply.code) == (400, "malformed-envelope"), "its end of stream can't be trusted"
        assert "HTTP/1.1" in reply.problem["detail"], "the sentence says what to send"


async def test_a_chunked_body_over_the_limit_is_refused_while_it_streams(tmp_path: Path) -> None:
    async with FakeParent() as parent, running(tmp_path, parent) as router, router.client() as client:
        await client.send(head(transfer_encoding="chunked"))
        piece = b"x" * 65_536

        async def pour() -> None:
            for _ in range(MAX_REQUEST_BYTES // len(piece) + 2):
                await client.send(b"%x\r\n%s\r\n" % (len(piece), piece))

        pouring = asyncio.create_task(pour())
        reply = await client.reply()
        assert (reply.status, reply.code) == (413, "too-large"), reply.body
        await asyncio.gather(pouring, return_exceptions=True)
        await asyncio.wait_for(parent.exchanges[0].cut_off.wait(), 5)
        assert parent.exchanges[0].body == b"", "the host saw a request that broke off, never a whole one"


async def test_a_chunked_body_with_broken_framing_is_refused(tmp_path: Path) -> None:
    async with FakeParent() as parent, running(tmp_path, parent) as router, router.client() as client:
        await client.send(head(transfer_encoding="chunked") + b"4\r\nMRGC\r\n")
        await asyncio.wait_for(parent.arrived.wait(), 5)
        await client.send(b"zz\r\nnot a chunk\r\n")
        reply = await client.reply()
        assert (reply.status, reply.code) == (400, "malformed-envelope"), reply.body
        await asyncio.wait_for(parent.exchanges[0].cut_off.wait(), 5)
        assert parent.exchanges[0].body == b"", "the host never saw a whole body"


async def test_too_many_requests_per_minute_are_refused_with_the_time_to_wait(tmp_path: Path) -> None:
    limits = {"requests_per_minute": 6}
    async with FakeParent() as parent, running(tmp_path, parent, tenants=limits) as router:
        assert (await router.infer()).status == 200, "the first is within the limit"
        reply = await router.infer()
        assert (reply.status, reply.code) == (429, "tenant-over-limit"), reply.body
        assert 9 <= int(reply.headers["retry-after"]) <= 10, "six a minute are one in ten seconds"
        assert "6 requests per minute" in reply.problem["detail"], "the limit is named"


async def test_too_many_requests_in_flight_are_refused_and_a_place_comes_free(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def hold(exchange: Exchange) -> None:
        await release.wait()
        await exchange.answer()

    async with FakeParent(hold) as parent, running(tmp_path, parent, tenants={"max_in_flight": 1}) as router:
        first = asyncio.create_task(router.infer())
        await asyncio.wait_for(parent.arrived.wait(), 5)
        reply = await router.infer()
        assert (reply.status, reply.code) == (429, "tenant-over-limit"), reply.body
        assert "retry-after" in reply.headers, "the tenant is told to wait"
        release.set()
        assert (await first).status == 200, "the one in flight is not disturbed"
        assert (await router.infer()).status == 200, "its place is free again"


async def test_a_full_router_says_overloaded(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def hold(exchange: Exchange) -> None:
        await release.wait()
        await exchange.answer()

    async with FakeParent(hold) as parent, running(tmp_path, parent, max_in_flight=1) as router:
        first = asyncio.create_task(router.infer())
        await asyncio.wait_for(parent.arrived.wait(), 5)
        reply = await router.infer()
        assert (reply.status, reply.code) == (429, "overloaded"), reply.body
        assert "retry-after" in reply.headers, "the tenant is told to wait"
        release.set()
        assert (await first).status == 200, "the one in flight is not disturbed"


async def test_without_any_host_there_is_no_capacity(tmp_path: Path) -> None:
    async with running(tmp_path) as router:
        reply = await router.infer()
        assert (reply.status, reply.code) == (503, "no-capacity"), "an empty region says nothing about the pool"
        assert reply.headers["retry-after"] == "1", "it may pass soon"
        assert (await router.get("/health")).status == 503, "and the load balancer is told"


async def test_a_pool_whose_hosts_went_away_is_no_capacity_and_not_unknown(tmp_path: Path) -> None:
    async with FakeParent() as parent, running(tmp_path, parent) as router:
        await router.registry.remove_host("us-east-1", "i-0")
        await router.refresh()
        reply = await router.infer()
        assert (reply.status, reply.code) == (503, "no-capacity"), "the pool exists, its hosts don't for now"


async def test_unknown_pages_and_methods_are_named(tmp_path: Path) -> None:
    async with FakeParent() as parent, running(tmp_path, parent) as router:
        for data in (head("GET", "/"), head("PUT", "/inference", content_length="0"), head("GET", "/hosts")):
            reply = await router.ask(data)
            assert (reply.status, reply.code) == (404, "not-found"), "operator's pages are not on this listener"
            assert "POST /inference" in reply.problem["detail"], "the sentence says what there is"


async def test_a_request_that_expects_100_gets_it_only_when_a_host_wants_the_body(tmp_path: Path) -> None:
    async with FakeParent() as parent, running(tmp_path, parent) as router:
        async with router.client() as client:
            await client.send(head(expect="100-continue", content_length=str(len(ENVELOPE))))
            assert (await client.read_head())[0] == 100, "the body is asked for"
            await client.send(ENVELOPE)
            reply = await client.reply()
            assert reply.status == 200, reply.body
            assert parent.exchanges[0].body == ENVELOPE, "the body arrives whole"
        async with router.client() as client:
            await client.send(head(expect="100-continue", content_length="9", authorization="Bearer no"))
            assert (await client.read_head())[0] == 401, "a refused request is not asked for its body"


async def test_who_only_knows_a_tenants_name_costs_it_nothing(tmp_path: Path) -> None:
    """Limits, warm hosts and figures are a tenant's once its key was right, and never by a header alone."""
    tags = f"{1:016x}"
    async with FakeParent() as parent, running(tmp_path, parent, tenants={"requests_per_minute": 6}) as router:
        for key in ("Bearer wrong", "Bearer key-of-tenant-b", None, "Bearer", "Basic x"):
            for _ in range(5):
                reply = await router.infer(authorization=key, x_mrgc_affinity=tags)
                assert (reply.status, reply.code) == (401, "unauthenticated"), "a name is no key"
        assert not parent.exchanges, "no host heard of it"
        assert router.router.limits.in_flight("tenant-a") == 0, "nothing of the tenant's is taken"
        assert (await router.infer()).status == 200, "its one request of ten seconds is still there"
        assert (await router.infer()).code == "tenant-over-limit", "control: the second is over the limit"
