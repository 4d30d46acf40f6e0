"""The `Recipient` parameter: an attestation document checked as KMS checks it, and what policies may ask of it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography import x509

from dataplane.protocol.attestation.document import AttestationDocument
from dataplane.protocol.attestation.verify import authenticate, check_not_debug
from dataplane.protocol.errors import AttestationError
from stacks.local.aws.errors import AwsError
from stacks.local.cms import RecipientKeyError, seal_for_recipient

ALGORITHM = "RSAES_OAEP_SHA_256"


def read_recipient(
    parameters: Mapping[str, Any], *, roots: Sequence[x509.Certificate], now_ms: int
) -> AttestationDocument | None:
    """Return the verified document of a request's `Recipient`, None without one.

    A document that is not genuine or too old is a `ValidationException`; one of a debug enclave is refused as
    `AccessDeniedException`, for its registers prove nothing. Nonce and user data are ignored, as KMS does.
    """
    recipient = parameters.get("Recipient")
    if recipient is None:
        return None
    if not isinstance(recipient, Mapping) or recipient.keys() != {"KeyEncryptionAlgorithm", "AttestationDocument"}:
        raise AwsError("ValidationException", "Recipient needs KeyEncryptionAlgorithm and AttestationDocument.")
    if recipient["KeyEncryptionAlgorithm"] != ALGORITHM:
        raise AwsError("ValidationException", f"KeyEncryptionAlgorithm is not {ALGORITHM}.")
    try:
        document = authenticate(decode_blob(recipient["AttestationDocument"]), roots=roots, now_ms=now_ms)
    except AttestationError as error:
        raise AwsError("ValidationException", f"{error} ({error.reason})") from None
    try:
        check_not_debug(document)
    except AttestationError as error:
        raise AwsError("AccessDeniedException", f"{error} ({error.reason})") from None
    return document


def conditions_of(document: AttestationDocument) -> dict[str, tuple[str, ...]]:
    """Return the condition keys that a document sets, registers as lower-case hex.

    A zero register is a value like any other (PCR12 of an untouched NitroTPM image, PCR8 of an unsigned enclave), but
    where zero means that nothing was measured: PCR0 to PCR2 of an enclave and PCR4 of a TPM then equal nothing.
    """
    prefix, measured = ("pcr", (0, 1, 2)) if document.pcr_field == "pcrs" else ("nitrotpmpcr", (4,))
    keys: dict[str, tuple[str, ...]] = {
        f"kms:recipientattestation:{prefix}{index}": (value.hex(),)
        for index, value in document.pcrs.items()
        if any(value) or index not in measured
    }
    image = keys.get("kms:recipientattestation:pcr0")
    return keys | ({"kms:recipientattestation:imagesha384": image} if image is not None else {})


def plaintext_fields(plaintext: bytes, document: AttestationDocument | None) -> dict[str, str]:
    """Return the answer's plaintext, or in its place the ciphertext for the document's public key."""
    if document is None:
        return {"Plaintext": base64.b64encode(plaintext).decode()}
    try:
        sealed = seal_for_recipient(plaintext, document.public_key or b"")
    except RecipientKeyError as error:
        raise AwsError("ValidationException", str(error)) from None
    return {"CiphertextForRecipient": base64.b64encode(sealed).decode()}


def decode_blob(value: object) -> bytes:
    """Decode a base64 parameter; `ValidationException` for anything else."""
    try:
        return base64.b64decode(value, validate=True) if isinstance(value, str) else _refuse()
    except (binascii.Error, ValueError):
        return _refuse()


def _refuse() -> bytes:
    raise AwsError("ValidationException", "A binary parameter is not base64.")
