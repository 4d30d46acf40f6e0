"""Kept receipts before a third party: what holds years later, what never does, and what is said of it."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol.attestation.document import MAX_DOCUMENT_BYTES
from dataplane.protocol.envelope import RequestOpener, RequestSealer
from dataplane.protocol.errors import AttestationError, MrgcError, SettingsError
from dataplane.protocol.header import RequestHeader, encryption_context
from dataplane.protocol.keys import DirectionKeys
from dataplane.protocol.message import RequestMessage, ResponseHead
from dataplane.protocol.receipt import Receipt, enclave_user_data
from dataplane.tenant.bundle import KeptDocument, ReceiptBundle, check_new, read_bundle, write_bundle
from dataplane.tenant.disclosure import MAX_RESPONSE_BYTES, Disclosed, ExchangeRecorder
from dataplane.tenant.errors import ReceiptError
from dataplane.tenant.judge import Wanted, judge
from dataplane.tenant.pins import parse_pins
from stacks.local.nsm import SoftwareNsm
from stacks.local.pki import create_nsm_root

INSTANCE = "i-0123456789abcdef0"
PCRS = {index: bytes([index + 1]) * 48 for index in range(3)}
MODEL = "ab" * 32
CONFIG = b"\x07" * 32
KMS = "arn:aws:kms:us-east-1:111122223333:key/mrk-00000000000000000000000000000001"
BODY = b'{"model": "tiny", "prompt": "is it so?"}'
ANSWER = b'{"text": "yes"}'
KEY = Ed25519PrivateKey.generate()
OTHER = Ed25519PrivateKey.generate()
MADE_MS = 1_500_000_000_000
"""July 2017: every certificate of the document has ended long since."""
ROOT = create_nsm_root(now=datetime.fromtimestamp(MADE_MS / 1000, UTC))
NSM = SoftwareNsm(root=ROOT, pcrs=PCRS, instance_id=INSTANCE, clock_ms=lambda: MADE_MS + 2_000)
NONCE = b"\x0a" * 32
LOCAL = Wanted(roots=[ROOT.certificate])


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def document(*, key: Ed25519PrivateKey = KEY, nsm: SoftwareNsm = NSM) -> KeptDocument:
    shown = enclave_user_data(public(key))
    return KeptDocument(document=nsm.attest(nonce=NONCE, user_data=shown, public_key=None), nonce=NONCE)


def exchange(*, body: bytes = BODY, answer: bytes = ANSWER, pad: int = 0, **changes: Any) -> ReceiptBundle:
    """One whole exchange, disclosed, with the document of the enclave that answered."""
    context = encryption_context("tenant-a", secrets.token_hex(16), MADE_MS // 1000 + 600)
    header = RequestHeader(
        rid=secrets.token_bytes(16),
        iat=MADE_MS,
        tenant="tenant-a",
        model="tiny",
        kms=KMS,
        ctx=context,
        wrapped=secrets.token_bytes(180),
        assurance=0,
        pad=pad,
    )
    cek = secrets.token_bytes(32)
    sealer = RequestSealer(header, cek)
    message = RequestMessage(path="/v1/completions", content_type="application/json", body=body).encode()
    sealed = sealer.prefix() + b"".join(sealer.seal_message(message, 64))
    opener = RequestOpener()
    opener.feed(sealed)
    opener.unlock(cek)
    head = ResponseHead(status=200, content_type="application/json").encode()
    fields: dict[str, Any] = {
        "request": sealer.th,
        "response": hashlib.sha256(head + answer).digest(),
        "assurance": 0,
        "time": MADE_MS,
        "pcr0": PCRS[0],
        "region": "us-east-1",
        "instance": INSTANCE,
        "model_digest": MODEL,
        "config_digest": CONFIG,
        "opened": opener.opened,
    }
    receipt = Receipt(**(fields | changes)).signed(KEY).encode()
    answering = opener.response_sealer(secrets.token_bytes(32))
    recorder = ExchangeRecorder(prefix=sealer.prefix(), sealed=sealed, cek=cek, request_hash=sealer.th)
    for piece in (answering.prefix(), answering.seal(head), answering.seal(answer[:3]), answering.seal(answer[3:])):
        recorder.feed(piece)
    recorder.feed(answering.seal(receipt, final=True))
    return ReceiptBundle(
        receipt=receipt, head=head, request_id="r-1", attestation=document(), disclosed=recorder.disclosed()
    )


WHOLE = exchange()
SHOWN = replace(WHOLE, disclosed=None)
"""What a tenant shows who discloses nothing."""


def disclosed(bundle: ReceiptBundle) -> Disclosed:
    assert bundle.disclosed is not None, "this bundle discloses its exchange"
    return bundle.disclosed


def attested(bundle: ReceiptBundle) -> KeptDocument:
    assert bundle.attestation is not None, "this bundle has a document"
    return bundle.attestation


# What holds.


def test_a_receipt_holds_years_after_its_documents_certificates_have_ended() -> None:
    verdict = judge(SHOWN, LOCAL)
    assert verdict.document.timestamp_ms == MADE_MS + 2_000, "judged at the document's own time"
    assert verdict.receipt.model_digest == MODEL, "and read"
    assert verdict.exchange is None, "nothing was disclosed"


def test_a_disclosed_exchange_shows_what_was_asked_and_answered() -> None:
    for bundle in (WHOLE, exchange(pad=256), exchange(body=b"x" * 70_000)):
        opened = judge(bundle, LOCAL).exchange
        assert opened is not None, "it was disclosed"
        assert opened.body == ANSWER, "the answer, byte for byte"
        assert opened.message.path == "/v1/completions", "the request as the enclave opened it"
        assert (opened.header.tenant, opened.header.kms) == ("tenant-a", KMS), "and whose key sealed it"


def test_the_keys_of_one_request_open_no_other_of_its_session() -> None:
    one, two = disclosed(exchange()), disclosed(exchange())
    mixed = replace(one, request=two.request, response=two.response)
    with pytest.raises(ReceiptError, match="does not open"):
        mixed.open()


def test_files_are_compared_with_what_was_signed() -> None:
    judge(SHOWN, replace(LOCAL, response=ANSWER, request=disclosed(WHOLE).request))
    judge(WHOLE, replace(LOCAL, response=ANSWER, request=BODY))
    wrong: list[tuple[ReceiptBundle, dict[str, Any], str]] = [
        (SHOWN, {"response": ANSWER + b" "}, "response's file"),
        (SHOWN, {"request": disclosed(exchange()).request}, "sealed request's file"),
        (SHOWN, {"request": BODY}, "discloses no keys"),
        (WHOLE, {"request": BODY + b" "}, "not what was asked"),
        (WHOLE, {"request": disclosed(WHOLE).request.replace(b"tenant-a", b"tenant-b")}, "sealed request's file"),
    ]
    for bundle, files, sentence in wrong:
        with pytest.raises(ReceiptError, match=sentence):
            judge(bundle, replace(LOCAL, **files))


def test_of_a_sealed_file_without_keys_only_the_frames_are_called_proved() -> None:
    forged = disclosed(WHOLE).request.replace(b"tenant-a", b"tenant-b")
    verdict = judge(SHOWN, replace(LOCAL, request=forged))
    assert any("frames of the request's file" in said for said in verdict.proved), "the receipt names their hash"
    assert any("header of the request's file" in said for said in verdict.not_proved), (
        "a header with anybody's name and key fits the same frames until somebody shows what opens them"
    )


def test_what_is_proved_and_what_is_not_is_said_plainly() -> None:
    verdict = judge(SHOWN, LOCAL)
    proved, unproved = "\n".join(verdict.proved), "\n".join(verdict.not_proved)
    assert f"PCR0 {PCRS[0].hex()}" in proved, "which image held the key"
    assert "2017-07-14T02:40:02.000+00:00" in proved, "when it did, by the document"
    assert WHOLE.disclosed is not None, "for comparison"
    for said in (
        "assurance 0",
        "root that was given instead",
        "anybody can run an enclave of their own",
        "only a holder of their key",
        "--response",
        "clock",
        "GPU worker's word",
    ):
        assert said in unproved, f"{said!r} is what a reader could take for proved"


def test_what_was_compared_is_no_longer_called_unproved() -> None:
    wanted = replace(LOCAL, measurements=[PCRS], pins=parse_pins(models=[MODEL], configs=[CONFIG.hex()]))
    verdict = judge(exchange(assurance=2), wanted)
    proved, unproved = "\n".join(verdict.proved), "\n".join(verdict.not_proved)
    for said in ("image is one of those", "names a model that was expected", "names a configuration", "'tenant-a'"):
        assert said in proved, f"{said!r} was compared"
    for said in ("assurance 0", "anybody can run", "only a holder", "below level 2"):
        assert said not in unproved, f"{said!r} does not apply"


# What never holds.

BROKEN: dict[str, tuple[Callable[[], ReceiptBundle], str]] = {
    "stripped of its signature": (
        lambda: replace(SHOWN, receipt=replace(Receipt.decode(SHOWN.receipt), sig=None).encode()),
        "signature",
    ),
    "signed by another key": (
        lambda: replace(SHOWN, receipt=Receipt.decode(SHOWN.receipt).signed(OTHER).encode()),
        "does not name the key",
    ),
    "of a bundle without document": (lambda: replace(SHOWN, attestation=None), "no attestation document"),
    "with the document of another key": (
        lambda: replace(SHOWN, attestation=document(key=OTHER)),
        "does not name the key",
    ),
    "with the document of another image": (
        lambda: replace(SHOWN, attestation=document(nsm=nsm(pcrs=PCRS | {0: b"\x77" * 48}))),
        "another enclave image",
    ),
    "with the document of another instance": (
        lambda: replace(SHOWN, attestation=document(nsm=nsm(instance_id="i-0fedcba9876543210"))),
        "another instance",
    ),
    "with a document over another nonce": (
        lambda: replace(SHOWN, attestation=replace(attested(SHOWN), nonce=b"\x0b" * 32)),
        "nonce",
    ),
    "with another head": (
        lambda: replace(WHOLE, head=ResponseHead(status=500, content_type="application/json").encode()),
        "another receipt or head",
    ),
    "that names a zero image": (lambda: exchange(pcr0=bytes(48)), "another enclave image"),
    "that names no response": (lambda: exchange(response=None), "no response"),
    "with the exchange of another request": (
        lambda: replace(WHOLE, disclosed=exchange().disclosed),
        "not the one that the receipt names",
    ),
    "with an altered answer": (
        lambda: replace(WHOLE, disclosed=replace(disclosed(WHOLE), response=flipped(disclosed(WHOLE).response, 60))),
        "does not open",
    ),
    "with an answer that ends early": (
        lambda: replace(WHOLE, disclosed=replace(disclosed(WHOLE), response=disclosed(WHOLE).response[:-200])),
        "disclosed",
    ),
    "with a header of another tenant": (
        lambda: replace(
            WHOLE,
            disclosed=replace(disclosed(WHOLE), request=disclosed(WHOLE).request.replace(b"tenant-a", b"tenant-b")),
        ),
        "does not open",
    ),
    "with other keys": (
        lambda: replace(WHOLE, disclosed=replace(disclosed(WHOLE), request_keys=DirectionKeys(bytes(32), bytes(12)))),
        "does not open",
    ),
    "with keys that the enclave did not use, whatever they open": (
        lambda: exchange(opened=secrets.token_bytes(32)),
        "other keys than the enclave",
    ),
    "with keys that no receipt speaks of": (lambda: exchange(opened=None), "other keys than the enclave"),
    "of other bytes than were answered": (lambda: exchange(response=bytes(32)), "disclosed response"),
}


def nsm(**changes: Any) -> SoftwareNsm:
    arguments: dict[str, Any] = {
        "root": ROOT,
        "pcrs": PCRS,
        "instance_id": INSTANCE,
        "clock_ms": lambda: MADE_MS,
    }
    return SoftwareNsm(**(arguments | changes))


def flipped(data: bytes, index: int) -> bytes:
    return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]


@pytest.mark.parametrize(("make", "sentence"), BROKEN.values(), ids=BROKEN.keys())
def test_a_receipt_does_not_hold(make: Callable[[], ReceiptBundle], sentence: str) -> None:
    with pytest.raises(MrgcError, match=sentence):
        judge(make(), LOCAL)


def test_a_document_under_another_root_than_awss_does_not_hold_unless_that_root_is_given() -> None:
    with pytest.raises(AttestationError, match="root"):
        judge(SHOWN, Wanted())


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (replace(LOCAL, pins=parse_pins(models=["cd" * 32])), "Another model"),
        (replace(LOCAL, pins=parse_pins(pcr0s=["22" * 48])), "another enclave image"),
        (replace(LOCAL, pins=parse_pins(configs=["08" * 32])), "another configuration"),
        (replace(LOCAL, measurements=[PCRS | {2: b"\x77" * 48}]), "measurements"),
    ],
    ids=["model", "image", "configuration", "another register"],
)
def test_a_receipt_that_is_not_as_expected_does_not_hold(wanted: Wanted, sentence: str) -> None:
    with pytest.raises(MrgcError, match=sentence):
        judge(SHOWN, wanted)


def test_a_refusal_that_names_no_model_is_no_evidence_of_the_model_that_was_expected() -> None:
    refused = replace(
        exchange(model_digest=""), disclosed=None, head=ResponseHead(status=400, content_type="text/plain").encode()
    )
    with pytest.raises(ReceiptError, match="Another model"):
        judge(refused, replace(LOCAL, pins=parse_pins(models=[MODEL])))
    assert "model" not in "\n".join(judge(refused, LOCAL).proved), "nor is a model spoken of where none was pinned"


@given(st.data())
def test_no_flipped_byte_of_receipt_document_or_exchange_holds(data: st.DataObject) -> None:
    part = data.draw(st.sampled_from(["receipt", "document", "nonce", "request", "response"]))
    # Beside the exchange stands a copy of the receipt: without it nothing but the signature covers the receipt.
    bundle = WHOLE if part in {"request", "response"} or data.draw(st.booleans()) else SHOWN
    if part == "receipt":
        bundle = replace(bundle, receipt=flip_any(data, bundle.receipt))
    elif part in {"document", "nonce"}:
        kept = attested(bundle)
        changed: dict[str, Any] = {part: flip_any(data, getattr(kept, part))}
        bundle = replace(bundle, attestation=replace(kept, **changed))
    else:
        changed = {part: flip_any(data, sealed(bundle, part))}
        bundle = replace(bundle, disclosed=replace(disclosed(bundle), **changed))
    with pytest.raises(MrgcError):
        judge(bundle, LOCAL)


def sealed(bundle: ReceiptBundle, part: str) -> bytes:
    return disclosed(bundle).request if part == "request" else disclosed(bundle).response


def flip_any(data: st.DataObject, value: bytes) -> bytes:
    index = data.draw(st.integers(0, len(value) - 1))
    return value[:index] + bytes([value[index] ^ data.draw(st.integers(1, 255))]) + value[index + 1 :]


# The file.


def test_a_bundle_is_read_back_as_it_was_written_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    listed = replace(SHOWN, attestation=replace(attested(SHOWN), nonces="00" * 16 + "," + "01" * 16))
    for number, bundle in enumerate((WHOLE, SHOWN, replace(SHOWN, attestation=None), listed)):
        write_bundle(tmp_path / str(number), bundle)
        assert read_bundle(tmp_path / str(number)) == bundle, "nothing is lost"
    check_new(path)
    write_bundle(path, SHOWN)
    with pytest.raises(SettingsError, match="exists already"):
        check_new(path)
    with pytest.raises(SettingsError, match="cannot be written"):
        write_bundle(path, WHOLE)
    assert read_bundle(path) == SHOWN, "evidence is not overwritten"
    with pytest.raises(SettingsError, match="no folder"):
        check_new(tmp_path / "none" / "receipt.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
PARTS = json.loads(WHOLE.to_json())


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_bundle_is_said_so(text: bytes) -> None:
    with pytest.raises(ReceiptError):
        ReceiptBundle.from_json(text)


@given(st.sampled_from(sorted(PARTS)), JSON)
def test_a_bundle_with_a_part_of_another_kind_is_refused_or_does_not_hold(name: str, value: object) -> None:
    if value == PARTS[name] or name == "request_id" or (name == "disclosed" and value is None):
        return
    with pytest.raises(MrgcError):
        judge(ReceiptBundle.from_json(json.dumps(PARTS | {name: value}).encode()), LOCAL)


@given(st.sampled_from(["attestation", "disclosed"]), st.data())
def test_a_bundle_with_an_inner_part_of_another_kind_is_refused_or_does_not_hold(
    outer: str, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(PARTS[outer])))
    value = data.draw(JSON)
    if value == PARTS[outer][name]:
        return
    changed = PARTS | {outer: PARTS[outer] | {name: value}}
    with pytest.raises(MrgcError):
        judge(ReceiptBundle.from_json(json.dumps(changed).encode()), LOCAL)


@pytest.mark.parametrize("name", ["receipt", "nonce", "request_key"])
def test_a_bundle_that_says_one_thing_twice_is_refused(name: str) -> None:
    text = WHOLE.to_json()
    line = next(line for line in text.splitlines() if f'"{name}":' in line)
    with pytest.raises(ReceiptError, match="each key once"):
        ReceiptBundle.from_json(text.replace(line, f"{line.rstrip(',')},\n{line}").encode())


def test_a_document_longer_than_any_is_refused() -> None:
    long = replace(attested(SHOWN), document=bytes(MAX_DOCUMENT_BYTES + 1))
    with pytest.raises(AttestationError, match="bytes"):
        judge(replace(SHOWN, attestation=long), LOCAL)


def test_a_response_too_long_to_disclose_is_said_so_and_not_held() -> None:
    request = disclosed(WHOLE).request
    recorder = ExchangeRecorder(prefix=request[:40], sealed=request, cek=bytes(32), request_hash=bytes(32))
    recorder.feed(bytes(MAX_RESPONSE_BYTES))
    recorder.feed(b"x")
    with pytest.raises(ReceiptError, match="too long to be disclosed"):
        recorder.disclosed()


def test_no_key_and_no_text_shows_in_a_bundles_repr() -> None:
    shown = repr(WHOLE)
    for secret in (disclosed(WHOLE).request_keys.key, disclosed(WHOLE).response_keys.key, BODY, ANSWER):
        assert repr(secret)[2:-1] not in shown, "a log line would tell it"
        assert base64.b64encode(secret).decode() not in shown, "in no form"


@pytest.mark.parametrize(
    ("given_pins", "sentence"),
    [
        ({"models": ["tiny"]}, "MRGC_EXPECT_MODEL"),
        ({"models": ["00" * 32]}, "not all zero"),
        ({"pcr0s": ["11" * 32]}, "MRGC_EXPECT_PCR0.*96 hex digits"),
        ({"pcr0s": ["00" * 48]}, "not all zero"),
        ({"configs": ["xyz"]}, "MRGC_EXPECT_CONFIG.*64 hex digits"),
    ],
)
def test_a_pin_that_is_no_digest_is_refused_by_name(given_pins: dict[str, list[str]], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        parse_pins(**given_pins)
