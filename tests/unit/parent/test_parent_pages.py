import asyncio
import dataclasses

import pytest
from opentelemetry.trace import format_trace_id

from dataplane.mesh.deadline import CAP_S
from dataplane.parent.credentials import Credentials, CredentialsError
from dataplane.protocol.link import LinkType
from dataplane.registry.host import HostState
from tests.support.parent_host import EPOCH, HEADERS, Host, Peer, eventually

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_a_request_goes_through_enclave_and_worker_and_comes_back(host: Host) -> None:
    async with host.session.post(f"{host.url}/inference", data=b"sealed", headers=HEADERS) as response:
        body = await response.read()
    assert (response.status, body) == (200, b"<hop:sealed>|receipt"), "every hop's bytes arrive, in order"
    assert response.headers["Content-Type"] == "application/octet-stream", "the answer is an envelope"
    assert response.headers["Transfer-Encoding"] == "chunked", "of no announced length"
    assert response.headers["X-Request-ID"] == "req-1", "under the name that the caller gave it"
    assert sorted(host.spans.batches) == [b"enclave spans", b"worker spans"], "both sides' spans go to the collector"


async def test_the_enclave_is_told_what_the_headers_say(host: Host) -> None:
    await host.infer(traceparent=TRACEPARENT, X_Deadline_Ms="5000")
    (opening,) = host.enclave.openings("infer")
    assert opening["kms"] == HEADERS["X-KMS-Key-ARN"], "the key"
    assert (opening["tenant"], opening["model"], opening["request_id"]) == ("tenant-a", "tiny", "req-1"), "the names"
    assert 0 < opening["deadline_ms"] <= 5000, "what is left of the deadline"
    (hop,) = host.worker.openings("infer")
    assert hop["request_id"] == "req-1", "the worker logs under the same name"
    assert 0 < hop["deadline_ms"] <= opening["deadline_ms"], "and has no more time than the enclave"


async def test_the_trace_goes_on_below_the_callers_span(host: Host) -> None:
    await host.infer(traceparent=TRACEPARENT)
    (span,) = host.finished_spans.get_finished_spans()
    assert span.name == "parent.inference", "the parent's one span"
    assert span.parent is not None, "has a parent"
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331", "which is the caller's span"
    assert span.context is not None, "and a context"
    sent = host.enclave.openings("infer")[0]["traceparent"]
    expected = f"00-{format_trace_id(span.context.trace_id)}-{span.context.span_id:016x}-01"
    assert sent == expected, "and the enclave's spans hang below it"
    assert span.attributes is not None, "attributes are set"
    assert "sealed" not in str(dict(span.attributes)), "with nothing of the body"


@pytest.mark.parametrize("asked", [None, "999999999"])
async def test_a_deadline_has_a_default_and_a_cap(host: Host, asked: str | None) -> None:
    await host.infer(**({} if asked is None else {"X_Deadline_Ms": asked}))
    (opening,) = host.enclave.openings("infer")
    most = 120_000 if asked is None else CAP_S * 1000
    assert most - 5000 < opening["deadline_ms"] <= most, "no request may last for ever"


async def test_health_has_exactly_five_members(host: Host) -> None:
    assert await host.health() == (
        200,
        {
            "status": "healthy",
            "ready": True,
            "enclave_healthy": True,
            "gpu_healthy": True,
            "models_loaded": ["tiny"],
        },
    ), "as the issue fixes it"


async def test_metrics_in_json_have_exactly_the_promised_keys(host: Host) -> None:
    async with host.session.get(f"{host.url}/metrics") as response:
        page = await response.json()
    assert page == {
        "gpu_stats": {
            "gpu_available": True,
            "gpu_memory_total_mb": 46068,
            "gpu_memory_used_mb": 11517,
            "gpu_memory_usage_pct": 25.0,
            "total_requests": 40,
            "failed_requests": 1,
            "success_rate": 0.975,
            "avg_inference_time_seconds": 0.75,
        },
        "model_stats": {
            "fsx_available": True,
            "loaded_models": ["tiny"],
            "available_models": ["large", "tiny"],
            "total_loads": 3,
            "failed_loads": 1,
            "avg_load_time_seconds": 1.5,
            "models": {"tiny": {"digest": "ab", "loads": 3}},
        },
        "enclave_connected": True,
    }, "the worker's figures under the issue's names"


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
async def test_prometheus_gets_its_text_when_it_asks(host: Host, accept: str) -> None:
    await host.infer()
    async with host.session.get(f"{host.url}/metrics", headers={"Accept": accept}) as response:
        text = await response.text()
    assert response.headers["Content-Type"].startswith(accept.partition(";")[0]), "in the format asked for"
    assert 'mrgc_parent_requests_total{outcome="ok"} 1.0' in text, "one request has ended well"
    assert "mrgc_parent_in_flight 0.0" in text, "and none is left"
    assert "mrgc_parent_first_byte_seconds_count 1.0" in text, "its first byte was timed"
    assert "mrgc_worker_kv_cache_usage_ratio 0.25" in text, "the worker's figures are there"
    assert "mrgc_worker_completion_tokens_total 4000.0" in text, "and the totals that it has released"
    assert "mrgc_enclave_kms_calls 3.0" in text, "and the enclave's"


async def test_an_attestation_is_made_for_the_nonce_given(host: Host) -> None:
    async with host.session.get(f"{host.url}/attestation", params={"nonce": "ab" * 16}) as response:
        document = await response.read()
    assert response.headers["Content-Type"] == "application/cbor", "documents are CBOR"
    assert document == b"document over " + b"\xab" * 16, "the nonce went to the enclave as bytes"


@pytest.mark.parametrize("query", ["", "?nonce=", "?nonce=abc", "?nonce=" + "zz" * 16, "?nonce=" + "ab" * 65])
async def test_a_nonce_that_is_none_is_refused(host: Host, query: str) -> None:
    async with host.session.get(f"{host.url}/attestation{query}") as response:
        problem = await response.json(content_type="application/problem+json")
    assert (response.status, problem["type"]) == (400, "urn:mrgc:error:malformed-envelope"), (
        "before the enclave is asked"
    )


async def test_an_unknown_page_is_a_problem_too(host: Host) -> None:
    async with host.session.get(f"{host.url}/elsewhere") as response:
        problem = await response.json(content_type="application/problem+json")
    assert (response.status, problem["type"]) == (404, "urn:mrgc:error:not-found"), "in the same form as any other"


async def test_credentials_go_to_the_enclave_at_the_start(host: Host) -> None:
    given = host.enclave.credentials
    assert given is not None, "the enclave has them before the host is ready"
    assert (given["access_key_id"], given["secret_access_key"]) == ("AKIA1", "secret-1"), "as the chain gave them"
    assert (given["session_token"], given["expires_ms"]) == ("token-1", 2**42), "with token and end"


async def test_an_enclave_that_restarted_gets_credentials_and_worker_again(host: Host) -> None:
    host.enclave.forget()
    await eventually(lambda: host.enclave.credentials is not None, "credentials after a restart")
    await eventually(lambda: host.enclave.epoch == EPOCH, "a binding after a restart")
    await host.ready()
    assert len(host.enclave.openings("credentials")) == 2, "once at the start and once after the restart"


async def test_a_worker_with_a_new_key_is_bound_again(host: Host) -> None:
    assert host.enclave.epoch == EPOCH, "bound at the start"
    host.worker.epoch = b"n" * 16
    await eventually(lambda: host.enclave.epoch == b"n" * 16, "a binding to the new key")
    await host.ready()
    await asyncio.sleep(0.05)
    assert len(host.enclave.openings("bind")) == 2, "one challenge an epoch, not one a look"


async def test_the_host_reports_itself(host: Host) -> None:
    await eventually(lambda: host.registry._hosts, "a report")
    await eventually(
        lambda: host.registry._hosts["us-east-1", "i-test"].state is HostState.READY, "a report of readiness"
    )
    (record,) = await host.registry.hosts("us-east-1")
    assert record.address == host.url, "where it is reached"
    assert record.pools == ("large", "tiny"), "what it can serve"
    assert (record.queue_depth, record.running, record.capacity) == (1, 2, 256), "how busy it is"
    assert (record.engine, record.assurance, record.health) == ("synthetic", 0, 100), "what it is, and how well"


async def test_reports_go_on_while_nothing_changes(host: Host) -> None:
    (first,) = await host.registry.hosts("us-east-1")
    await eventually(
        lambda: host.registry._hosts["us-east-1", "i-test"].reported_ms > first.reported_ms + 50, "another heartbeat"
    )


async def test_a_host_without_credentials_is_not_ready_and_keeps_trying(host: Host) -> None:
    host.credentials.answer = CredentialsError("no role")
    host.enclave.forget()
    until = asyncio.get_running_loop().time() + 10
    while (await host.health())[0] == 200:
        assert asyncio.get_running_loop().time() < until, "an enclave without credentials can't serve"
        await asyncio.sleep(0.02)
    status, page = await host.health()
    assert (status, page["status"], page["enclave_healthy"]) == (503, "degraded", False), "and health says so"
    host.credentials.answer = Credentials("AKIA2", "secret-2", "token-2", 2**42)
    await host.ready()
    assert host.enclave.credentials is not None, "it was given some"
    assert host.enclave.credentials["access_key_id"] == "AKIA2", "the new ones"


def test_credentials_are_shown_nowhere() -> None:
    credentials = Credentials("AKIA1", "the secret", "the token", 1)
    assert "the secret" not in repr(credentials), "no repr shows a secret"
    assert "the token" not in repr(credentials), "or a token"
    assert dataclasses.replace(credentials, expires_ms=2) != credentials, "but they compare whole"


async def test_a_problem_of_the_enclave_keeps_its_status_and_its_sentence(host: Host) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.until(LinkType.END)
        await peer.send(LinkType.PROBLEM, {"code": "overloaded", "detail": "Too much.", "retry_after_s": 7})

    host.enclave.scripts["infer"] = refuse
    async with host.session.post(f"{host.url}/inference", data=b"sealed", headers=HEADERS) as response:
        problem = await response.json(content_type="application/problem+json")
    assert (response.status, response.headers["Retry-After"]) == (429, "7"), "status and Retry-After pass"
    assert (problem["type"], problem["detail"]) == ("urn:mrgc:error:overloaded", "Too much."), "so do code and sentence"


async def test_a_pool_that_is_not_named_is_asked_for_where_there_is_no_default(host: Host) -> None:
    headers = {name: value for name, value in HEADERS.items() if name != "X-Model-Pool"}
    async with host.session.post(f"{host.url}/inference", data=b"sealed", headers=headers) as response:
        problem = await response.json(content_type="application/problem+json")
    assert (response.status, problem["type"]) == (400, "urn:mrgc:error:header-mismatch"), "it must be what was sealed"
    assert host.enclave.openings("infer") == [], "and the enclave is not troubled"
