"""The receipt that an enclave signs: what it hashes, whose key signs it, and which figures it carries."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dataplane.enclave.binding import WorkerBinding
from dataplane.enclave.identity import EnclaveIdentity
from dataplane.enclave.receipting import FIRST_BYTE, ReceiptSigner, RequestReceipt
from dataplane.protocol.attestation.document import AttestationDocument, parse_cose, parse_payload
from dataplane.protocol.hop import HopTail
from dataplane.protocol.keys import KeySchedule
from dataplane.protocol.receipt import MAX_SPANS, Receipt, enclave_user_data, verify_signature
from dataplane.protocol.suite import TENANT_SUITE
from observability import names
from tests.unit.enclave.harness import CONFIG_DIGEST, Enclave, Outcome, enclave


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Enclave]:
    async with enclave(tmp_path) as each:
        yield each


async def document_of(running: Enclave) -> AttestationDocument:
    reply = (await running.call(op="attest", nonce=os.urandom(32))).map()
    return parse_payload(parse_cose(reply["document"]).payload)


def answered_hash(outcome: Outcome) -> bytes:
    return hashlib.sha256(b"".join(each.data for each in outcome.opened[:-1])).digest()


async def test_the_receipts_key_is_in_the_attestation_document(running: Enclave) -> None:
    outcome = await running.infer(running.seal())
    key = verify_signature(outcome.opened[-1].data)
    document = await document_of(running)
    assert document.user_data == enclave_user_data(key), "whoever keeps both can show the receipt to others"
    assert document.instance_id == outcome.receipt.instance, "both name the same instance"
    assert document.pcrs[0] == outcome.receipt.pcr0, "and the same image"


async def test_all_documents_and_receipts_of_one_enclave_name_one_key(running: Enclave) -> None:
    keys = {verify_signature((await running.infer(running.seal())).opened[-1].data) for _ in range(2)}
    shown = {(await document_of(running)).user_data for _ in range(2)}
    assert shown == {enclave_user_data(key) for key in keys}, "the key is the enclave's, not the request's"
    assert len(keys) == 1, "made once, at the start"


async def test_a_restarted_enclave_has_another_key(tmp_path: Path) -> None:
    shown = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        async with enclave(tmp_path / name) as running:
            shown.append((await document_of(running)).user_data)
    assert shown[0] != shown[1], "no key outlives the enclave that made it"


async def test_the_receipt_names_the_header_and_keys_that_opened_the_request(running: Enclave) -> None:
    context, cek, wrapped = running.session()
    sealed = running.seal(session=(context, cek, wrapped))
    receipt = (await running.infer(sealed)).receipt
    data, _, header = sealed
    prefix = data[: data.index(header.encode()) + len(header.encode())]
    keys = KeySchedule(TENANT_SUITE, prefix, cek).request()
    digest = hashlib.sha256(b"mrgc/1 opened" + hashlib.sha256(prefix).digest() + keys.key + keys.nonce).digest()
    assert receipt.opened == digest, "so nobody can show other keys, which open the same frames to another text"


@pytest.mark.parametrize("pad", [0, 256])
async def test_the_response_hash_covers_head_and_body_whatever_the_frames(running: Enclave, pad: int) -> None:
    running.worker.chunks = (b"a" * 70_000, b"b", b"c" * 5_000)
    outcome = await running.infer(running.seal(pad=pad))
    assert len(outcome.opened) > 4, "the body takes several frames"
    assert outcome.receipt.response == answered_hash(outcome), "SHA-256 over the data of every frame before the receipt"
    whole = hashlib.sha256(outcome.head.encode() + b"".join(running.worker.chunks)).digest()
    assert outcome.receipt.response == whole, "where the frames were cut changes nothing"


async def test_a_refusal_inside_the_envelope_is_signed_too(running: Enclave) -> None:
    outcome = await running.infer(running.seal(path="/v1/secrets"))
    assert outcome.head.status == 404, "no engine saw it"
    verify_signature(outcome.opened[-1].data)
    receipt = outcome.receipt
    assert (receipt.response, receipt.model_digest) == (answered_hash(outcome), ""), "no model answered"
    assert receipt.usage is None, "and none counted"


async def test_the_receipt_says_when_by_which_configuration_and_what_it_took(running: Enclave) -> None:
    before = running.now_ms()
    receipt = (await running.infer(running.seal())).receipt
    assert receipt.time is not None, "it is dated"
    assert before <= receipt.time <= running.now_ms(), "by the enclave's clock"
    assert receipt.config_digest == CONFIG_DIGEST, "the configuration of the worker that it was sealed to"
    assert receipt.usage == {"completion_tokens": 2}, "the worker's figures, for the tenant alone"
    assert [name for name, _, _ in receipt.spans or ()] == [names.KMS_DECRYPT, names.ENCLAVE_OPEN, FIRST_BYTE], (
        "and the enclave's own times"
    )


async def test_the_receipt_names_the_worker_of_this_request_not_of_the_next(running: Enclave) -> None:
    running.worker.pause = asyncio.Event()
    outcome = Outcome(None)
    asking = asyncio.create_task(running.infer(running.seal(), outcome=outcome))
    await asyncio.wait_for(outcome.received.wait(), 5)
    assert running.server.state.worker is not None, "a worker is bound"
    running.server.state.worker = WorkerBinding(
        public_key=bytes(32), epoch=bytes(16), config_digest=b"\x09" * 32, wash=None, host_attested=False, bound_s=0.0
    )
    running.worker.pause.set()
    await asking
    assert outcome.receipt.config_digest == CONFIG_DIGEST, "another binding came while the request ran"


def test_the_workers_times_are_moved_to_the_enclaves_and_bounded() -> None:
    now = [10.0]
    key = Ed25519PrivateKey.generate()
    signer = ReceiptSigner(
        identity=EnclaveIdentity(pcr0=b"\x10" * 48, pcr4=b"\x14" * 48, instance_id="i-0", region="us-east-1"),
        clock_ms=lambda: 1_700_000_000_000,
        key=key,
    )
    making = RequestReceipt(signer, monotonic=lambda: now[0])
    now[0] = 10.25
    with making.timed("enclave.open"):
        now[0] = 10.5
    making.asked()
    tail = HopTail(usage={}, spans=(("worker.queue", 100, 7), ("worker.last", 2**64 - 1, 1), *[("more", 0, 0)] * 30))
    worker = WorkerBinding(
        public_key=bytes(32), epoch=bytes(16), config_digest=CONFIG_DIGEST, wash=None, host_attested=False, bound_s=0.0
    )
    receipt = making.finish(
        request=bytes(32),
        opened=b"\x01" * 32,
        response=bytes(32),
        level=1,
        proof={"binding": 3},
        worker=worker,
        model_digest="m",
        tail=tail,
        first_byte_s=10.75,
    )
    spans = list(receipt.spans or ())
    assert spans[:3] == [
        ("enclave.open", 250_000, 250_000),
        (FIRST_BYTE, 0, 750_000),
        ("worker.queue", 500_100, 7),
    ], "the worker's count from when it was asked"
    assert spans[3] == ("worker.last", 2**64 - 1, 1), "no number outgrows the wire"
    assert len(spans) == MAX_SPANS, "a worker that sends many can't make a receipt that nobody reads"
    assert Receipt.decode(receipt.encode()) == receipt, "it is a receipt as the protocol has it"
    assert verify_signature(receipt.encode()) == key.public_key().public_bytes_raw(), "and signed"
