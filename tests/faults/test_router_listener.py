"""Over TLS a broken answer is broken too, a trace tells every attempt, and a warm host is found again."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from observability import names
from observability.tracing import Telemetry
from stacks.local.pki import create_ca, create_server_certificate
from tests.unit.router.harness import (
    ANSWER,
    API_KEY,
    ENVELOPE,
    KMS_KEY,
    Exchange,
    FakeParent,
    answer_well,
    head,
    record,
    running,
)


def tls_files(tmp_path: Path) -> tuple[dict[str, Any], ssl.SSLContext]:
    authority = create_ca()
    ca, _ = authority.save(tmp_path, "ca")
    certificate, key = create_server_certificate(authority).save(tmp_path, "router")
    return {"tls_cert_file": certificate, "tls_key_file": key}, ssl.create_default_context(cafile=str(ca))


async def test_over_tls_a_whole_answer_is_clean_and_a_broken_one_is_not(tmp_path: Path) -> None:
    files, trust = tls_files(tmp_path)

    async def die(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunk(b"MRGC first piece")
        await asyncio.sleep(0.05)
        exchange.cut()

    async with FakeParent() as parent, running(tmp_path, parent, trust=trust, **files) as router:
        reply = await router.infer()
        assert (reply.status, reply.body, reply.clean) == (200, ANSWER, True), "a whole answer"
        parent.behave = die
        reply = await router.infer()
        assert (reply.status, reply.body, reply.clean) == (200, b"MRGC first piece", False), "a broken one"


async def test_over_tls_a_tenant_that_leaves_lets_the_host_go_at_once(tmp_path: Path) -> None:
    files, trust = tls_files(tmp_path)
    let_go = asyncio.Event()

    async def work(exchange: Exchange) -> None:
        await exchange.wait_closed()
        let_go.set()

    async with (
        FakeParent(work) as parent,
        running(tmp_path, parent, trust=trust, **files) as router,
        router.client() as client,
    ):
        await client.send(head(content_length=str(len(ENVELOPE))) + ENVELOPE)
        await asyncio.wait_for(parent.arrived.wait(), 5)
        client.cut()
        await asyncio.wait_for(let_go.wait(), 1)


async def test_clear_text_on_the_tls_port_gets_no_page(tmp_path: Path) -> None:
    files, trust = tls_files(tmp_path)
    async with FakeParent() as parent, running(tmp_path, parent, trust=trust, **files) as router:
        reader, writer = await asyncio.open_connection("127.0.0.1", router.router.port)
        writer.write(head("GET", "/health"))
        try:
            got = await asyncio.wait_for(reader.read(), 5)
        except ConnectionError:
            got = b""
        writer.close()
        assert not got.startswith(b"HTTP/"), "API keys are not invited in clear"
        assert (await router.infer()).status == 200, "others are served as before"


async def test_a_trace_tells_every_attempt_and_no_secret(tmp_path: Path) -> None:
    async def fail(exchange: Exchange) -> None:
        await exchange.problem(502, "host-failed")

    exporter = InMemorySpanExporter()
    telemetry = Telemetry.exporting("router", exporter)
    async with (
        FakeParent(fail) as bad,
        FakeParent() as good,
        running(tmp_path, bad, randrange=lambda _: 0, telemetry=telemetry) as router,
    ):
        await router.put(record("i-1", good.address, health=0))
        reply = await router.infer(traceparent=f"00-{'a' * 32}-{'b' * 16}-01", x_request_id="traced")
        assert reply.headers["x-mrgc-attempts"] == "2", reply.body
        sent = good.exchanges[0].headers["traceparent"]
        assert (await router.infer(x_model_pool="missing")).status == 404, "a refusal is a span too"
    telemetry.shutdown()
    spans = exporter.get_finished_spans()
    ours = [span for span in spans if span.context and span.context.trace_id == int("a" * 32, 16)]
    by_name = {
        name: [span for span in ours if span.name == name] for name in (names.ROUTER_ROUTE, names.ROUTER_FORWARD)
    }
    (route,) = by_name[names.ROUTER_ROUTE]
    assert route.parent is not None, "below the tenant's span"
    assert route.parent.span_id == int("b" * 16, 16), "which the tenant named"
    assert route.attributes is not None, "with what is known"
    assert route.attributes[names.ATTEMPTS] == 2, "two hosts were tried"
    assert route.attributes[names.REQUEST_ID] == "traced", "under the tenant's id"
    attempts = [span for span in ours if span.name == names.ROUTER_FORWARD]
    attempts.sort(key=lambda span: span.start_time or 0)
    instances = [dict(span.attributes or {})[names.INSTANCE] for span in attempts]
    assert instances == ["i-0", "i-1"], "one span an attempt"
    assert [span.status.status_code for span in attempts] == [StatusCode.ERROR, StatusCode.UNSET], "the first failed"
    assert attempts[1].context is not None, "a span has a context"
    assert sent.split("-")[2] == f"{attempts[1].context.span_id:016x}", "the host goes on below its own attempt"
    refused = [dict(s.attributes or {}).get(names.PROBLEM) for s in spans if s.name == names.ROUTER_ROUTE]
    assert "unknown-model-pool" in refused, "the refusal is told by its code"
    text = json.dumps([json.loads(span.to_json()) for span in spans])
    for secret in (API_KEY, "Bearer", KMS_KEY, "sealed"):
        assert secret not in text, "no key and no byte of an envelope is in any span"


async def test_a_warm_host_is_preferred_while_it_is_nearly_as_good(tmp_path: Path) -> None:
    tags = ",".join(f"{n:016x}" for n in range(3))
    async with (
        FakeParent(answer_well) as one,
        FakeParent(answer_well) as two,
        FakeParent(answer_well) as three,
        running(tmp_path, one, two, three) as router,
    ):
        first = await router.infer(x_mrgc_affinity=tags)
        for _ in range(10):
            reply = await router.infer(x_mrgc_affinity=tags)
            assert reply.headers["x-mrgc-instance"] == first.headers["x-mrgc-instance"], "its prefix cache is warm"
        spread = {(await router.infer()).headers["x-mrgc-instance"] for _ in range(40)}
        assert len(spread) > 1, "without tags chance decides"
