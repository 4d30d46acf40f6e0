"""The tenant's client against a cluster that opens its envelopes and misbehaves as planned."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dataplane.mesh.tls import client_context, server_context
from dataplane.protocol.errors import OpenError, ProblemError, SettingsError
from dataplane.tenant.client import TenantClient
from dataplane.tenant.errors import BrokenStreamError, RequestError
from dataplane.tenant.retry import RetryPolicy
from dataplane.tenant.session import SessionError
from observability import names
from observability.tracing import Telemetry
from stacks.local.pki import create_ca, create_server_certificate
from tests.unit.tenant.fake_cluster import (
    API_KEY,
    DIGEST,
    KEY_ARN,
    TENANT,
    Answer,
    Drop,
    FakeCluster,
    Raw,
    Refuse,
    Step,
    running,
)

PATH = "/v1/chat/completions"
BODY = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "sesame"}]}).encode()


async def collect(client: TenantClient, **arguments: Any) -> bytes:
    async with client.infer(PATH, BODY, model="tiny", **arguments) as response:
        return b"".join([chunk async for chunk in response.chunks()])


async def drained(chunks: AsyncIterator[bytes]) -> None:
    async for _ in chunks:
        pass


async def test_a_request_is_sealed_sent_and_opened() -> None:
    async with running(FakeCluster(otherwise=lambda _: Answer((b"one", b"two"), status=201))) as cluster:
        async with cluster.client() as client, client.infer(PATH, BODY, model="tiny", request_id="r-1") as response:
            assert (response.status, response.content_type) == (201, "application/json"), "the inner head is given"
            chunks = [chunk async for chunk in response.chunks()]
        assert b"".join(chunks) == b"onetwo", "the body arrives whole and in order"
        assert response.receipt is not None, "the receipt was checked"
        assert (response.instance, response.receipt.model_digest) == ("i-0123456789abcdef0", DIGEST), (
            "who answered is the enclave's word in the end"
        )
        seen = cluster.seen[0]
        assert (seen.message.path, seen.message.body) == (PATH, BODY), "path and body go through untouched"
        assert seen.headers["Authorization"] == f"Bearer {API_KEY}", "the tenant is authenticated"
        assert seen.headers["X-Request-ID"] == "r-1", "the caller's request id is used"
        assert seen.headers["X-KMS-Key-ARN"] == seen.header.kms == KEY_ARN, "header and envelope agree on the key"
        assert seen.headers["X-Tenant-ID"] == seen.header.tenant == TENANT, "and on the tenant"
        assert seen.headers["X-Model-Pool"] == seen.header.model == "tiny", "and on the model"
        assert 0 < int(seen.headers["X-Deadline-Ms"]) <= 600_000, "the deadline travels as remaining time"
        assert "X-MRGC-Affinity" not in seen.headers, "no tags unless a secret is configured"


@pytest.mark.parametrize("pad", [0, 4096])
async def test_the_largest_message_goes_through(pad: int) -> None:
    body = bytes((1 << 20) - 200)
    answer = Answer(tuple(bytes([n]) * 50_000 for n in range(20)))
    async with running(FakeCluster(otherwise=lambda _: answer)) as cluster, cluster.client(pad=pad) as client:
        done = await client.complete(PATH, body, model="tiny")
    assert cluster.seen[0].message.body == body, "1 MiB less the message's own fields"
    assert done.body == b"".join(answer.pieces), "and a long answer comes back"


async def test_affinity_tags_agree_for_prompts_that_start_alike() -> None:
    async with running(FakeCluster()) as cluster, cluster.client(affinity_secret=b"s" * 32) as client:
        for ending in ("red", "blue"):
            messages = [{"role": "user", "content": "x" * 1500}, {"role": "user", "content": ending}]
            await client.complete(PATH, json.dumps({"messages": messages}).encode(), model="tiny")
    first, second = (seen.headers["X-MRGC-Affinity"].split(",") for seen in cluster.seen)
    assert len(first) == 2, "1.5 KB of prompt has prefixes of 512 and 1,024 bytes"
    assert first == second, "what starts alike is tagged alike"


@pytest.mark.parametrize(
    "step",
    [
        Refuse(ProblemError("no-capacity", "No host.")),
        Refuse(ProblemError("host-failed", "It died.")),
        Refuse(ProblemError("overloaded", "Busy.")),
        Refuse(ProblemError("deadline-exceeded", "Late.")),
        Raw(502),
        Drop(),
        Answer(cut_after=0),
        Answer(pieces=(), end_early=True),
    ],
    ids=["503", "502", "429", "504", "502 without a problem", "dropped", "cut before a byte", "ended before a byte"],
)
async def test_what_gave_nothing_is_tried_again_with_a_new_seal(step: Step) -> None:
    async with running(FakeCluster()) as cluster:
        cluster.steps.extend([step, step])
        async with cluster.client() as client:
            assert await collect(client) == b"{}", "the third attempt was answered"
            assert client.counts.attempts == 3, "every attempt is counted"
            assert client.counts.failed == 0, "the request succeeded"
    rids = {seen.header.rid for seen in cluster.seen}
    assert len(rids) == 3, "each attempt is a request of its own, or it could be taken for a replay"
    assert len({seen.headers["X-Request-ID"] for seen in cluster.seen}) == 1, "under one name in logs"
    assert len(cluster.kms.contexts) == 1, "attempts share the session's key"


async def test_a_connection_that_was_refused_on_serves_no_later_request() -> None:
    async with running(FakeCluster()) as cluster, cluster.client() as client:
        await collect(client)
        cluster.steps.append(Refuse(ProblemError("no-capacity", "No host.")))
        await collect(client)
        await collect(client)
    _, refused, _, later = (seen.peer for seen in cluster.seen)
    assert later != refused, "it ends in a region without hosts, and would cost every later request its first attempt"


async def test_a_retry_uses_a_connection_of_its_own() -> None:
    async with running(FakeCluster()) as cluster, cluster.client() as client:
        await collect(client)
        cluster.steps.append(Refuse(ProblemError("no-capacity", "No host.")))
        await collect(client)
    first, refused, retried = (seen.peer for seen in cluster.seen)
    assert first == refused, "connections are kept"
    assert retried != refused, "a connection stays with its region, so a retry makes a new one"


@pytest.mark.parametrize(
    "code", ["kms-denied", "unauthenticated", "unknown-model-pool", "expired", "assurance-too-low"]
)
async def test_a_refusal_is_final_and_keeps_its_sentence(code: str) -> None:
    cluster = FakeCluster(otherwise=lambda _: Refuse(ProblemError(code, "The reason.")))
    async with running(cluster), cluster.client() as client:
        with pytest.raises(RequestError, match=r"The reason\.") as caught:
            await collect(client)
        assert client.counts.failed == 1, "a failed request is counted once"
    assert (caught.value.code, caught.value.attempts) == (code, 1), "it was not asked again"


async def test_retry_after_is_honoured_within_the_deadline_only() -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    busy = Refuse(ProblemError("tenant-over-limit", "Slow down.", retry_after_s=7))
    async with running(FakeCluster()) as cluster:
        cluster.steps.append(busy)
        async with cluster.client(sleep=sleep) as client:
            await collect(client)
            assert len(waits) == 1, "one wait for one refusal"
            assert 7 <= waits[0] < 8, "at least as long as asked"
            cluster.steps.append(busy)
            with pytest.raises(RequestError, match="Slow down") as caught:
                await collect(client, deadline_s=5)
    assert caught.value.retry_after_s == 7, "the caller learns when to come back"


async def test_attempts_end() -> None:
    async with running(FakeCluster(otherwise=lambda _: Drop())) as cluster, cluster.client() as client:
        with pytest.raises(RequestError, match="connection broke") as caught:
            await collect(client)
        assert caught.value.attempts == len(cluster.seen) == 4, "as many as the policy allows"


@pytest.mark.parametrize("end_early", [False, True], ids=["aborted", "ended cleanly"])
async def test_a_stream_cut_midway_raises_and_is_not_tried_again(*, end_early: bool) -> None:
    fault = Answer((b"one", b"two"), end_early=True) if end_early else Answer((b"one", b"two"), cut_after=1)
    async with running(FakeCluster(otherwise=lambda _: fault)) as cluster, cluster.client() as client:
        async with client.infer(PATH, BODY, model="tiny") as response:
            chunks = response.chunks()
            assert await anext(chunks) == b"one", "what had come is given"
            with pytest.raises(BrokenStreamError, match="incomplete"):
                await drained(chunks)
        assert response.receipt is None, "and nothing says that it was all"
        assert len(cluster.seen) == 1, "tokens that were given cannot be taken back"


async def test_a_collected_response_that_is_cut_is_tried_again() -> None:
    async with running(FakeCluster()) as cluster:
        cluster.steps.append(Answer((b"half", b"half"), cut_after=1))
        async with cluster.client() as client:
            done = await client.complete(PATH, BODY, model="tiny")
    assert (done.body, done.attempts) == (b"{}", 2), "nothing of the first was given, so it could be asked again"


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Answer(tamper=True), "does not open|authenticate"),
        (Answer(request=b"\x00" * 32), "another request"),
        (Answer(trailing=b"\x00"), "after|final"),
    ],
    ids=["altered", "another request's receipt", "bytes after the end"],
)
async def test_a_response_that_is_not_ours_is_refused_at_once(fault: Answer, sentence: str) -> None:
    async with running(FakeCluster(otherwise=lambda _: fault)) as cluster, cluster.client() as client:
        with pytest.raises(OpenError, match=sentence):
            await client.complete(PATH, BODY, model="tiny")
        assert len(cluster.seen) == 1, "an attack is no reason to try again"


async def test_an_answer_of_less_assurance_than_asked_is_refused() -> None:
    async with running(FakeCluster()) as cluster, cluster.client(assurance=1) as client:
        with pytest.raises(OpenError, match="level 0, below the 1"):
            await collect(client)
    assert cluster.seen[0].header.assurance == 1, "the enclave was told, too"


async def test_the_deadline_ends_a_silent_stream() -> None:
    async with running(FakeCluster(otherwise=lambda _: Answer((b"a", b"b"), hang_after=1))) as cluster:
        async with cluster.client() as client:
            with pytest.raises(RequestError, match="deadline passed") as caught:
                await collect(client, deadline_s=0.3)
        await asyncio.wait_for(cluster.cancelled.wait(), 2)
    assert caught.value.status == 504, "a deadline is a deadline on either side"


async def test_leaving_early_cancels_the_request_at_the_host() -> None:
    async with running(FakeCluster(otherwise=lambda _: Answer((b"a", b"b"), hang_after=1))) as cluster:
        async with cluster.client() as client, client.infer(PATH, BODY, model="tiny") as response:
            async for _ in response.chunks():
                break
        await asyncio.wait_for(cluster.cancelled.wait(), 2)
    assert response.receipt is None, "it was not finished"


async def test_cancelling_the_caller_cancels_the_request_at_the_host() -> None:
    cluster = FakeCluster(otherwise=lambda _: Answer((b"a", b"b"), hang_after=0))
    async with running(cluster), cluster.client() as client:
        task = asyncio.create_task(collect(client))
        await cluster.arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(cluster.cancelled.wait(), 2)


async def test_nobody_at_the_endpoint_is_said_in_one_sentence() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        cluster = FakeCluster(url=f"http://127.0.0.1:{port}")
        async with cluster.client(retry=RetryPolicy(max_attempts=2, base_s=0.001)) as client:
            with pytest.raises(RequestError, match="cannot be connected to") as caught:
                await collect(client)
    assert (caught.value.code, caught.value.attempts) == ("unreachable", 2), "a refused connection is tried again"


async def test_a_refused_data_key_fails_the_request_without_sending_it() -> None:
    async with running(FakeCluster()) as cluster:
        cluster.kms.fail = SessionError("KMS says no.", denied=True)
        async with cluster.client() as client:
            with pytest.raises(SessionError, match="KMS says no"):
                await collect(client)
        assert not cluster.seen, "nothing was sent without a key"


async def test_what_cannot_be_sent_is_refused_here() -> None:
    async with running(FakeCluster()) as cluster, cluster.client() as client:
        with pytest.raises(RequestError) as too_large:
            await client.complete(PATH, b"x" * (1 << 20), model="tiny")
        with pytest.raises(RequestError) as bad_model:
            await client.complete(PATH, BODY, model="tiny\r\nX-Tenant-ID: b")
        assert not cluster.seen, "neither left this process"
    assert too_large.value.code == "too-large", "a message has at most 1 MiB"
    assert bad_model.value.code == "unknown-model-pool", "a name cannot carry a header"


async def test_over_tls_only_the_named_authority_is_trusted(tmp_path: Path) -> None:
    authority = create_ca()
    ours, _ = authority.save(tmp_path, "ours")
    other, _ = create_ca().save(tmp_path, "other")
    tls = server_context(*create_server_certificate(authority).save(tmp_path, "server"))
    async with running(FakeCluster(), tls=tls) as cluster:
        async with cluster.client(tls=client_context(ours)) as client:
            assert await collect(client) == b"{}", "the named authority's certificate is accepted"
        async with cluster.client(tls=client_context(other)) as client:
            with pytest.raises(RequestError, match="certificate is not trusted") as caught:
                await collect(client)
    assert caught.value.attempts == 1, "a certificate does not get better by asking again"


@pytest.mark.parametrize(
    "url", ["http://mrgc.example", "ftp://127.0.0.1", "127.0.0.1:8443", "https://", "https://h/v1"]
)
def test_an_endpoint_that_would_leak_or_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="endpoint"):
        FakeCluster(url=url).client()


async def test_models_are_listed_and_a_wrong_api_key_is_said() -> None:
    async with running(FakeCluster()) as cluster:
        async with cluster.client() as client:
            models = await client.models()
            assert [(model.id, model.engine, model.hosts) for model in models] == [("tiny", "synthetic", 2)], (
                "as the router lists them"
            )
        async with cluster.client(api_key="wrong") as client:
            with pytest.raises(RequestError, match="API key is wrong") as caught:
                await client.models()
        cluster.models = [{"id": "tiny"}]
        async with cluster.client() as client:
            with pytest.raises(RequestError, match="not readable"):
                await client.models()
    assert caught.value.status == 401, "with the status of the problem"


async def test_one_trace_covers_key_seal_and_open_and_says_nothing_secret() -> None:
    spans = InMemorySpanExporter()
    telemetry = Telemetry.from_environment("tenant", environ={})
    telemetry._provider.add_span_processor(SimpleSpanProcessor(spans))
    async with running(FakeCluster()) as cluster, cluster.client(telemetry=telemetry) as client:
        await collect(client, traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    finished = {span.name: span for span in spans.get_finished_spans()}
    expected = {names.TENANT_REQUEST, names.TENANT_KMS, names.TENANT_SEAL, names.TENANT_OPEN}
    assert finished.keys() == expected, "every step has its span"
    request = finished[names.TENANT_REQUEST]
    assert request.context is not None, "a finished span has a context"
    assert {format(span.context.trace_id, "032x") for span in finished.values() if span.context} == {"a" * 32}, (
        "the caller's trace goes on"
    )
    for name in expected - {names.TENANT_REQUEST}:
        parent = finished[name].parent
        assert parent is not None, f"{name} has a parent"
        assert parent.span_id == request.context.span_id, f"{name} is below the request"
    sent = cluster.seen[0].headers["traceparent"]
    assert sent == f"00-{'a' * 32}-{request.context.span_id:016x}-01", "the router continues below the request"
    text = "".join(span.to_json() for span in finished.values())
    assert "sesame" not in text, "no prompt in a span"
    assert API_KEY not in text, "no API key in a span"
    assert names.HTTP_STATUS not in text, "the inner status is the tenant's alone, and spans may go anywhere"


async def test_a_failed_request_names_its_problem_in_the_trace() -> None:
    spans = InMemorySpanExporter()
    telemetry = Telemetry.from_environment("tenant", environ={})
    telemetry._provider.add_span_processor(SimpleSpanProcessor(spans))
    cluster = FakeCluster(otherwise=lambda _: Refuse(ProblemError("kms-denied", "Refused.")))
    async with running(cluster), cluster.client(telemetry=telemetry) as client:
        with pytest.raises(RequestError):
            await collect(client)
    (request,) = (span for span in spans.get_finished_spans() if span.name == names.TENANT_REQUEST)
    assert request.attributes is not None, "the span has attributes"
    assert request.attributes[names.PROBLEM] == "kms-denied", "the code, and no sentence"
    assert not request.status.is_ok, "it failed"
