"""One certificate of an attestation document, held to the profile that AWS's have.

Closed: what genuine certificates have is what may be, byte for byte where it never varies (docs/attestation.md has the
table). The bytes are read here and by no X.509 library, so nothing is repaired, warned of, or skipped.
Sources: RFC 5280; X.690; the certificates of genuine documents from 2021 to 2026.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from dataplane.protocol.attestation import der
from dataplane.protocol.attestation.der import DerError, DerReader

MAX_SERIAL_BYTES = 20
"""RFC 5280, section 4.1.2.2. Of the value: DER adds a zero byte where the first bit is set, so 21 are seen."""

MAX_NAME_CHARS = 64
"""ub-common-name of RFC 5280; genuine common names have up to 53."""

MAX_ATTRIBUTES = 8
"""Attributes of a name; genuine names have 4 or 6."""

VERSION_3 = bytes.fromhex("a003020102")
ECDSA_WITH_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")
P384_POINT = bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004")
"""SubjectPublicKeyInfo up to the point: id-ecPublicKey, named curve secp384r1, no unused bits, uncompressed (4)."""

POINT_BYTES = 96

BASIC_CONSTRAINTS = bytes.fromhex("551d13")
KEY_USAGE = bytes.fromhex("551d0f")
SUBJECT_KEY_ID = bytes.fromhex("551d0e")
AUTHORITY_KEY_ID = bytes.fromhex("551d23")
CRL_POINTS = bytes.fromhex("551d1f")
KEY_ID_BYTES = 20

LEAF_CONSTRAINTS = bytes.fromhex("3000")
CA_CONSTRAINTS = bytes.fromhex("30060101ff0201")
"""An empty sequence, and `cA` true with a path length of one byte, which follows."""

LEAF_USAGE = bytes.fromhex("030206c0")
LAST_CA_USAGE = bytes.fromhex("03020204")
CA_USAGE = bytes.fromhex("03020186")
"""digitalSignature and nonRepudiation; keyCertSign; digitalSignature, keyCertSign and cRLSign."""

_COUNTRY = bytes.fromhex("550406")
_NAMES = {bytes.fromhex(f"5504{last:02x}") for last in (0x03, 0x07, 0x08, 0x0A, 0x0B)}
"""Common name, locality, state, organization, unit."""

_COMMON_NAME = bytes.fromhex("550403")
_EXTENSIONS = 0xA3
_KEY_IDS = frozenset({SUBJECT_KEY_ID, AUTHORITY_KEY_ID})
_NEEDED = frozenset({BASIC_CONSTRAINTS, KEY_USAGE})
_LABELS = {
    BASIC_CONSTRAINTS: "basicConstraints",
    KEY_USAGE: "keyUsage",
    SUBJECT_KEY_ID: "subjectKeyIdentifier",
    AUTHORITY_KEY_ID: "authorityKeyIdentifier",
    CRL_POINTS: "cRLDistributionPoints",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NitroCertificate:
    """What a path is judged by. Names in DER, times in ms since 1970, `point` the key's x and y (48 bytes each).

    `path_length` is the CAs allowed below this one, None for the certificate that signs documents. `signature` is the
    issuer's, in DER, over `signed`; nothing of it has been checked but its form.
    """

    signed: bytes
    signature: bytes
    issuer: bytes
    subject: bytes
    common_name: str
    not_before_ms: int
    not_after_ms: int
    point: bytes
    path_length: int | None
    subject_key_id: bytes | None
    authority_key_id: bytes | None


def read_certificate(data: bytes) -> NitroCertificate:
    """Read a certificate of the profile; raises `DerError`, whose text is a clause that says what is not of it."""
    outer = DerReader(der.only(data, der.SEQUENCE, "certificate"))
    signed, content = outer.whole(der.SEQUENCE, "body")
    _exactly(outer, der.SEQUENCE, ECDSA_WITH_SHA384, "is not signed with ecdsa-with-SHA384")
    signature = _bits(outer.take(der.BIT_STRING, "signature"))
    outer.end("the certificate")
    _check_signature_form(signature)

    body = DerReader(content)
    _exactly(body, VERSION_3[0], VERSION_3, "is not of version 3")
    serial = der.integer(body.take(der.INTEGER, "serial number"), "a serial number")
    if serial >> (8 * MAX_SERIAL_BYTES):
        raise DerError(f"has a serial number of more than {MAX_SERIAL_BYTES} bytes")
    _exactly(body, der.SEQUENCE, ECDSA_WITH_SHA384, "does not say ecdsa-with-SHA384 in its signed part")
    issuer, _ = _name(body, "issuer")
    validity = body.inner(der.SEQUENCE, "validity")
    not_before_ms, not_after_ms = _time(validity), _time(validity)
    validity.end("its validity")
    subject, common_name = _name(body, "subject")
    key, _ = body.whole(der.SEQUENCE, "public key")
    if not key.startswith(P384_POINT) or len(key) != len(P384_POINT) + POINT_BYTES:
        raise DerError("has a key that is not an uncompressed point of the named curve P-384")
    extensions = _extensions(body)
    body.end("its body")
    path_length = _judge(extensions)
    return NitroCertificate(
        signed=signed,
        signature=signature,
        issuer=issuer,
        subject=subject,
        common_name=common_name,
        not_before_ms=not_before_ms,
        not_after_ms=not_after_ms,
        point=key[len(P384_POINT) :],
        path_length=path_length,
        subject_key_id=_subject_key_id(extensions),
        authority_key_id=_authority_key_id(extensions),
    )


def _exactly(reader: DerReader, tag: int, expected: bytes, otherwise: str) -> None:
    """Take a value that never varies."""
    if not reader.starts(tag) or reader.whole(tag, "value")[0] != expected:
        raise DerError(otherwise)


def _bits(content: bytes) -> bytes:
    """Return a BIT STRING's bytes; no bit may be unused."""
    if content[:1] != b"\0":
        raise DerError("has a signature of a broken number of bytes")
    return content[1:]


def _check_signature_form(signature: bytes) -> None:
    """Return if it is a sequence of two positive integers of P-384's size."""
    pair = DerReader(der.only(signature, der.SEQUENCE, "signature's sequence"))
    for name in ("r", "s"):
        if der.integer(pair.take(der.INTEGER, f"signature's {name}"), f"a signature's {name}") >> (
            8 * POINT_BYTES // 2
        ):
            raise DerError(f"has a signature whose {name} is too large")
    pair.end("its signature")


def _name(body: DerReader, what: str) -> tuple[bytes, str]:
    """Return a name in DER and its common name: one attribute a set, countries printable, all else UTF-8."""
    whole, content = body.whole(der.SEQUENCE, what)
    sets = DerReader(content)
    found: dict[bytes, str] = {}
    while sets.more:
        attributes = sets.inner(der.SET, f"set in its {what}")
        attribute = attributes.inner(der.SEQUENCE, f"attribute in its {what}")
        attributes.end(f"a set of its {what}")
        kind = attribute.take(der.OBJECT_IDENTIFIER, f"attribute type in its {what}")
        if kind in found or len(found) == MAX_ATTRIBUTES:
            raise DerError(f"has an attribute too many in its {what}")
        if kind == _COUNTRY:
            country = attribute.take(der.PRINTABLE_STRING, f"printable country in its {what}")
            if len(country) != 2 or not country.isalpha() or not country.isupper():  # noqa: PLR2004 - ISO 3166
                raise DerError(f"has a country in its {what} that is not two capital letters")
            found[kind] = country.decode("ascii")
        elif kind in _NAMES:
            found[kind] = _text(attribute.take(der.UTF8_STRING, f"UTF-8 text in its {what}"), what)
        else:
            raise DerError(f"has an attribute in its {what} that AWS's do not have")
        attribute.end(f"an attribute of its {what}")
    if _COMMON_NAME not in found:
        raise DerError(f"has no common name in its {what}")
    return whole, found[_COMMON_NAME]


def _text(content: bytes, what: str) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise DerError(f"has a text in its {what} that is not UTF-8") from None
    if not 0 < len(text) <= MAX_NAME_CHARS or not text.isprintable():
        raise DerError(f"has a text in its {what} that is not 1 to {MAX_NAME_CHARS} printable characters")
    return text


def _time(validity: DerReader) -> int:
    """Return a UTCTime (RFC 5280, section 4.1.2.5.1: to the second, Z, years 1950 to 2049) in ms since 1970."""
    text = validity.take(der.UTC_TIME, "time as UTCTime").decode("latin-1")
    digits = text[:-1]
    if len(text) != len("YYMMDDHHMMSSZ") or text[-1] != "Z" or not (digits.isascii() and digits.isdigit()):
        raise DerError("has a time that is not YYMMDDHHMMSSZ")
    year = int(digits[:2])
    parts = [int(digits[at : at + 2]) for at in range(2, 12, 2)]
    try:
        moment = datetime(year + (1900 if year >= 50 else 2000), *parts, tzinfo=UTC)  # type: ignore[misc,arg-type]  # noqa: PLR2004 - RFC 5280's century; five numbers follow the year
    except ValueError:
        raise DerError("has a time that is in no calendar") from None
    return int(moment.timestamp()) * 1000


def _extensions(body: DerReader) -> dict[bytes, tuple[bool, bytes]]:
    """Return the extensions: object identifier to whether it is critical, and its value in DER."""
    entries = DerReader(der.only(body.take(_EXTENSIONS, "extensions"), der.SEQUENCE, "its extensions"))
    found: dict[bytes, tuple[bool, bytes]] = {}
    while entries.more:
        entry = entries.inner(der.SEQUENCE, "extension")
        kind = entry.take(der.OBJECT_IDENTIFIER, "extension's type")
        critical = entry.starts(der.BOOLEAN)
        if critical and entry.take(der.BOOLEAN, "criticality") != der.TRUE:
            raise DerError("has an extension whose criticality is not DER")
        if kind not in _LABELS:
            raise DerError("has an extension that AWS's do not have")
        if kind in found:
            raise DerError(f"has {_LABELS[kind]} twice")
        found[kind] = critical, entry.take(der.OCTET_STRING, "extension's value")
        entry.end("an extension")
    return found


def _judge(extensions: dict[bytes, tuple[bool, bytes]]) -> int | None:
    """Return the path length of a CA, None for a leaf, where the extensions are those that such a one has."""
    constraints = extensions.get(BASIC_CONSTRAINTS, (True, b""))[1]
    if constraints == LEAF_CONSTRAINTS:
        path_length, usage, critical, allowed = None, LEAF_USAGE, {BASIC_CONSTRAINTS}, [_NEEDED]
    elif constraints[:-1] == CA_CONSTRAINTS and constraints[-1] < 0x80:  # noqa: PLR2004 - the sign bit
        path_length, critical = constraints[-1], {BASIC_CONSTRAINTS, KEY_USAGE}
        # The instance's CA has its key identifiers since 2024.
        usage = CA_USAGE if path_length else LAST_CA_USAGE
        allowed = [_NEEDED | _KEY_IDS | {CRL_POINTS}] if path_length else [_NEEDED, _NEEDED | _KEY_IDS]
    else:
        raise DerError("has no basicConstraints as AWS's have them")
    if extensions.keys() not in allowed:
        raise DerError("does not have exactly the extensions that AWS's have")
    for kind, (is_critical, _) in extensions.items():
        if is_critical != (kind in critical):
            raise DerError(f"has {_LABELS[kind]} {'' if is_critical else 'not '}marked critical")
    if extensions[KEY_USAGE][1] != usage:
        raise DerError("has another key usage than AWS's have")
    if CRL_POINTS in extensions:
        _check_crl_points(extensions[CRL_POINTS][1])
    return path_length


def _check_crl_points(value: bytes) -> None:
    """Return if there is one point with one address; nobody fetches it (AWS says not to)."""
    what = "cRLDistributionPoints"
    inside = value
    for tag in (der.SEQUENCE, der.SEQUENCE, 0xA0, 0xA0, 0x86):
        inside = der.only(inside, tag, what)
    if not inside.isascii() or not inside.decode("ascii").isprintable() or not inside.startswith(b"http"):
        raise DerError(f"has {what} that hold no address")


def _subject_key_id(extensions: dict[bytes, tuple[bool, bytes]]) -> bytes | None:
    if SUBJECT_KEY_ID not in extensions:
        return None
    return _key_id(der.only(extensions[SUBJECT_KEY_ID][1], der.OCTET_STRING, "subjectKeyIdentifier"))


def _authority_key_id(extensions: dict[bytes, tuple[bool, bytes]]) -> bytes | None:
    """Return the key identifier, which must be all that the extension has."""
    if AUTHORITY_KEY_ID not in extensions:
        return None
    fields = der.only(extensions[AUTHORITY_KEY_ID][1], der.SEQUENCE, "authorityKeyIdentifier")
    return _key_id(der.only(fields, 0x80, "authorityKeyIdentifier"))


def _key_id(value: bytes) -> bytes:
    if len(value) != KEY_ID_BYTES:
        raise DerError(f"has a key identifier that is not {KEY_ID_BYTES} bytes")
    return value
