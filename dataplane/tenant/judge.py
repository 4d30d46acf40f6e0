"""Judges a receipt bundle without a network and without a clock, and says in sentences what it proves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509

from dataplane.protocol.attestation.document import AttestationDocument
from dataplane.protocol.attestation.nonces import expected_nonce
from dataplane.protocol.attestation.verify import AttestationPolicy, verify_kept
from dataplane.protocol.errors import AttestationError
from dataplane.protocol.message import ResponseHead
from dataplane.protocol.receipt import Receipt, enclave_user_data, verify_signature
from dataplane.tenant.bundle import KeptDocument, ReceiptBundle
from dataplane.tenant.disclosure import OpenedExchange, is_sealed, sealed_request_hash
from dataplane.tenant.errors import ReceiptError
from dataplane.tenant.pins import Pins, response_hash

ATTESTED_HOST = 2
ANSWERED = 200
"""The inner status of an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a bundle is held to beside itself.

    `roots` are the documents' roots (AWS's alone when None); `measurements` the allowed enclave images, every register
    of one of which must be equal; `request` a file's bytes, the JSON that was asked (where the bundle discloses the
    exchange) or the sealed body as sent; `response` the answer's body.
    """

    roots: Sequence[x509.Certificate] | None = None
    measurements: Sequence[Mapping[int, bytes]] = ()
    pins: Pins = field(default_factory=Pins)
    request: bytes | None = None
    response: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A bundle that holds: what it says, what that proves and what it does not prove, one sentence each."""

    receipt: Receipt
    document: AttestationDocument
    exchange: OpenedExchange | None
    proved: tuple[str, ...]
    not_proved: tuple[str, ...]


def judge(bundle: ReceiptBundle, wanted: Wanted) -> Verdict:
    """Verify a bundle; raises `OpenError`, `ReceiptError` or `AttestationError` with the first thing that fails."""
    receipt = Receipt.decode(bundle.receipt)
    key = verify_signature(bundle.receipt)
    if bundle.attestation is None:
        raise ReceiptError(
            "The bundle has no attestation document: the signature is its key's, and nothing shows whose key that is."
        )
    if receipt.response is None or receipt.time is None:
        raise ReceiptError("The receipt names no response or no time, which every signed receipt does.")
    document = _judge_document(bundle.attestation, receipt, key, wanted)
    ResponseHead.decode(bundle.head)
    # As an answer, whatever the head says: that is not covered before the response is there, and a refusal is no
    # evidence of a model.
    wanted.pins.check(receipt, status=ANSWERED)
    exchange = None if bundle.disclosed is None else bundle.disclosed.open()
    if exchange is not None:
        _judge_exchange(exchange, bundle, receipt)
    _judge_request(wanted.request, receipt, bundle, exchange)
    if wanted.response is not None and response_hash(bundle.head, wanted.response) != receipt.response:
        raise ReceiptError("The response's file is not what the receipt was signed for.")
    return Verdict(
        receipt=receipt,
        document=document,
        exchange=exchange,
        proved=tuple(_proved(receipt, document, exchange, wanted)),
        not_proved=tuple(_not_proved(receipt, document, exchange, wanted)),
    )


def _judge_document(kept: KeptDocument, receipt: Receipt, key: bytes, wanted: Wanted) -> AttestationDocument:
    nonce = expected_nonce(kept.nonce, kept.nonces)
    try:
        policy = AttestationPolicy(allowed_pcrs=[{0: receipt.pcr0}], nonce=nonce, user_data=enclave_user_data(key))
        document = verify_kept(kept.document, policy=policy, roots=wanted.roots)
    except AttestationError as error:
        if error.reason == "pcr":
            raise ReceiptError("The document measures another enclave image (PCR0) than the receipt names.") from None
        if error.reason == "user-data":
            raise ReceiptError("The document does not name the key that signed the receipt.") from None
        raise
    if document.instance_id != receipt.instance:
        raise ReceiptError("The document comes from another instance than the receipt names.")
    if wanted.measurements:
        verify_kept(kept.document, policy=AttestationPolicy(allowed_pcrs=wanted.measurements), roots=wanted.roots)
    return document


def _judge_exchange(exchange: OpenedExchange, bundle: ReceiptBundle, receipt: Receipt) -> None:
    if exchange.request_hash != receipt.request:
        raise ReceiptError("The disclosed request is not the one that the receipt names.")
    if exchange.opened != receipt.opened:
        # Other keys may open the same frames to another text: AES-GCM does not say which were used, the receipt does.
        raise ReceiptError("The disclosed request is shown under other keys than the enclave opened it with.")
    if exchange.receipt != bundle.receipt or exchange.head != bundle.head:
        raise ReceiptError("The disclosed response holds another receipt or head than the bundle.")
    if exchange.response_hash != receipt.response:
        raise ReceiptError("The disclosed response is not the one that the receipt was signed for.")


def _judge_request(
    given: bytes | None, receipt: Receipt, bundle: ReceiptBundle, exchange: OpenedExchange | None
) -> None:
    if given is None:
        return
    if is_sealed(given):
        # The receipt's hash is of the frames: what is disclosed says which header they were opened under.
        whole = bundle.disclosed is None or bundle.disclosed.request == given
        if sealed_request_hash(given) != receipt.request or not whole:
            raise ReceiptError("The sealed request's file is not what the receipt names.")
    elif exchange is None:
        raise ReceiptError(
            "The receipt names the request as it was sealed, and the bundle discloses no keys: "
            "a plain request cannot be compared with it."
        )
    elif exchange.message.body != given:
        raise ReceiptError("The request's file is not what was asked.")


def _proved(
    receipt: Receipt, document: AttestationDocument, exchange: OpenedExchange | None, wanted: Wanted
) -> list[str]:
    root = "AWS Nitro Enclaves Root-G1" if wanted.roots is None else "the root that was given"
    said = [
        (
            f"The enclave {document.module_id} with PCR0 {receipt.pcr0.hex()} held the receipt's key at "
            f"{_moment(document.timestamp_ms)}: its attestation document is genuine under {root} and names the key."
        ),
        (
            f"That key signed this receipt, and every field of it: it says that a request whose sealed frames hash to "
            f"{receipt.request.hex()} was answered, dated {_moment(receipt.time or 0)} by the enclave."
        ),
    ]
    if wanted.measurements or wanted.pins.pcr0s:
        said.append("The enclave image is one of those that were expected.")
    if wanted.pins.models:
        said.append("The receipt names a model that was expected.")
    if wanted.pins.configs:
        said.append("The receipt names a configuration that was expected.")
    if wanted.response is not None or exchange is not None:
        what = "The response's file is" if exchange is None else "The disclosed response is"
        said.append(f"{what} what the enclave answered, byte for byte.")
    if exchange is not None:
        said.append(
            f"The disclosed request is what the enclave opened: {exchange.message.path} for model pool "
            f"{exchange.header.model!r}, sealed as tenant {exchange.header.tenant!r} with {exchange.header.kms}."
        )
    elif wanted.request is not None:
        said.append("The frames of the request's file are those of the sealed request that was answered.")
    return said


def _not_proved(
    receipt: Receipt, document: AttestationDocument, exchange: OpenedExchange | None, wanted: Wanted
) -> list[str]:
    unsaid = []
    if receipt.assurance == 0:
        unsaid.append(
            "Anything at all about hardware: the receipt itself says assurance 0, a software security module."
        )
    if wanted.roots is not None:
        unsaid.append("That the document is AWS Nitro's: it was verified under the root that was given instead.")
    if not wanted.measurements and not wanted.pins.pcr0s:
        unsaid.append(
            "That the image is to be trusted: anybody can run an enclave of their own. Compare PCR0 with the published "
            "measurements (--measurements or --expect-pcr0)."
        )
    if exchange is None:
        unsaid.append(
            "What was asked, and by whom: the receipt names the sealed frames, and only a holder of their key can show "
            "which text they are."
        )
        if wanted.request is not None:
            unsaid.append(
                "That the header of the request's file (tenant, model pool, KMS key) is the one that was sent: only a "
                "holder of the frames' key can show that."
            )
        if wanted.response is None:
            unsaid.append("What was answered: give the answer's bytes with --response to compare their hash.")
    else:
        unsaid.append("Who the tenant is beyond that name and key, or that this person asked.")
    gap_s = abs(document.timestamp_ms - (receipt.time or 0)) // 1000
    unsaid.append(
        f"The time beyond the enclave's clock: the receipt's time is that clock's word, {gap_s} s from the document's, "
        "which is AWS Nitro's; one key lives as long as its enclave."
        if wanted.roots is None
        else f"The time: it is the enclave's clock's word, {gap_s} s from the document's."
    )
    if receipt.assurance < ATTESTED_HOST:
        unsaid.append(
            "Which model answered, under which configuration, and when the host was last washed: model_digest, "
            "config_digest and wash are the GPU worker's word, and below level 2 nothing attests its host."
        )
    else:
        unsaid.append(
            "More of model, configuration and wash than that a worker on a host with allowed measurements said them."
        )
    if receipt.usage or receipt.spans:
        unsaid.append("That token counts and times are right: the worker and the host's clock say them.")
    return unsaid


def _moment(time_ms: int) -> str:
    """A time for people, UTC; one beyond the calendar as the number that it is."""
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return f"{time_ms} ms after 1970"
