"""Attestation documents written byte by byte, so that each can differ from AWS's profile in one chosen place.

Everything is signed, chain and document, under a root made here: what a deviation is refused for is the deviation. The
plain document has the names, extensions and dates of a genuine one of 2026.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from stacks.local.pki import Authority, create_nsm_root

NOW_MS = 1_790_000_000_000
PCRS = {index: bytes([index + 1]) * 48 for index in range(3)} | {index: bytes(48) for index in range(3, 16)}

CHAIN = ("regional", "zonal", "instance", "leaf")
"""The certificates below the root, as `make_document` names them."""

ECDSA_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")
BASIC, USAGE, SKI, AKI, CRL = "551d13", "551d0f", "551d0e", "551d23", "551d1f"
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
"""Of P-384's group."""


def tlv(tag: int, *contents: bytes) -> bytes:
    """One value in DER."""
    content = b"".join(contents)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 + len(octets)]) + octets + content


def number(value: int) -> bytes:
    """An INTEGER in DER."""
    return tlv(2, value.to_bytes(value.bit_length() // 8 + 1, signed=True))


def extension(kind: str, value: bytes, critical: bytes = b"") -> bytes:
    """One extension; `critical` is the whole BOOLEAN, empty for the default of FALSE."""
    return tlv(0x30, tlv(6, bytes.fromhex(kind)), critical, tlv(4, value))


TRUE = tlv(1, b"\xff")


def name(*attributes: tuple[str, int, bytes]) -> bytes:
    """A name: (last arc or whole identifier of the attribute, tag, content), one a set."""
    return tlv(
        0x30,
        *(
            tlv(0x31, tlv(0x30, tlv(6, bytes.fromhex(kind if len(kind) > 2 else f"5504{kind}")), tlv(tag, content)))
            for kind, tag, content in attributes
        ),
    )


def common_name(text: bytes, *, tag: int = 0x0C) -> bytes:
    """A name as AWS's are: country, organization, unit, common name."""
    return name(("06", 0x13, b"US"), ("0a", 0x0C, b"Amazon"), ("0b", 0x0C, b"AWS"), ("03", tag, text))


def utc_time(moment_ms: int) -> bytes:
    """A UTCTime."""
    return tlv(0x17, datetime.fromtimestamp(moment_ms / 1000, UTC).strftime("%y%m%d%H%M%SZ").encode())


def spki(point: bytes, parameters: bytes = bytes.fromhex("06052b81040022"), unused: bytes = b"\0") -> bytes:
    """A SubjectPublicKeyInfo of an elliptic curve's key."""
    algorithm = tlv(0x30, bytes.fromhex("06072a8648ce3d0201"), parameters)
    return tlv(0x30, algorithm, tlv(3, unused, point))


@dataclass(slots=True, kw_only=True)
class Parts:
    """A certificate in pieces, each a whole DER value unless said; a deviation changes some of them."""

    version: bytes = bytes.fromhex("a003020102")
    serial: bytes
    algorithm: bytes = ECDSA_SHA384
    issuer: bytes
    not_before: bytes
    not_after: bytes
    subject: bytes
    key: bytes
    unique_ids: bytes = b""
    extensions: dict[str, bytes] = field(default_factory=dict)
    outer_algorithm: bytes = ECDSA_SHA384
    signature: Callable[[bytes], bytes] = lambda signature: tlv(3, b"\0", signature)
    finish: Callable[[bytes], bytes] = bytes
    """What is done with the signed certificate."""

    body: Callable[[bytes], bytes] = bytes
    """What is done with the body before it is signed."""

    def sign(self, key: ec.EllipticCurvePrivateKey) -> bytes:
        """Return the certificate, signed by its issuer's key."""
        wrapped = tlv(0xA3, tlv(0x30, *self.extensions.values())) if self.extensions else b""
        body = self.body(
            tlv(
                0x30,
                self.version,
                self.serial,
                self.algorithm,
                self.issuer,
                tlv(0x30, self.not_before, self.not_after),
                self.subject,
                self.key,
                self.unique_ids,
                wrapped,
            )
        )
        signature = self.signature(key.sign(body, ec.ECDSA(SHA384())))
        return self.finish(tlv(0x30, body, self.outer_algorithm, signature))


Change = Callable[[Parts], None]
Fields = dict[Any, Any]


@cache
def root() -> Authority:
    """The root that all documents of this module are under."""
    return create_nsm_root(now=datetime.fromtimestamp(NOW_MS / 1000, UTC))


@cache
def keys() -> tuple[ec.EllipticCurvePrivateKey, ...]:
    """The keys of the chain below the root."""
    return tuple(ec.generate_private_key(ec.SECP384R1()) for _ in CHAIN)


def point(position: int, form: PublicFormat = PublicFormat.UncompressedPoint) -> bytes:
    """The public key of one of the chain's certificates, as a point."""
    return keys()[position].public_key().public_bytes(Encoding.X962, form)


def key_id(position: int) -> bytes:
    """The key identifier of a certificate of the chain; -1 is the root."""
    key = root().key if position < 0 else keys()[position]
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest


def plain_parts(position: int) -> Parts:
    """A certificate of the profile."""
    kind = CHAIN[position]
    extensions = {
        BASIC: extension(BASIC, bytes.fromhex("3000" if kind == "leaf" else f"30060101ff0201{2 - position:02x}"), TRUE)
    }
    if kind != "leaf":
        extensions[AKI] = extension(AKI, tlv(0x30, tlv(0x80, key_id(position - 1))))
        extensions[SKI] = extension(SKI, tlv(4, key_id(position)))
    usage = {"leaf": "030206c0", "instance": "03020204"}.get(kind, "03020186")
    extensions[USAGE] = extension(USAGE, bytes.fromhex(usage), b"" if kind == "leaf" else TRUE)
    if kind in ("regional", "zonal"):
        address = tlv(0x86, b"http://crl.example.invalid/crl/none.crl")
        extensions[CRL] = extension(CRL, tlv(0x30, tlv(0x30, tlv(0xA0, tlv(0xA0, address)))))
    return Parts(
        serial=number(0x1234567890ABCDEF + position),
        issuer=root().certificate.subject.public_bytes() if position == 0 else subject_of(position - 1),
        not_before=utc_time(NOW_MS - 3_600_000),
        not_after=utc_time(NOW_MS + 7_200_000),
        subject=subject_of(position),
        key=spki(point(position)),
        extensions=extensions,
    )


def subject_of(position: int) -> bytes:
    """The name of one of the chain's certificates."""
    return common_name(f"{CHAIN[position]}.us-east-1.aws.nitro-enclaves".encode())


def make_chain(changes: Mapping[str, Change] | None = None) -> list[bytes]:
    """Return the four certificates below the root, each signed after its change; a changed subject is named below."""
    issuers = (root().key, *keys())
    made: list[bytes] = []
    above: bytes | None = None
    for position, kind in enumerate(CHAIN):
        parts = plain_parts(position)
        if above is not None:
            parts.issuer = above
        if changes and kind in changes:
            changes[kind](parts)
        above = parts.subject
        made.append(parts.sign(issuers[position]))
    return made


def plain_fields(chain: Iterable[bytes]) -> Fields:
    """The payload's fields in the order in which AWS writes them."""
    *authorities, leaf = chain
    return {
        "module_id": "i-0123456789abcdef0-enc0123456789abcdef",
        "digest": "SHA384",
        "timestamp": NOW_MS,
        "pcrs": dict(PCRS),
        "certificate": leaf,
        "cabundle": [root().certificate.public_bytes(Encoding.DER), *authorities],
        "public_key": None,
        "user_data": None,
        "nonce": None,
    }


def encode(fields: Mapping[Any, Any]) -> bytes:
    """A payload as AWS writes it: a map of indefinite length."""
    return b"\xbf" + b"".join(cbor2.dumps(key) + cbor2.dumps(value) for key, value in fields.items()) + b"\xff"


def sign(payload: bytes, *, protected: bytes = bytes.fromhex("a1013822")) -> bytes:
    """The COSE message over a payload, signed by the chain's leaf."""
    return seal(payload, signature_of(payload, protected), protected=protected)


def signature_of(
    payload: bytes, protected: bytes = bytes.fromhex("a1013822"), *, key: ec.EllipticCurvePrivateKey | None = None
) -> bytes:
    """The ES384 signature over a payload, by the chain's leaf or another key."""
    signed = cbor2.dumps(["Signature1", protected, b"", payload])
    r, s = decode_dss_signature((key or keys()[-1]).sign(signed, ec.ECDSA(SHA384())))
    return r.to_bytes(48) + s.to_bytes(48)


def seal(payload: bytes, signature: bytes, *, protected: bytes = bytes.fromhex("a1013822")) -> bytes:
    """The COSE message from its parts."""
    return b"\x84" + cbor2.dumps(protected) + b"\xa0" + cbor2.dumps(payload) + cbor2.dumps(signature)


def make_document(
    changes: Mapping[str, Change] | None = None, *, fields: Callable[[Fields], None] = lambda _: None
) -> bytes:
    """A whole document, changed in its certificates or its fields."""
    content = plain_fields(make_chain(changes))
    fields(content)
    return sign(encode(content))
