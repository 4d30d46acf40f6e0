"""One request through a running enclave: what comes back sealed, what is refused in clear, what breaks."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from dataplane.enclave.answer import Answer
from dataplane.enclave.memory import ByteBudget
from dataplane.enclave.replay import ReplayWindow
from dataplane.protocol.envelope import RequestSealer
from dataplane.protocol.errors import OpenError, ProblemError
from dataplane.protocol.link import LinkType
from observability import names
from tests.unit.enclave.harness import Enclave, Outcome, enclave

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Enclave]:
    async with enclave(tmp_path) as each:
        yield each


async def eventually_idle(running: Enclave) -> None:
    async with asyncio.timeout(5):
        while running.server.connections:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def test_a_sealed_request_is_answered_sealed_with_a_receipt(running: Enclave) -> None:
    sealed = running.seal(b'{"prompt": "hello"}')
    outcome = await running.infer(sealed)
    assert outcome.head.status == 200, "the engine's status"
    assert outcome.head.content_type == "text/event-stream", "the engine's content type"
    assert outcome.body == b"token", "the engine's bytes"
    receipt = outcome.receipt
    assert receipt.request == sealed[1].th, "the receipt names this very request"
    assert receipt.assurance == 0, "a software NSM proves nothing"
    assert receipt.pcr0 == b"\x10" * 48, "the enclave's own measurement"
    assert (receipt.region, receipt.instance) == ("us-east-1", "i-0aaaabbbbccccdddd"), "from the document"
    assert receipt.model_digest == "sha256:ab", "the worker's"
    assert receipt.wash == {"id": "77" * 16, "time": 1_700_000_000_000}, "the worker's"
    assert outcome.types[-2:] == [LinkType.SPANS, LinkType.END], "spans come before the end"
    assert outcome.done, "the stream is whole"


async def test_the_worker_sees_the_request_and_a_salt_of_the_tenant(running: Enclave) -> None:
    for tenant in ("tenant-a", "tenant-a", "tenant-b"):
        await running.infer(running.seal(b'{"n": 1}', tenant=tenant))
    first, second, other = running.worker.seen
    assert first.path == "/v1/chat/completions", "as the tenant wrote it"
    assert first.body == b'{"n": 1}', "untouched"
    assert first.model == "tiny", "the pool of the header, which HTTP agreed with"
    assert 0 < first.deadline_ms <= 4_000, "what remains of the parent's deadline"
    assert first.cache_salt == second.cache_salt, "a tenant shares with itself"
    assert first.cache_salt != other.cache_salt, "and with nobody else"
    assert len(bytes.fromhex(first.cache_salt)) == 32, "hex, which vLLM takes"


async def test_the_hop_hides_lengths_where_the_tenant_asked_for_it(running: Enclave) -> None:
    short = await running.infer(running.seal(b"{}", pad=256))
    running.worker.chunks = (b"a much longer token than before", b"x")
    longer = await running.infer(running.seal(b'{"a": "longer prompt"}', pad=256))
    assert len(short.raw) == len(longer.raw), "with pad 256 both responses look the same"


async def test_the_first_token_leaves_at_once_and_later_ones_are_gathered(running: Enclave) -> None:
    running.worker.chunks = (b"first", b"a", b"b", b"c")
    running.worker.pause = asyncio.Event()
    sealed = running.seal()
    outcome = Outcome(sealed[1].response_opener())
    task = asyncio.create_task(running.infer(sealed, outcome=outcome))
    async with asyncio.timeout(5):
        await outcome.received.wait()
    assert outcome.body == b"first", "the worker is still at its second token"
    running.worker.pause.set()
    await task
    assert outcome.body == b"firstabc", "nothing is lost in gathering"
    assert len(outcome.opened) < 6, "head, first, one gathered frame or two, receipt"


async def test_what_waits_for_company_leaves_after_20_ms(running: Enclave) -> None:
    running.worker.chunks = (b"first", b"second", b"third")
    never = running.worker.pause = asyncio.Event()
    sealed = running.seal()
    outcome = Outcome(sealed[1].response_opener())
    task = asyncio.create_task(running.infer(sealed, outcome=outcome))
    async with asyncio.timeout(5):
        await outcome.received.wait()
        outcome.received.clear()
        never.set()
        await outcome.received.wait()
    await task
    assert outcome.body == b"firstsecondthird", "flushed by time or by the end"


async def test_spans_tell_the_steps_and_no_secret(running: Enclave) -> None:
    outcome = await running.infer(running.seal(b'{"prompt": "a very secret prompt"}'), traceparent=TRACEPARENT)
    request = ExportTraceServiceRequest.FromString(outcome.spans)
    spans = [s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans]
    assert {s.name for s in spans} == {
        names.ENCLAVE_REQUEST,
        names.ENCLAVE_OPEN,
        names.KMS_DECRYPT,
        names.ENCLAVE_SEAL,
    }, "one span a step"
    assert {s.trace_id.hex() for s in spans} == {TRACEPARENT.split("-")[1]}, "all in the caller's trace"
    root = next(s for s in spans if s.name == names.ENCLAVE_REQUEST)
    assert root.parent_span_id.hex() == TRACEPARENT.split("-")[2], "below the caller's span"
    said = {attribute.key: attribute.value.string_value for attribute in root.attributes}
    assert said[names.TENANT] == "tenant-a", "who asked, once the message has authenticated"
    assert b"secret" not in outcome.spans, "no prompt in any attribute"
    assert running.worker.seen[0].traceparent is not None, "the worker's span can hang below ours"
    assert TRACEPARENT.split("-")[1] in running.worker.seen[0].traceparent, "in the same trace"


async def test_a_session_costs_one_kms_call(running: Enclave) -> None:
    session = running.session()
    await asyncio.gather(*(running.infer(running.seal(session=session)) for _ in range(5)))
    await running.infer(running.seal(session=session))
    assert running.kms.calls == 1, "together or one after the other"


# Refused in clear, before anything was opened.


async def problem(running: Enclave, **opening: Any) -> str:
    outcome = await running.infer(running.seal(), **opening)
    assert running.kms.calls == 0, "KMS is not asked for what the header alone forbids"
    return outcome.problem


@pytest.mark.parametrize("name", ["tenant", "model", "kms"])
async def test_http_headers_that_disagree_are_a_header_mismatch(running: Enclave, name: str) -> None:
    assert await problem(running, **{name: "other"}) == "header-mismatch", "the envelope says otherwise"
    assert await problem(running, **{name: None}) == "header-mismatch", "missing is no agreement"


@pytest.mark.parametrize("offset_ms", [-301_000, 61_000])
async def test_a_request_too_old_or_too_new_is_expired(running: Enclave, offset_ms: int) -> None:
    outcome = await running.infer(running.seal(iat=running.now_ms() + offset_ms))
    assert outcome.problem == "expired", "iat is 300 s back to 60 s ahead"
    assert running.kms.calls == 0, "KMS is not asked"


async def test_a_session_that_has_ended_is_expired(running: Enclave) -> None:
    outcome = await running.infer(running.seal(session=running.session(expires_in_s=-1)))
    assert outcome.problem == "expired", "mrgc:expires is past"


@pytest.mark.parametrize("level", [1, 2])
async def test_a_level_that_this_host_does_not_prove_is_refused(running: Enclave, level: int) -> None:
    outcome = await running.infer(running.seal(assurance=level))
    assert outcome.problem == "assurance-too-low", "a software NSM is level 0"
    assert running.kms.calls == 0, "the data key is not even asked for"


async def test_what_kms_refuses_is_kms_denied_and_not_remembered(running: Enclave) -> None:
    running.kms.refuse = ProblemError("kms-denied", "KMS refused this enclave.")
    session = running.session()
    assert (await running.infer(running.seal(session=session))).problem == "kms-denied", "KMS said no"
    running.kms.refuse = None
    assert (await running.infer(running.seal(session=session))).head.status == 200, "a policy may be mended"


async def test_a_data_key_under_another_context_is_refused(running: Enclave) -> None:
    context, cek, wrapped = running.session()
    moved = context | {"mrgc:session": "00" * 16}
    outcome = await running.infer(running.seal(session=(moved, cek, wrapped)))
    assert outcome.problem == "kms-denied", "the context is part of what KMS checks"


async def test_without_a_worker_the_host_has_failed(tmp_path: Path) -> None:
    async with enclave(tmp_path, bound=False) as running:
        outcome = await running.infer(running.seal())
        assert outcome.problem == "host-failed", "another host may have a worker"
        assert outcome.last_map["retry_after_s"] == 1, "and this one soon"


async def test_a_deadline_that_has_passed_is_refused(running: Enclave) -> None:
    assert await problem(running, deadline_ms=0) == "deadline-exceeded", "nobody waits any more"
    assert await problem(running, deadline_ms="soon") == "malformed-envelope", "no number"


async def test_a_copy_is_replayed(running: Enclave) -> None:
    sealed = running.seal()
    assert (await running.infer(sealed)).head.status == 200, "the first is served"
    assert (await running.infer(sealed)).problem == "replayed", "the second is not"
    assert len(running.worker.seen) == 1, "the worker saw one"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("empty", "malformed-envelope"),
        ("magic", "malformed-envelope"),
        ("version", "unsupported-version"),
        ("cut-header", "malformed-envelope"),
        ("cut-frame", "malformed-envelope"),
        ("no-final", "malformed-envelope"),
        ("flipped", "malformed-envelope"),
        ("trailing", "malformed-envelope"),
    ],
)
async def test_a_body_that_is_no_envelope_is_refused(running: Enclave, name: str, code: str) -> None:
    data, sealer, header = running.seal()
    unfinished = RequestSealer(header, running.kms.keys[header.wrapped][0])
    bodies = {
        "empty": b"",
        "magic": b"XXXX" + data[4:],
        "version": data[:4] + b"\x02" + data[5:],
        "cut-header": data[:100],
        "cut-frame": data[:-1],
        "no-final": unfinished.prefix() + unfinished.seal(b"half", final=False),
        "flipped": data[:-1] + bytes([data[-1] ^ 1]),
        "trailing": data + b"\0",
    }
    outcome = await running.infer((data, sealer, header), body=bodies[name])
    assert outcome.problem == code, f"a body with {name} is refused so"
    assert (await running.infer((data, sealer, header))).head.status == 200, "and the real one is served after it"


async def test_garbage_does_not_fill_the_replay_window(running: Enclave) -> None:
    data, sealer, header = running.seal()
    for _ in range(3):
        await running.infer((data, sealer, header), body=data[:-1] + bytes([data[-1] ^ 1]))
    assert len(running.server.state.replay) == 0, "only a message that authenticates is remembered"


async def test_a_message_over_1_mib_is_too_large(running: Enclave) -> None:
    data, sealer, header = running.seal()
    cek = running.kms.keys[header.wrapped][0]
    frames = RequestSealer(header, cek)
    frames._suite = type(frames._suite)(
        **{name: getattr(frames._suite, name) for name in frames._suite.__slots__} | {"max_message_bytes": 2**24}
    )
    body = frames.prefix() + b"".join(frames.seal_message(bytes(1_048_577)))
    assert (await running.infer((data, sealer, header), body=body)).problem == "too-large", "one byte over"


async def test_a_full_replay_window_fails_closed(tmp_path: Path) -> None:
    async with enclave(tmp_path, replay=ReplayWindow(max_entries=1, max_share=1)) as running:
        assert (await running.infer(running.seal())).head.status == 200, "room for one"
        assert (await running.infer(running.seal())).problem == "overloaded", "what can't be remembered is refused"
        assert len(running.worker.seen) == 1, "the worker never saw it"


async def test_request_bytes_are_bounded_and_given_back(tmp_path: Path) -> None:
    memory = ByteBudget(20_000)
    async with enclave(tmp_path, memory=memory) as running:
        assert (await running.infer(running.seal(b'"' + b"x" * 30_000 + b'"'))).problem == "overloaded", "no room"
        assert (await running.infer(running.seal())).head.status == 200, "a small one fits"
        await eventually_idle(running)
        assert memory.used == 0, "all bytes are given back, served or refused"


# Refused inside the sealed response: about the content.


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"path": "/v1/files"}, 404),
        ({"content_type": "text/plain"}, 415),
        ({"body": b""}, 400),
        ({"message": b"\xff"}, 400),
        ({"message": b"\xa0"}, 400),
    ],
)
async def test_bad_content_is_answered_inside_the_envelope(
    running: Enclave, changes: dict[str, object], status: int
) -> None:
    outcome = await running.infer(running.seal(**changes))  # type: ignore[arg-type] # one of several keywords
    assert outcome.head.status == status, "the inner status"
    error = json.loads(outcome.body)["error"]
    assert error["type"] == "invalid_request_error", "OpenAI's shape"
    assert error["message"], "with a sentence"
    assert outcome.ended is LinkType.END, "nobody outside learns of it"
    assert running.worker.seen == [], "no engine saw it"
    assert outcome.receipt.wash == {"id": "77" * 16, "time": 1_700_000_000_000}, "as bound"


async def test_the_engines_own_refusal_passes_as_it_is(running: Enclave) -> None:
    running.worker.status, running.worker.chunks = 422, (b'{"error": {}}',)
    outcome = await running.infer(running.seal())
    assert (outcome.head.status, outcome.body) == (422, b'{"error": {}}'), "the engine's words"


# The host's failures.


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("host-failed", "host-failed"),
        ("overloaded", "overloaded"),
        ("no-capacity", "no-capacity"),
        ("unknown-model-pool", "unknown-model-pool"),
        ("deadline-exceeded", "deadline-exceeded"),
        ("kms-denied", "host-failed"),
        ("what?", "host-failed"),
    ],
)
async def test_a_worker_that_refuses_leaves_the_request_to_others(running: Enclave, reason: str, code: str) -> None:
    running.worker.problem = reason
    assert (await running.infer(running.seal())).problem == code, "a problem in clear: the router may go elsewhere"


async def test_a_worker_that_dies_before_its_first_token_is_a_problem(running: Enclave) -> None:
    running.worker.cut_after = 0
    outcome = await running.infer(running.seal())
    assert outcome.problem == "host-failed", "the head was held back, so nothing has been said"
    assert outcome.raw == b"", "not one byte of a response"


async def test_a_worker_that_dies_midway_is_an_abort(running: Enclave) -> None:
    running.worker.cut_after = 1
    outcome = await running.infer(running.seal())
    assert outcome.body == b"to", "what came, came"
    assert outcome.ended is LinkType.ABORT, "never a clean end"
    assert outcome.opener is not None, "the tenant has an opener"
    with pytest.raises(OpenError, match="truncated"):
        outcome.opener.finish()


async def test_a_worker_whose_answer_does_not_open_has_failed(running: Enclave) -> None:
    async def garbage(_: bytes) -> AsyncIterator[bytes]:
        yield os.urandom(200)

    running.worker.generate = garbage  # type: ignore[method-assign,assignment] # a worker that lies
    assert (await running.infer(running.seal())).problem == "host-failed", "its bytes mean nothing"


async def test_a_worker_of_another_key_gets_nothing_to_read(running: Enclave) -> None:
    sealed = running.seal(b'{"prompt": "secret"}')
    running.worker.key = X25519PrivateKey.generate()
    with pytest.raises(ProblemError, match="not sealed to this GPU worker's key"):
        async for _ in running.worker.generate(await hop_request(running, sealed)):
            pass
    assert running.worker.seen == [], "the hop is sealed to the bound key"


async def hop_request(running: Enclave, sealed: tuple[bytes, RequestSealer, object]) -> bytes:
    data, _, header = sealed
    request = b""
    async with running.link() as link:
        await link.send(LinkType.OPEN, running.opening(header), timeout_s=1)  # type: ignore[arg-type] # a header
        await link.send(LinkType.DATA, data, timeout_s=1)
        await link.send(LinkType.END, timeout_s=1)
        while (message := await link.receive(2)) is not None and message.type is LinkType.HOP_DATA:
            request += message.payload
    return request


async def test_a_deadline_before_the_first_token_is_a_problem(running: Enclave) -> None:
    running.kms.gate = asyncio.Event()
    assert (await running.infer(running.seal(), deadline_ms=50)).problem == "deadline-exceeded", "KMS was too slow"
    running.kms.gate.set()


async def test_a_deadline_midway_is_an_abort(running: Enclave) -> None:
    running.worker.pause = asyncio.Event()
    outcome = await running.infer(running.seal(), deadline_ms=100)
    assert outcome.ended is LinkType.ABORT, "a stream that had begun is broken off"
    assert outcome.last_map == {"reason": "deadline-exceeded"}, "and says why"


@pytest.mark.parametrize("how", ["abort", "close"])
async def test_a_parent_that_leaves_stops_the_request_at_once(running: Enclave, how: str) -> None:
    running.kms.gate = asyncio.Event()
    data, _, header = running.seal()
    async with running.link() as link:
        await link.send(LinkType.OPEN, running.opening(header), timeout_s=1)
        await link.send(LinkType.DATA, data, timeout_s=1)
        await link.send(LinkType.END, timeout_s=1)
        async with asyncio.timeout(5):
            while not running.kms.calls:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.01)
        started = time.monotonic()
        if how == "abort":
            await link.send(LinkType.ABORT, {"reason": "client-gone"}, timeout_s=1)
        else:
            link.abort()
        await eventually_idle(running)
        assert time.monotonic() - started < 1.5, "not after KMS, not after the linger"
    assert running.server.state.memory.used == 0, "its bytes are given back"
    running.kms.gate.set()


async def test_a_parent_that_leaves_midway_frees_the_stream(running: Enclave) -> None:
    running.worker.pause = asyncio.Event()
    sealed = running.seal()
    outcome = Outcome(sealed[1].response_opener())
    task = asyncio.create_task(running.infer(sealed, outcome=outcome))
    async with asyncio.timeout(5):
        await outcome.received.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await eventually_idle(running)
    assert running.server.connections == 0, "no handler is left behind"


async def test_a_bad_message_on_one_connection_harms_no_other(running: Enclave) -> None:
    running.worker.pause = asyncio.Event()
    sealed = running.seal()
    outcome = Outcome(sealed[1].response_opener())
    task = asyncio.create_task(running.infer(sealed, outcome=outcome))
    async with asyncio.timeout(5):
        await outcome.received.wait()
    for garbage in (os.urandom(500), b"\x01\xff\xff\xff\xff", b"\x01\x00\x00\x00\x01\xff", b"\x02\x00\x00\x00\x00"):
        async with running.link() as link:
            link._writer.write(garbage)
            assert await link.receive(3) is None, "the enclave closes on garbage"
    running.worker.pause.set()
    await task
    assert outcome.receipt.assurance == 0, "the stream beside it ended well"


async def test_a_bug_in_one_request_is_the_hosts_failure_and_logged_without_its_text(
    running: Enclave, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("the prompt was: secret")

    monkeypatch.setattr(Answer, "head", broken)
    assert (await running.infer(running.seal())).problem == "host-failed", "told as the host's failure"
    assert "an unexpected ValueError at test_enclave_infer.py" in caplog.text, "where and what"
    assert "secret" not in caplog.text, "its text could quote a message"


async def test_nothing_secret_is_logged(running: Enclave, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    running.worker.chunks = (b"the secret ", b"answer")
    session = running.session()
    outcome = await running.infer(running.seal(b'{"prompt": "my secret prompt"}', session=session))
    await running.infer(running.seal(b"my secret prompt", path="/my secret path"))
    await running.infer(running.seal(message=b"my secret prompt"))
    running.worker.cut_after = 1
    await running.infer(running.seal(b'{"prompt": "my secret prompt"}'))
    assert outcome.body == b"the secret answer", "the requests did run"
    _, cek, _ = session
    state = running.server.state
    for name, secret in {
        "a prompt or an answer": "secret",
        "a data key": cek.hex(),
        "a data key as text": repr(cek),
        "the salt's secret": state.salt_secret.hex(),
        "a credential": "aws-",
    }.items():
        assert secret not in caplog.text, f"{name} is in the log"
        assert secret not in repr(state), f"{name} is in the state's repr"


async def test_nothing_outside_the_worker_reads_the_prompt(running: Enclave) -> None:
    data, _, _ = sealed = running.seal(b'{"prompt": "a very secret prompt"}')
    request = await hop_request(running, sealed)
    assert b"secret" not in data, "what the parent sends is sealed"
    assert b"secret" not in request, "what the parent relays is sealed"
    assert len(request) > len(b'{"prompt": "a very secret prompt"}'), "and there was something to read"
