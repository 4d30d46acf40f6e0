"""The receipt: the final frame of a response, signed by a key that the enclave made.

The signature is Ed25519 (RFC 8032) over the receipt's own CBOR without `sig`. The key is in `key`, and
SHA-256("mrgc/1 enclave" || key) is the `user_data` of the enclave's attestation documents: whoever keeps both can show
a receipt to others. Pure: what signs and what verifies are values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self, TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dataplane.protocol import cbor, ed25519
from dataplane.protocol.errors import OpenError
from dataplane.protocol.fill import FILL, fill_of, is_fill
from dataplane.protocol.message import (
    HASH_BYTES,
    MAX_PCR_BYTES,
    MAX_SHORT_TEXT,
    is_name,
    is_text,
    is_uint,
    opened_fields,
)

ENCLAVE_KEY_LABEL: Final = b"mrgc/1 enclave"
PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
MAX_SPANS: Final = 32
"""Spans of one request inside enclave and worker: eleven are made today."""

RECEIPT_MULTIPLE: Final = 1024
"""A signed receipt takes some 590 bytes, and 35 for each span: with up to ten spans all of an enclave's receipts are
one length, which says nothing of the numbers in them. It is the last frame, and its length is in clear."""

USAGE_KEYS: Final = frozenset({"prompt_tokens", "completion_tokens", "cached_tokens"})
PROOF_KEYS: Final = frozenset({"binding", "document"})
_SPAN_ITEMS: Final = 3
_REQUIRED: Final = frozenset({"request", "assurance", "pcr0", "region", "instance", "model_digest"})

SealedSpan: TypeAlias = tuple[str, int, int]
"""Name, start and duration in microseconds; starts count from the enclave's (in a hop tail: the worker's) first."""


def enclave_user_data(public_key: bytes) -> bytes:
    """Return the `user_data` of a document of the enclave whose receipts `public_key` (32 bytes) verifies."""
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise ValueError(f"an Ed25519 public key has {PUBLIC_KEY_BYTES} bytes, and {len(public_key)} were given")
    return hashlib.sha256(ENCLAVE_KEY_LABEL + public_key).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What the enclave says of one answered request.

    `request` is `th`, the hash of the request's frames, `response` SHA-256 over the data of every frame before the
    receipt (the head's map included), joined. `opened` is `keys.opened_digest` of the request's header and keys. `time`
    is the enclave's clock, ms since 1970. `wash` is `{"id": text, "time": ms}` of the last car wash before this
    request, None where there was none. `proof` has the ages in seconds of the worker's `binding` and of the `document`
    that it rests on. `usage` and `spans` are exact figures for the tenant alone. What is None is not sent; a reader
    skips keys that it does not know.
    """

    request: bytes
    assurance: int
    pcr0: bytes
    region: str
    instance: str
    model_digest: str
    wash: Mapping[str, str | int] | None = None
    time: int | None = None
    response: bytes | None = None
    config_digest: bytes | None = None
    opened: bytes | None = None
    proof: Mapping[str, int] | None = None
    usage: Mapping[str, int] | None = field(default=None, repr=False)
    spans: Sequence[SealedSpan] | None = field(default=None, repr=False)
    key: bytes | None = None
    sig: bytes | None = field(default=None, repr=False)
    fill: Sequence[bytes] | None = field(default=None, repr=False)
    """Zeros, so that the length of a signed receipt is a multiple of `RECEIPT_MULTIPLE`."""

    def encode(self) -> bytes:
        """Return the receipt as CBOR."""
        return cbor.encode(self._fields())

    def signed(self, key: Ed25519PrivateKey) -> Self:
        """Return this receipt with `key`'s public half and its signature."""
        named = replace(self, key=key.public_key().public_bytes_raw(), sig=bytes(SIGNATURE_BYTES), fill=None)
        named = replace(named, sig=None, fill=tuple(fill_of(named._fields(), RECEIPT_MULTIPLE)))
        return replace(named, sig=key.sign(named.encode()))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the final frame's data; `OpenError` if it is no receipt. The signature is `verify_signature`'s."""
        fields = opened_fields(data, "receipt", _REQUIRED)
        _check_required(fields)
        _check_optional(fields)
        if (wash := fields.get("wash")) is not None:
            check_wash(wash, "receipt")
        known = {name: fields[name] for name in cls.__dataclass_fields__ if name in fields}
        if known.get("spans") is not None:
            known["spans"] = tuple((name, start, took) for name, start, took in known["spans"])
        if known.get(FILL) is not None:
            known[FILL] = tuple(known[FILL])
        return cls(**known)

    def _fields(self) -> dict[str, object]:
        fields: dict[str, object] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, Mapping):
                value = dict(value)
            if isinstance(value, tuple):
                value = [list(item) if isinstance(item, tuple) else item for item in value]
            fields[name] = value
        return fields


def verify_signature(receipt: bytes) -> bytes:
    """Check the signature of a receipt as it was sent and return the 32-byte key that made it.

    Keys that this reader does not know are covered by the signature too, hence the bytes and not a `Receipt`. Raises
    `OpenError`.
    """
    fields = opened_fields(receipt, "receipt", _REQUIRED)
    key, signature = fields.get("key"), fields.pop("sig", None)
    if not isinstance(key, bytes) or len(key) != PUBLIC_KEY_BYTES:
        raise OpenError("the receipt names no key of 32 bytes, so nothing signed it")
    if not isinstance(signature, bytes) or len(signature) != SIGNATURE_BYTES:
        raise OpenError("the receipt has no signature of 64 bytes")
    if not ed25519.holds(key, signature, cbor.encode(fields)):
        raise OpenError("the receipt's signature is not its key's")
    return key


def check_wash(wash: object, what: str) -> None:
    """Raise `OpenError` unless `wash` is `{"id": text, "time": ms}`."""
    if not isinstance(wash, dict) or wash.keys() != {"id", "time"}:
        raise OpenError(f"the {what}'s wash must have exactly id and time")
    if not is_text(wash["id"], MAX_SHORT_TEXT) or not is_uint(wash["time"]):
        raise OpenError(f"the {what}'s wash needs text in id and ms since 1970 in time")


def check_usage(usage: object, what: str) -> None:
    """Raise `OpenError` unless `usage` maps some of `USAGE_KEYS` to counts."""
    if not isinstance(usage, dict) or not usage.keys() <= USAGE_KEYS or not all(map(is_uint, usage.values())):
        raise OpenError(f"the {what}'s usage must map token kinds to counts")


def check_spans(spans: object, what: str) -> None:
    """Raise `OpenError` unless `spans` is a list of `SealedSpan`s, at most `MAX_SPANS`."""
    if not isinstance(spans, list) or len(spans) > MAX_SPANS or not all(map(_is_span, spans)):
        raise OpenError(f"the {what}'s spans must be at most {MAX_SPANS} of name, start and duration")


def _is_span(span: object) -> bool:
    return (
        isinstance(span, list)
        and len(span) == _SPAN_ITEMS
        and is_text(span[0], MAX_SHORT_TEXT)
        and is_uint(span[1])
        and is_uint(span[2])
    )


def _check_required(fields: Mapping[str, Any]) -> None:
    request, pcr0, assurance = fields["request"], fields["pcr0"], fields["assurance"]
    if not isinstance(request, bytes) or len(request) != HASH_BYTES:
        raise OpenError("the receipt's request must be a hash of 32 bytes")
    if not isinstance(pcr0, bytes) or len(pcr0) > MAX_PCR_BYTES:
        raise OpenError("the receipt's pcr0 must be bytes, at most 64")
    if type(assurance) is not int or assurance not in (0, 1, 2):
        raise OpenError("the receipt's assurance must be 0, 1 or 2")
    if not all(is_name(fields[name]) for name in ("region", "instance", "model_digest")):
        raise OpenError("the receipt's region, instance and model_digest must be text that can be shown on one line")


def _check_optional(fields: Mapping[str, Any]) -> None:
    for name, length in (
        ("response", HASH_BYTES),
        ("config_digest", HASH_BYTES),
        ("opened", HASH_BYTES),
        ("key", PUBLIC_KEY_BYTES),
        ("sig", SIGNATURE_BYTES),
    ):
        if name in fields and (not isinstance(fields[name], bytes) or len(fields[name]) != length):
            raise OpenError(f"the receipt's {name} must be {length} bytes")
    if "time" in fields and not is_uint(fields["time"]):
        raise OpenError("the receipt's time must be ms since 1970")
    proof = fields.get("proof", {})
    if not isinstance(proof, dict) or not proof.keys() <= PROOF_KEYS or not all(map(is_uint, proof.values())):
        raise OpenError("the receipt's proof must map binding and document to ages in seconds")
    if "usage" in fields:
        check_usage(fields["usage"], "receipt")
    if "spans" in fields:
        check_spans(fields["spans"], "receipt")
    if FILL in fields and not is_fill(fields[FILL]):
        raise OpenError("the receipt's fill must be two strings of bytes")
