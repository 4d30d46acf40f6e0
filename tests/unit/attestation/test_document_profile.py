"""Each deviation from the form of AWS's documents is refused, though the leaf's key signed it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cbor2
import pytest

from dataplane.protocol.attestation.document import MAX_TIMESTAMP_MS
from dataplane.protocol.attestation.verify import AttestationPolicy, verify, verify_kept
from dataplane.protocol.errors import AttestationError
from tests.support import nitro_documents as made

POLICY = AttestationPolicy(allowed_pcrs=[{0: made.PCRS[0]}])
NAN = bytes.fromhex("f97e00")


def judge(document: bytes, *, now_ms: int = made.NOW_MS) -> AttestationError | None:
    try:
        verify(document, now_ms=now_ms, policy=POLICY, roots=[made.root().certificate])
    except AttestationError as error:
        return error
    return None


def plain() -> made.Fields:
    return made.plain_fields(made.make_chain())


def more(*pairs: bytes) -> bytes:
    """The plain payload with these encoded keys and values at its end, signed."""
    return made.sign(made.encode(plain())[:-1] + b"".join(pairs) + b"\xff")


def raw(name: str, value: bytes) -> bytes:
    """The plain payload with one field's value encoded by the test, signed."""
    parts = [cbor2.dumps(key) + (value if key == name else cbor2.dumps(field)) for key, field in plain().items()]
    return made.sign(b"\xbf" + b"".join(parts) + b"\xff")


def changed(**fields: Any) -> bytes:
    return made.sign(made.encode(plain() | fields))


def text(value: str) -> bytes:
    return bytes(cbor2.dumps(value))


def heads(value: bytes) -> bytes:
    """A byte string whose length takes four bytes."""
    return b"\x5a" + len(value).to_bytes(4) + value


DEVIATIONS: dict[str, tuple[Callable[[], bytes], str]] = {
    # Keys.
    "a key that is a number": (lambda: more(b"\x01", b"\x00"), "field"),
    "a key that is bytes": (lambda: more(b"\x41x", b"\x00"), "field"),
    "a key that is null": (lambda: more(b"\xf6", b"\x00"), "field"),
    "a key that is an array": (lambda: more(b"\x80", b"\x00"), "field"),
    "a key that is NaN": (lambda: more(NAN, b"\x00"), "field"),
    "two NaN keys": (lambda: more(NAN, b"\x00", NAN, b"\x00"), "field"),
    "an unknown field": (lambda: more(text("a field of tomorrow"), b"\x01"), "field"),
    "an unknown field of null": (lambda: more(text("x"), b"\xf6"), "field"),
    "a field twice": (lambda: more(text("nonce"), b"\xf6"), "field"),
    "a field twice, once with a long head": (lambda: more(b"\x78\x05nonce", b"\xf6"), "field"),
    "a key without a value": (lambda: more(text("x")), "field"),
    "a register twice": (lambda: raw("pcrs", b"\xa2" + (b"\x00" + b"\x58\x30" + made.PCRS[0]) * 2), "field"),
    "a register's index as a float": (lambda: raw("pcrs", b"\xa1\xf9\x00\x00\x58\x30" + made.PCRS[0]), "field"),
    "a register's index as false": (lambda: raw("pcrs", b"\xa1\xf4\x58\x30" + made.PCRS[0]), "field"),
    "a register's index below zero": (lambda: raw("pcrs", b"\xa1\x20\x58\x30" + made.PCRS[0]), "field"),
    "a register's index with a long head": (lambda: raw("pcrs", b"\xa1\x18\x00\x58\x30" + made.PCRS[0]), "field"),
    # Values.
    "text that is no UTF-8": (lambda: raw("module_id", b"\x62\xff\xfe"), "field"),
    "text of a surrogate": (lambda: raw("digest", b"\x63\xed\xa0\x80"), "field"),
    "text in chunks": (lambda: raw("digest", b"\x7f\x66SHA384\xff"), "field"),
    "bytes in chunks": (lambda: raw("nonce", b"\x5f\x41n\xff"), "field"),
    "an array of indefinite length": (
        lambda: raw("cabundle", b"\x9f" + b"".join(map(cbor2.dumps, plain()["cabundle"])) + b"\xff"),
        "field",
    ),
    "a length that is not in its shortest form": (lambda: raw("nonce", heads(b"n" * 32)), "field"),
    "a time that is not in its shortest form": (lambda: raw("timestamp", b"\x1b" + (5).to_bytes(8)), "field"),
    "a time as a float": (lambda: changed(timestamp=float(made.NOW_MS)), "field"),
    "a time as a big number": (lambda: raw("timestamp", b"\xc2\x46" + made.NOW_MS.to_bytes(6)), "field"),
    "a time below zero": (lambda: changed(timestamp=-1), "field"),
    "undefined in place of null": (lambda: raw("nonce", b"\xf7"), "field"),
    "false in place of null": (lambda: raw("nonce", b"\xf4"), "field"),
    "a tagged nonce": (lambda: changed(nonce=cbor2.CBORTag(24, b"n")), "field"),
    "a simple value": (lambda: raw("nonce", b"\xe0"), "field"),
    "containers in containers": (lambda: changed(cabundle=[[b"x"]]), "field"),
    "a module that is no instance's": (lambda: changed(module_id="i-0-enc0"), "field"),
    "a module with a line's end": (lambda: changed(module_id="i-0123456789abcdef0-enc0123456789abcdef\n"), "field"),
    "a module of other letters": (lambda: changed(module_id="i-0123456789ABCDEF0-enc0123456789abcdef"), "field"),
    "the last minute of the year 9999": (lambda: changed(timestamp=MAX_TIMESTAMP_MS), "chain"),
    "the year 10000": (lambda: changed(timestamp=MAX_TIMESTAMP_MS + 1), "field"),
    "the last time of 64 bits": (lambda: changed(timestamp=2**64 - 1), "field"),
    # The message around it.
    "algorithm as a float": (lambda: made.sign(made.encode(plain()), protected=bytes.fromhex("a101f9d060")), "cose"),
    "algorithm with a long head": (
        lambda: made.sign(made.encode(plain()), protected=bytes.fromhex("a101390022")),
        "cose",
    ),
    "protected header of indefinite length": (
        lambda: made.sign(made.encode(plain()), protected=bytes.fromhex("bf013822ff")),
        "cose",
    ),
    "a second protected parameter": (
        lambda: made.sign(made.encode(plain()), protected=bytes.fromhex("a2013822028104")),
        "cose",
    ),
    "an array of indefinite length around it": (lambda: b"\x9f" + made.make_document()[1:] + b"\xff", "cose"),
    "a tag of another kind": (lambda: b"\xd1" + made.make_document(), "cose"),
    "the tag twice": (lambda: b"\xd2\xd2" + made.make_document(), "cose"),
    "the tag with a long head": (lambda: b"\xd8\x12" + made.make_document(), "cose"),
    "bytes after it": (lambda: made.make_document() + b"\xf6", "cose"),
    "a payload with bytes after it": (lambda: made.sign(made.encode(plain()) + b"\xf6"), "field"),
    "an empty payload": (lambda: made.sign(b""), "field"),
}


@pytest.mark.parametrize(("make", "reason"), DEVIATIONS.values(), ids=DEVIATIONS.keys())
def test_a_document_that_deviates_is_refused(make: Callable[[], bytes], reason: str) -> None:
    document = make()
    error = judge(document)
    assert error is not None, "signed under the pinned root, and not as AWS's are"
    assert error.reason == reason, error
    with pytest.raises(AttestationError) as caught:
        verify_kept(document, policy=POLICY, roots=[made.root().certificate])
    assert caught.value.reason == reason, "a kept one is held to the same form"


def test_a_document_of_either_map_is_accepted() -> None:
    for payload in (made.encode(plain()), cbor2.dumps(plain())):
        assert judge(made.sign(payload)) is None, "indefinite since 2025, definite until then"
        assert judge(b"\xd2" + made.sign(payload)) is None, "tagged, as the specification has it"


def test_a_time_at_the_end_of_year_9999_is_a_refusal_at_any_clock() -> None:
    for at in (MAX_TIMESTAMP_MS, MAX_TIMESTAMP_MS - 59_999, MAX_TIMESTAMP_MS - 60_000):
        for now_ms in (0, made.NOW_MS, at, 2**63):
            error = judge(changed(timestamp=at), now_ms=now_ms)
            assert error is not None, "no certificate is valid then"
            assert error.reason == "chain", "and no date is computed that there is not"
