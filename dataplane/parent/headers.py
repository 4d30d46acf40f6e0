"""The HTTP headers of `POST /inference`, checked before anything else is done for a request.

Whether they agree with the envelope is for the enclave to say; here they only must be such values at all.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from dataplane.protocol.errors import ProblemError

CONTENT_TYPE = "application/octet-stream"
MAX_NAME = 128
"""Characters of a tenant, a model pool and a request id (PROTOCOL, request envelope and HTTP)."""
MAX_ARN = 2048
"""Characters of a KMS key's ARN: what `KeyId` of KMS's Decrypt takes."""
MAX_TRACEPARENT = 128
"""Characters of a traceparent: version 00 has 55, later versions may be longer (W3C Trace Context, 3.2.2)."""
NONCE_BYTES = range(16, 65)
"""Lengths of an attestation nonce in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceHeaders:
    """What the headers of one request say."""

    kms: str
    tenant: str
    model: str
    request_id: str
    traceparent: str | None


def read_inference_headers(headers: Mapping[str, str], *, default_model: str | None) -> InferenceHeaders:
    """Read and check; `headers` looks names up without regard to case, as aiohttp's mappings do.

    Raises ProblemError `malformed-envelope` for a content type that is not ours, `header-mismatch` for a header that
    is missing or cannot equal any envelope's value.
    """
    content_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if content_type != CONTENT_TYPE:
        raise ProblemError(
            "malformed-envelope", f"The Content-Type is {content_type[:64]!r}; send the envelope as {CONTENT_TYPE}."
        )
    return InferenceHeaders(
        kms=_text(headers, "X-KMS-Key-ARN", MAX_ARN),
        tenant=_text(headers, "X-Tenant-ID", MAX_NAME),
        model=_text(headers, "X-Model-Pool", MAX_NAME, default=default_model),
        request_id=_request_id(headers.get("X-Request-ID")),
        traceparent=_traceparent(headers.get("traceparent")),
    )


def read_nonce(text: str | None) -> bytes:
    """The `nonce` of `GET /attestation`: 16 to 64 bytes in hex; raises ProblemError `malformed-envelope` otherwise."""
    try:
        nonce = bytes.fromhex(text or "")
    except ValueError:
        nonce = b""
    if text is None or len(nonce) not in NONCE_BYTES or len(text) != 2 * len(nonce):
        raise ProblemError(
            "malformed-envelope", "The attestation nonce must be 16 to 64 bytes in hex: GET /attestation?nonce=<hex>."
        )
    return nonce


def _text(headers: Mapping[str, str], name: str, most: int, *, default: str | None = None) -> str:
    value = headers.get(name, default)
    if value is None:
        raise ProblemError("header-mismatch", f"The header {name} is missing; send what the envelope says.")
    if not 1 <= len(value) <= most or not value.isprintable():
        raise ProblemError(
            "header-mismatch",
            f"The header {name} has {len(value)} characters; it takes 1 to {most} printable ones, as in the envelope.",
        )
    return value


def _request_id(value: str | None) -> str:
    """The request id given, or a fresh one: it is for logs only, so a bad one is replaced and no reason to refuse."""
    if value is not None and 1 <= len(value) <= MAX_NAME and value.isprintable():
        return value
    return secrets.token_hex(8)


def _traceparent(value: str | None) -> str | None:
    return value if value is not None and value.isascii() and len(value) <= MAX_TRACEPARENT else None
