"""Certificates of attestation documents that deviate from AWS's profile in one place each, for tests and as seeds."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support import nitro_documents as made
from tests.support.nitro_documents import AKI, BASIC, CRL, SKI, TRUE, USAGE, Change, Parts

SHA256_ECDSA = bytes.fromhex("300a06082a8648ce3d040302")
ECDSA_WITH_NULL = bytes.fromhex("300c06082a8648ce3d0403030500")
EXPLICIT_P384 = made.tlv(
    0x30,
    made.number(1),
    made.tlv(0x30, bytes.fromhex("06072a8648ce3d0101"), made.number(2**384 - 2**128 - 2**96 + 2**32 - 1)),
    made.tlv(0x30, made.tlv(4, bytes(48)), made.tlv(4, bytes(48))),
    made.tlv(4, b"\4" + bytes(96)),
    made.number(made.ORDER),
)
"""A curve by its parameters (RFC 3279, section 2.3.5), in place of its name."""


def put(**changes: object) -> Change:
    def change(parts: Parts) -> None:
        for name, value in changes.items():
            setattr(parts, name, value)

    return change


def ext(kind: str, value: bytes, critical: bytes = b"") -> Change:
    """Set an extension: hexadecimal object identifier, value, and the whole BOOLEAN of its criticality."""

    def change(parts: Parts) -> None:
        parts.extensions[kind] = made.extension(kind, value, critical)

    return change


def without(kind: str) -> Change:
    def change(parts: Parts) -> None:
        del parts.extensions[kind]

    return change


def extra(value: bytes) -> Change:
    def change(parts: Parts) -> None:
        parts.extensions["extra"] = value

    return change


def key_form(form: PublicFormat, first: bytes | None = None) -> Change:
    """Write the leaf's key as another form of its point."""

    def change(parts: Parts) -> None:
        point = made.point(3, form)
        parts.key = made.spki(point if first is None else first + point[1:])

    return change


def hybrid(parts: Parts) -> None:
    point = made.point(3)
    parts.key = made.spki(bytes([6 + (point[-1] & 1)]) + point[1:])


def no_point(parts: Parts) -> None:
    point = bytearray(made.point(3))
    point[-1] ^= 1
    parts.key = made.spki(bytes(point))


def p256(parts: Parts) -> None:
    point = ec.generate_private_key(ec.SECP256R1()).public_key()
    parts.key = made.spki(
        point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint), bytes.fromhex("06082a8648ce3d030107")
    )


def signature_form(rewrite: Callable[[bytes], bytes]) -> Change:
    return put(signature=lambda signature: made.tlv(3, b"\0", rewrite(signature)))


def leaf_like(parts: Parts) -> None:
    parts.extensions = made.plain_parts(3).extensions


def padded_r(signature: bytes) -> bytes:
    """The same two numbers, r with a zero byte too many."""
    size = signature[3]
    r, rest = signature[4 : 4 + size], signature[4 + size :]
    return made.tlv(0x30, made.tlv(2, b"\0" + r), rest)


def long_length(value: bytes) -> bytes:
    """The same value with a length of one byte more than it takes."""
    head = value[1:2] if value[1] < 0x80 else value[2 : 2 + value[1] - 0x80]
    skip = 1 + 1 + (0 if value[1] < 0x80 else value[1] - 0x80)
    return value[:1] + bytes([0x80 + len(head) + (value[1] >= 0x80)]) + b"\0" * (value[1] >= 0x80) + head + value[skip:]


def indefinite(value: bytes) -> bytes:
    skip = 2 + (0 if value[1] < 0x80 else value[1] - 0x80)
    return value[:1] + b"\x80" + value[skip:] + b"\0\0"


NAME_CONSTRAINTS = "551d1e"
EXTENDED_USAGE = "551d25"
TLS_FEATURE = "2b06010505070118"
UNKNOWN = "2b0601040186fd1f01"
NAMED = made.tlv(0x30, made.tlv(0xA0, made.tlv(0x30, made.tlv(0x82, b"example.com"))))
LEAF_NAME = (("06", 0x13, b"US"), ("03", 0x0C, b"leaf"))

# id: (which certificate, what is changed, what the refusal must say)
DEVIATIONS: dict[str, tuple[str, Change, str]] = {
    # Version, serial number, algorithms.
    "version 1 with extensions": ("leaf", put(version=b""), "version 3"),
    "version 1 written out": ("leaf", put(version=bytes.fromhex("a003020100")), "version 3"),
    "version 2": ("zonal", put(version=bytes.fromhex("a003020101")), "version 3"),
    "version 3 in two bytes": ("zonal", put(version=bytes.fromhex("a00402020002")), "version 3"),
    "serial of 21 bytes": ("leaf", put(serial=made.tlv(2, b"\x7f" + bytes(20))), "more than 20 bytes"),
    "serial of 21 bytes after the sign": ("regional", put(serial=made.tlv(2, b"\0\x80" + bytes(20))), "more than 20"),
    "serial of zero": ("leaf", put(serial=made.number(0)), "not positive"),
    "serial below zero": ("instance", put(serial=made.number(-5)), "not positive"),
    "serial with a zero byte too many": ("leaf", put(serial=made.tlv(2, b"\0\x05")), "shortest"),
    "serial of no bytes": ("leaf", put(serial=made.tlv(2)), "not positive"),
    "another algorithm inside": ("leaf", put(algorithm=SHA256_ECDSA), "in its signed part"),
    "another algorithm outside": ("leaf", put(outer_algorithm=SHA256_ECDSA), "ecdsa-with-SHA384"),
    "SHA-256 in both places": ("leaf", put(algorithm=SHA256_ECDSA, outer_algorithm=SHA256_ECDSA), "ecdsa-with-SHA384"),
    "algorithm with parameters": ("zonal", put(algorithm=ECDSA_WITH_NULL, outer_algorithm=ECDSA_WITH_NULL), "SHA384"),
    # Keys and signatures.
    "hybrid point": ("leaf", hybrid, "uncompressed"),
    "compressed point": ("leaf", key_form(PublicFormat.CompressedPoint), "uncompressed"),
    "point that is not on the curve": ("leaf", no_point, "no point of P-384"),
    "explicit curve parameters": (
        "leaf",
        lambda parts: setattr(parts, "key", made.spki(made.point(3), EXPLICIT_P384)),
        "named curve",
    ),
    "key without parameters": ("leaf", lambda parts: setattr(parts, "key", made.spki(made.point(3), b"")), "P-384"),
    "key of P-256": ("leaf", p256, "P-384"),
    "key with unused bits": (
        "leaf",
        lambda parts: setattr(parts, "key", made.spki(made.point(3), unused=b"\1")),
        "P-384",
    ),
    "signature with a padded r": ("leaf", signature_form(padded_r), "shortest"),
    "signature with a third number": ("leaf", signature_form(lambda s: made.tlv(0x30, s[2:], made.number(1))), "many"),
    "signature with bytes after it": ("leaf", signature_form(lambda s: s + b"\0"), "many"),
    "signature with a long length": ("leaf", signature_form(long_length), "shortest"),
    "signature of zeros": (
        "leaf",
        signature_form(lambda _: made.tlv(0x30, made.number(0), made.number(0))),
        "not positive",
    ),
    "signature with a number below zero": (
        "leaf",
        signature_form(lambda _: made.tlv(0x30, made.number(-1), made.number(1))),
        "not positive",
    ),
    "signature with a number too large": (
        "leaf",
        signature_form(lambda _: made.tlv(0x30, made.number(2**384), made.number(1))),
        "too large",
    ),
    "signature with unused bits": ("leaf", put(signature=lambda s: made.tlv(3, b"\1", s)), "number of bytes"),
    "signature of another": (
        "leaf",
        signature_form(lambda _: made.tlv(0x30, made.number(5), made.number(7))),
        "not signed by the certificate above",
    ),
    # DER.
    "certificate with a long length": ("leaf", put(finish=long_length), "too long"),
    "certificate of indefinite length": ("leaf", put(finish=indefinite), "indefinite"),
    "bytes after the certificate": ("leaf", put(finish=lambda c: c + b"\0"), "too many"),
    "certificate cut short": ("leaf", put(finish=lambda c: c[:-1]), "ends in the middle"),
    "body with a long length": ("zonal", put(body=long_length), "too long"),
    "body of indefinite length": ("zonal", put(body=indefinite), "indefinite"),
    "serial with a long length": ("leaf", put(serial=bytes.fromhex("02810105")), "shortest"),
    "unique identifier": ("leaf", put(unique_ids=made.tlv(0x81, b"\0\1")), "extensions"),
    "no extensions": ("leaf", lambda parts: parts.extensions.clear(), "extensions"),
    # Names.
    "text that is no UTF-8": ("leaf", put(subject=made.common_name(b"\xff\xfe")), "not UTF-8"),
    "text of overlong UTF-8": ("leaf", put(subject=made.common_name(b"\xc0\xaf")), "not UTF-8"),
    "text of a surrogate": ("leaf", put(subject=made.common_name(b"\xed\xa0\x80")), "not UTF-8"),
    "common name as PrintableString": ("leaf", put(subject=made.common_name(b"leaf", tag=0x13)), "UTF-8"),
    "common name as TeletexString": ("leaf", put(subject=made.common_name(b"leaf", tag=0x14)), "UTF-8"),
    "common name as BMPString": ("leaf", put(subject=made.common_name(b"\0l\0e", tag=0x1E)), "UTF-8"),
    "common name of 65 characters": ("leaf", put(subject=made.common_name(b"n" * 65)), "64"),
    "common name with a line's end": ("leaf", put(subject=made.common_name(b"a\nb")), "printable"),
    "empty common name": ("leaf", put(subject=made.common_name(b"")), "1 to 64"),
    "empty subject": ("leaf", put(subject=made.name()), "no common name"),
    "two common names": ("leaf", put(subject=made.name(*LEAF_NAME, ("03", 0x0C, b"other"))), "attribute too many"),
    "attribute of another kind": ("leaf", put(subject=made.name(*LEAF_NAME, ("05", 0x13, b"7"))), "AWS's do not have"),
    "country in small letters": (
        "leaf",
        put(subject=made.name(("06", 0x13, b"us"), ("03", 0x0C, b"leaf"))),
        "two capital letters",
    ),
    "country of seven letters": (
        "leaf",
        put(subject=made.name(("06", 0x13, b"GERMANY"), ("03", 0x0C, b"leaf"))),
        "two capital letters",
    ),
    "two attributes in one set": (
        "leaf",
        put(
            subject=made.tlv(
                0x30,
                made.tlv(0x31, *(made.name(one)[4:] for one in LEAF_NAME)),
            )
        ),
        "set of its subject",
    ),
    "issuer written another way": (
        "zonal",
        put(issuer=made.name(("03", 0x0C, b"regional.us-east-1.aws.nitro-enclaves"))),
        "another issuer",
    ),
    # Times.
    "GeneralizedTime": ("leaf", put(not_after=made.tlv(0x18, b"20300101000000Z")), "UTCTime"),
    "year 9999": ("leaf", put(not_after=made.tlv(0x18, b"99991231235959Z")), "UTCTime"),
    "time without seconds": ("leaf", put(not_after=made.tlv(0x17, b"3001010000Z")), "YYMMDDHHMMSSZ"),
    "time with an offset": ("leaf", put(not_after=made.tlv(0x17, b"300101000000+0000")), "YYMMDDHHMMSSZ"),
    "time with a sign": ("leaf", put(not_after=made.tlv(0x17, b"30010100+000Z")), "YYMMDDHHMMSSZ"),
    "time in other digits": ("leaf", put(not_after=made.tlv(0x17, "3001010000²0".encode() + b"Z")), "YYMMDDHHMMSSZ"),
    "a thirteenth month": ("leaf", put(not_after=made.tlv(0x17, b"301301000000Z")), "calendar"),
    "a leap second": ("leaf", put(not_after=made.tlv(0x17, b"300101000060Z")), "calendar"),
    "a third time": ("leaf", put(not_after=made.utc_time(made.NOW_MS) * 2), "many in its validity"),
    # Extensions.
    "keyCertSign on a leaf": ("leaf", ext(USAGE, bytes.fromhex("03020284")), "key usage"),
    "no digitalSignature on a leaf": ("leaf", ext(USAGE, bytes.fromhex("03020640")), "key usage"),
    "key usage that is not DER": ("leaf", ext(USAGE, bytes.fromhex("030200c0")), "key usage"),
    "key usage with an empty byte": ("leaf", ext(USAGE, bytes.fromhex("030306c000")), "key usage"),
    "key usage with a bit in the unused": ("leaf", ext(USAGE, bytes.fromhex("030206c1")), "key usage"),
    "critical key usage on a leaf": ("leaf", ext(USAGE, bytes.fromhex("030206c0"), TRUE), "marked critical"),
    "key usage of a CA not critical": ("zonal", ext(USAGE, bytes.fromhex("03020186")), "not marked critical"),
    "no key usage": ("leaf", without(USAGE), "exactly the extensions"),
    "basicConstraints not critical": ("zonal", ext(BASIC, bytes.fromhex("30060101ff020101")), "not marked critical"),
    "basicConstraints of a leaf not critical": ("leaf", ext(BASIC, bytes.fromhex("3000")), "not marked critical"),
    "basicConstraints missing on a leaf": ("leaf", without(BASIC), "basicConstraints"),
    "basicConstraints of a leaf written out": ("leaf", ext(BASIC, bytes.fromhex("3003010100"), TRUE), "basicConstr"),
    "cA true as another byte": ("zonal", ext(BASIC, bytes.fromhex("3006010101020101"), TRUE), "basicConstraints"),
    "no path length": ("zonal", ext(BASIC, bytes.fromhex("30030101ff"), TRUE), "basicConstraints"),
    "a longer path length": ("instance", ext(BASIC, bytes.fromhex("30060101ff020101"), TRUE), "exactly the ext"),
    "a path length below zero": ("instance", ext(BASIC, bytes.fromhex("30060101ff0201ff"), TRUE), "basicConstraints"),
    "path length in two bytes": ("zonal", ext(BASIC, bytes.fromhex("30070101ff02020001"), TRUE), "basicConstraints"),
    "a CA that signs": (
        "leaf",
        lambda parts: parts.extensions.update(
            {
                BASIC: made.extension(BASIC, bytes.fromhex("30060101ff020100"), TRUE),
                USAGE: made.extension(USAGE, bytes.fromhex("03020204"), TRUE),
            }
        ),
        "belongs to a CA",
    ),
    "a leaf that issues": (
        "instance",
        leaf_like,
        "is no CA",
    ),
    "criticality as another byte": (
        "zonal",
        ext(BASIC, bytes.fromhex("30060101ff020101"), made.tlv(1, b"\1")),
        "not DER",
    ),
    "criticality written out": ("leaf", ext(USAGE, bytes.fromhex("030206c0"), made.tlv(1, b"\0")), "not DER"),
    "the same extension twice": ("leaf", extra(made.extension(USAGE, bytes.fromhex("030206c0"))), "twice"),
    "critical nameConstraints": ("zonal", ext(NAME_CONSTRAINTS, NAMED, TRUE), "AWS's do not have"),
    "nameConstraints not critical": ("zonal", ext(NAME_CONSTRAINTS, NAMED), "AWS's do not have"),
    "extended key usage": (
        "leaf",
        ext(EXTENDED_USAGE, made.tlv(0x30, bytes.fromhex("06082b06010505070301"))),
        "AWS's do not have",
    ),
    "unknown extension": ("leaf", ext(UNKNOWN, b"\5\0"), "AWS's do not have"),
    "critical unknown extension": ("leaf", ext(UNKNOWN, b"\5\0", TRUE), "AWS's do not have"),
    "unknown TLS feature": ("leaf", ext(TLS_FEATURE, made.tlv(0x30, made.number(99))), "AWS's do not have"),
    "subject's key identifier missing": ("zonal", without(SKI), "exactly the extensions"),
    "one key identifier alone": ("instance", without(AKI), "exactly the extensions"),
    "key identifiers on a leaf": ("leaf", ext(SKI, made.tlv(4, bytes(20))), "exactly the extensions"),
    "key identifier of 19 bytes": ("zonal", ext(SKI, made.tlv(4, bytes(19))), "not 20 bytes"),
    "key identifier of another CA": ("zonal", ext(AKI, made.tlv(0x30, made.tlv(0x80, bytes(20)))), "another key"),
    "key identifier of another root": ("regional", ext(AKI, made.tlv(0x30, made.tlv(0x80, bytes(20)))), "root"),
    "authority by its serial": (
        "zonal",
        ext(AKI, made.tlv(0x30, made.tlv(0x80, made.key_id(0)), made.tlv(0x82, b"\1"))),
        "many",
    ),
    "no revocation points": ("regional", without(CRL), "exactly the extensions"),
    "two revocation points": (
        "regional",
        ext(CRL, made.tlv(0x30, made.tlv(0x30, made.tlv(0xA0)), made.tlv(0x30))),
        "many",
    ),
    "revocation point that is no address": (
        "regional",
        ext(CRL, made.tlv(0x30, made.tlv(0x30, made.tlv(0xA0, made.tlv(0xA0, made.tlv(0x86, b"\xff")))))),
        "no address",
    ),
    "revocation points on the instance's CA": (
        "instance",
        lambda parts: parts.extensions.update({CRL: made.plain_parts(0).extensions[CRL]}),
        "exactly the extensions",
    ),
    "bytes after an extension": (
        "leaf",
        extra(made.tlv(0x30, bytes.fromhex("0603551d0e"), made.tlv(4, b"\5\0"), made.tlv(5))),
        "many",
    ),
}
