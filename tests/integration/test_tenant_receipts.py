"""Receipts at the tenant: what it refuses, for the library and for the stock client, and what it keeps for others."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dataplane.protocol import cbor
from dataplane.protocol.attestation.nonces import NONCES_HEADER, format_nonces, shared_nonce
from dataplane.protocol.errors import AttestationError, OpenError
from dataplane.protocol.receipt import Receipt, enclave_user_data
from dataplane.tenant.bundle import ReceiptBundle, read_bundle
from dataplane.tenant.client import wall_clock_ms
from dataplane.tenant.documents import PAUSE_S, DocumentSource, HeldDocuments
from dataplane.tenant.errors import ReceiptError
from dataplane.tenant.judge import Wanted, judge
from dataplane.tenant.pins import Pins, parse_pins
from dataplane.tenant.proxy import TenantProxy
from dataplane.tenant.receipt_folder import ReceiptFolder
from dataplane.tenant.retry import RetryPolicy
from stacks.local.nsm import SoftwareNsm
from stacks.local.pki import create_nsm_root
from tests.unit.tenant.fake_cluster import CONFIG, DIGEST, INSTANCE, PCR0, Answer, FakeCluster, chat_events, running

PATH = "/v1/chat/completions"
BODY = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "sesame"}]}).encode()
MESSAGES: list[Any] = [{"role": "user", "content": "sesame"}]
EVENTS = "text/event-stream"
OTHER = Ed25519PrivateKey.generate()
ROOT = create_nsm_root()
NSM = SoftwareNsm(
    root=ROOT, pcrs={0: PCR0, 1: b"\x12" * 48, 2: b"\x13" * 48}, instance_id=INSTANCE, clock_ms=wall_clock_ms
)

Making = Callable[[Receipt, Ed25519PrivateKey], bytes]


def signed(receipt: Receipt, key: Ed25519PrivateKey) -> bytes:
    return receipt.signed(key).encode()


def edited(**changes: Any) -> Making:
    """An honest receipt, then edited by whoever holds the data key."""

    def make(receipt: Receipt, key: Ed25519PrivateKey) -> bytes:
        fields = cbor.decode_map(signed(receipt, key), max_bytes=4096)
        kept = {name: value for name, value in (fields | changes).items() if value is not None}
        return cbor.encode(kept)

    return make


def swapped_key(receipt: Receipt, key: Ed25519PrivateKey) -> bytes:
    return edited(key=OTHER.public_key().public_bytes_raw())(receipt, key)


FORGED: dict[str, tuple[Making, str]] = {
    "no signature": (edited(sig=None), "signature"),
    "no signature and no key": (edited(sig=None, key=None), "key"),
    "another key's signature": (swapped_key, "signature"),
    "another model than was signed": (edited(model_digest="sha256:" + "cd" * 32), "signature"),
    "a higher level than was signed": (edited(assurance=2), "signature"),
    "a key that nobody knows, added after": (edited(later=1), "signature"),
    "another response, signed": (lambda r, k: signed(replace(r, response=bytes(32)), k), "not the one"),
    "no response, signed": (lambda r, k: signed(replace(r, response=None), k), "not the one"),
    "no time, signed": (lambda r, k: signed(replace(r, time=None), k), "no time"),
    "another request, signed": (lambda r, k: signed(replace(r, request=bytes(32)), k), "another request"),
}


@pytest.mark.parametrize(("make", "sentence"), FORGED.values(), ids=FORGED.keys())
async def test_a_receipt_that_is_not_the_enclaves_word_on_this_answer_is_refused(make: Making, sentence: str) -> None:
    async with running(FakeCluster(otherwise=lambda _: Answer(receipt=make))) as cluster, cluster.client() as client:
        with pytest.raises(OpenError, match=sentence):
            await client.complete(PATH, BODY, model="tiny")
        assert len(cluster.seen) == 1, "an attack is no reason to try again"


async def test_a_receipt_of_an_earlier_answer_is_refused() -> None:
    cluster = FakeCluster()
    cluster.steps.append(Answer())
    cluster.otherwise = lambda _: Answer(receipt=lambda _receipt, _key: cluster.receipts[0])
    async with running(cluster), cluster.client() as client:
        await client.complete(PATH, BODY, model="tiny")
        with pytest.raises(ReceiptError, match="another request"):
            await client.complete(PATH, BODY, model="tiny")


async def test_a_key_that_this_client_does_not_know_is_covered_by_the_signature() -> None:
    def make(receipt: Receipt, key: Ed25519PrivateKey) -> bytes:
        named = replace(receipt, key=key.public_key().public_bytes_raw())
        fields = cbor.decode_map(named.encode(), max_bytes=4096) | {"later": [1, 2]}
        return cbor.encode(fields | {"sig": key.sign(cbor.encode(fields))})

    async with running(FakeCluster(otherwise=lambda _: Answer(receipt=make))) as cluster, cluster.client() as client:
        done = await client.complete(PATH, BODY, model="tiny")
    assert done.receipt.model_digest == DIGEST, "a later receipt is read, and all of it was signed"


PINNED: dict[str, tuple[Pins, str]] = {
    "model": (parse_pins(models=["cd" * 32]), "Another model"),
    "image": (parse_pins(pcr0s=["22" * 48]), "another enclave image"),
    "configuration": (parse_pins(configs=["08" * 32]), "another configuration"),
}


@pytest.mark.parametrize(("pins", "sentence"), PINNED.values(), ids=PINNED.keys())
async def test_an_answer_that_is_not_what_the_tenant_expects_is_refused(pins: Pins, sentence: str) -> None:
    async with running(FakeCluster()) as cluster, cluster.client(pins=pins) as client:
        with pytest.raises(ReceiptError, match=sentence):
            await client.complete(PATH, BODY, model="tiny")


async def test_an_answer_as_expected_is_given() -> None:
    pins = parse_pins(models=["cd" * 32, DIGEST], pcr0s=[PCR0.hex().upper()], configs=[CONFIG.hex()])
    async with running(FakeCluster()) as cluster, cluster.client(pins=pins) as client:
        assert (await client.complete(PATH, BODY, model="tiny")).body == b"{}", "one of the pinned models answered"


@pytest.mark.parametrize(("status", "refused"), [(200, True), (400, False)], ids=["an answer", "a refusal"])
async def test_only_a_refusal_may_come_from_no_model(*, status: int, refused: bool) -> None:
    answer = Answer(status=status, receipt=lambda r, k: signed(replace(r, model_digest=""), k))
    pins = parse_pins(models=[DIGEST])
    async with running(FakeCluster(otherwise=lambda _: answer)) as cluster, cluster.client(pins=pins) as client:
        if refused:
            with pytest.raises(ReceiptError, match="Another model"):
                await client.complete(PATH, BODY, model="tiny")
        else:
            assert (await client.complete(PATH, BODY, model="tiny")).status == 400, "the enclave's own refusal"


async def stock(stack: AsyncExitStack, cluster: FakeCluster, pins: Pins, **options: Any) -> openai.AsyncOpenAI:
    """The stock client behind a proxy that expects `pins`."""
    server = TenantProxy(await stack.enter_async_context(cluster.client(pins=pins)), port=0, **options)
    await server.start()
    stack.push_async_callback(server.stop)
    return await stack.enter_async_context(
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=10)
    )


@pytest.mark.parametrize("pins", [pins for pins, _ in PINNED.values()], ids=PINNED.keys())
async def test_the_stock_clients_stream_raises_when_another_answered_than_expected(pins: Pins) -> None:
    cluster = FakeCluster(otherwise=lambda _: Answer(chat_events("o", "pen"), content_type=EVENTS))
    async with running(cluster), AsyncExitStack() as stack:
        client = await stock(stack, cluster, pins)
        stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIConnectionError):
            await drained(stream)


async def test_the_stock_clients_whole_answer_raises_with_the_reason() -> None:
    cluster = FakeCluster()
    async with running(cluster), AsyncExitStack() as stack:
        client = await stock(stack, cluster, parse_pins(models=["cd" * 32]))
        with pytest.raises(openai.InternalServerError, match="Another model than expected") as caught:
            await client.chat.completions.create(model="tiny", messages=MESSAGES)
    assert caught.value.code == "receipt-refused", "named, so that a program can tell it"


# Evidence for others.


def source(cluster: FakeCluster, **changes: Any) -> DocumentSource:
    arguments: dict[str, Any] = {
        "endpoint": cluster.url,
        "tls": None,
        "credentials": {"X-Tenant-ID": "tenant-a"},
        "roots": [ROOT.certificate],
        "retry": RetryPolicy(max_attempts=2, base_s=0.001),
    }
    return DocumentSource(**(arguments | changes))


async def kept(cluster: FakeCluster, **client: Any) -> ReceiptBundle:
    async with cluster.client(**client) as opened:
        return (await opened.complete(PATH, BODY, model="tiny", request_id="r-1")).bundle


async def test_a_document_is_asked_of_the_receipts_instance_and_makes_the_bundle_whole() -> None:
    cluster = FakeCluster()
    cluster.documents_of(NSM)
    async with running(cluster):
        bundle = await kept(cluster)
        document = await source(cluster).fetch(Receipt.decode(bundle.receipt))
    assert [asked["instance"] for asked in cluster.asked] == [INSTANCE], "not of any enclave"
    assert cluster.asked[0]["nonce"] == document.nonce.hex(), "over a nonce made here"
    verdict = judge(bundle.attested(document), Wanted(roots=[ROOT.certificate]))
    assert verdict.document.instance_id == INSTANCE, "others can verify it offline"


async def test_a_document_that_serves_several_askers_is_taken_with_its_list() -> None:
    cluster = FakeCluster()
    shown = enclave_user_data(cluster.key.public_key().public_bytes_raw())
    others = [b"\x01" * 32, b"\x02" * 16]
    cluster.attestation = lambda nonce: NSM.attest(
        nonce=shared_nonce([nonce, *others]), user_data=shown, public_key=None
    )
    cluster.attestation_headers = lambda nonce: {NONCES_HEADER: format_nonces([nonce, *others]) or ""}
    async with running(cluster):
        bundle = await kept(cluster)
        document = await source(cluster).fetch(Receipt.decode(bundle.receipt))
        assert document.nonces is not None, "the list is kept, for the document carries its hash"
        judge(bundle.attested(document), Wanted(roots=[ROOT.certificate]))
        cluster.attestation_headers = lambda _: {NONCES_HEADER: format_nonces(others) or ""}
        with pytest.raises(AttestationError, match="does not name the nonce"):
            await source(cluster).fetch(Receipt.decode(bundle.receipt))


async def test_a_document_of_an_enclave_with_another_key_is_not_taken() -> None:
    cluster = FakeCluster()
    cluster.documents_of(NSM)
    async with running(cluster):
        bundle = await kept(cluster)
        cluster.key = OTHER  # it starts anew
        cluster.documents_of(NSM)
        with pytest.raises(ReceiptError, match="another enclave's"):
            await source(cluster).fetch(Receipt.decode(bundle.receipt))


async def test_one_document_serves_all_receipts_of_a_key_and_a_failure_is_not_repeated_at_once() -> None:
    cluster = FakeCluster()
    now = [0.0]
    async with running(cluster):
        held = HeldDocuments(source(cluster), monotonic=lambda: now[0])
        receipt = Receipt.decode((await kept(cluster)).receipt)
        assert await held.of(receipt) is None, "no document, no proof"
        assert await held.of(receipt) is None, "still none"
        assert len(cluster.asked) == 1, "a cluster in trouble is not asked for every receipt"
        now[0] += PAUSE_S
        cluster.documents_of(NSM)
        assert await held.of(receipt) == await held.of(receipt), "then there is one"
        assert len(cluster.asked) == 2, "for all receipts of the key"


async def test_the_proxy_keeps_a_receipt_of_every_whole_response_and_none_of_a_refused_one(tmp_path: Path) -> None:
    cluster = FakeCluster(otherwise=lambda _: Answer(chat_events("o", "pen"), content_type=EVENTS))
    cluster.documents_of(NSM)
    folder = tmp_path / "receipts"
    async with (
        running(cluster),
        ReceiptFolder(folder, HeldDocuments(source(cluster))) as receipts,
        AsyncExitStack() as stack,
    ):
        client = await stock(stack, cluster, Pins(), keep=receipts.keep)
        raw = await client.chat.completions.with_raw_response.create(model="tiny", messages=MESSAGES, stream=True)
        assert [chunk.choices[0].delta.content async for chunk in raw.parse()] == ["o", "pen"], "as ever"
        cluster.steps.append(Answer(chat_events("o"), content_type=EVENTS, receipt=edited(sig=None)))
        refused = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIConnectionError):
            await drained(refused)
    (file,) = folder.iterdir()
    assert file.stem == raw.headers["X-MRGC-Request-Hash"], "the response's header names its receipt's file"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600, "for its owner alone"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700, "and so is the folder"
    judge(read_bundle(file), Wanted(roots=[ROOT.certificate]))
    assert (receipts.kept, receipts.lost, receipts.bare) == (1, 0, 0), "counted"


async def drained(stream: AsyncIterator[Any]) -> None:
    async for _ in stream:
        pass


async def test_a_receipt_without_a_document_is_kept_all_the_same(tmp_path: Path) -> None:
    cluster = FakeCluster()
    async with running(cluster), ReceiptFolder(tmp_path, HeldDocuments(source(cluster))) as receipts:
        receipts.keep(await kept(cluster))
        receipts.keep(await kept(cluster))
    assert (receipts.kept, receipts.bare) == (2, 2), "the signature may be wanted, and a document may come later"
    with pytest.raises(ReceiptError, match="no attestation document"):
        judge(read_bundle(next(tmp_path.iterdir())), Wanted(roots=[ROOT.certificate]))
