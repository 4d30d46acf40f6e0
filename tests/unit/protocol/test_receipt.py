"""Receipts: their form, the keys that a reader skips, and the signature."""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol import cbor
from dataplane.protocol.errors import OpenError
from dataplane.protocol.receipt import RECEIPT_MULTIPLE, Receipt, enclave_user_data, verify_signature

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
REQUIRED: dict[str, Any] = {
    "request": bytes(32),
    "assurance": 1,
    "pcr0": bytes(48),
    "region": "us-east-1",
    "instance": "i-0123456789abcdef0",
    "model_digest": "00" * 32,
}
OPTIONAL: dict[str, Any] = {
    "wash": {"id": "wash-1", "time": 1_767_225_600_000},
    "time": 1_767_225_600_001,
    "response": b"r" * 32,
    "config_digest": b"c" * 32,
    "proof": {"binding": 12, "document": 14},
    "usage": {"prompt_tokens": 3, "completion_tokens": 4},
    "spans": (("worker.generate", 0, 1_500),),
}
ALL = REQUIRED | OPTIONAL


def test_a_receipt_is_the_map_of_its_fields_and_reads_back_as_itself() -> None:
    receipt = Receipt(**ALL)
    assert receipt.encode() == cbor.encode(ALL), "nothing else is sent"
    assert Receipt.decode(receipt.encode()) == receipt, "and it reads back as itself"


@pytest.mark.parametrize("name", OPTIONAL)
def test_what_a_receipt_does_not_say_is_absent(name: str) -> None:
    fields = {key: value for key, value in ALL.items() if key != name}
    receipt = Receipt(**fields)
    assert name not in cbor.decode_map(receipt.encode(), max_bytes=4096), "None is not sent"
    assert getattr(Receipt.decode(receipt.encode()), name) is None, "and absent reads as None"


@pytest.mark.parametrize("name", REQUIRED)
def test_a_receipt_without_a_required_key_is_refused(name: str) -> None:
    with pytest.raises(OpenError, match=name):
        Receipt.decode(cbor.encode({key: value for key, value in ALL.items() if key != name}))


def test_a_key_that_this_reader_does_not_know_is_skipped() -> None:
    assert Receipt.decode(cbor.encode(ALL | {"later": [1, 2]})) == Receipt(**ALL), "further keys may follow"


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("value", [True, -1.5, {"a": 1}, {"id": 1, "time": "now"}, -1, "x" * 300, [["name", 1]]])
def test_no_field_takes_a_value_of_another_type(name: str, value: object) -> None:
    with pytest.raises(OpenError):
        Receipt.decode(cbor.encode(ALL | {name: value}))


@pytest.mark.parametrize(
    "change",
    [
        {"request": bytes(31)},
        {"response": bytes(31)},
        {"pcr0": bytes(65)},
        {"assurance": 3},
        {"wash": {"id": "x", "time": -1}},
        {"proof": {"binding": -1}},
        {"usage": {"words": 1}},
        {"spans": [["name", 1, 1]] * 33},
        {"key": bytes(31)},
        {"sig": bytes(63)},
    ],
)
def test_values_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(OpenError):
        Receipt.decode(cbor.encode(ALL | change))


def test_a_signed_receipt_names_the_key_that_verifies_it() -> None:
    signed = Receipt(**ALL).signed(KEY)
    assert verify_signature(signed.encode()) == KEY.public_key().public_bytes_raw(), "the enclave's key"
    fields = cbor.decode_map(signed.encode(), max_bytes=4096)
    signature = fields.pop("sig")
    KEY.public_key().verify(signature, cbor.encode(fields))


@pytest.mark.parametrize("name", ALL)
def test_no_field_of_a_signed_receipt_can_be_changed_or_left_out(name: str) -> None:
    fields = cbor.decode_map(Receipt(**ALL).signed(KEY).encode(), max_bytes=4096)
    other: dict[type, object] = {bytes: b"z" * 32, int: 2, str: "other", dict: {}, list: []}
    if name not in REQUIRED:
        with pytest.raises(OpenError, match="signature"):
            verify_signature(cbor.encode({key: value for key, value in fields.items() if key != name}))
    with pytest.raises(OpenError, match="signature"):
        verify_signature(cbor.encode(fields | {name: other[type(fields[name])]}))


def test_the_signature_covers_a_key_that_this_reader_does_not_know() -> None:
    fields = cbor.decode_map(Receipt(**ALL).signed(KEY).encode(), max_bytes=4096)
    with pytest.raises(OpenError, match="signature"):
        verify_signature(cbor.encode(fields | {"later": 1}))


def test_a_receipt_that_nobody_signed_is_no_evidence() -> None:
    with pytest.raises(OpenError, match="nothing signed it"):
        verify_signature(Receipt(**ALL).encode())
    unsigned = cbor.decode_map(Receipt(**ALL).signed(KEY).encode(), max_bytes=4096)
    del unsigned["sig"]
    with pytest.raises(OpenError, match="no signature"):
        verify_signature(cbor.encode(unsigned))


def test_an_enclaves_document_names_its_key_by_hash() -> None:
    public = KEY.public_key().public_bytes_raw()
    assert enclave_user_data(public) == hashlib.sha256(b"mrgc/1 enclave" + public).digest(), "as the protocol says"
    with pytest.raises(ValueError, match="32 bytes"):
        enclave_user_data(public[:31])


def test_exact_figures_of_a_request_are_in_no_repr() -> None:
    text = repr(Receipt(**ALL).signed(KEY))
    assert "prompt_tokens" not in text, "a receipt may end up in a log; its token counts may not"
    assert "1500" not in text, "nor its times"


COUNTS = st.integers(0, 2**32)


@given(prompt=COUNTS, made=COUNTS, times=st.lists(COUNTS, min_size=6, max_size=6), age=COUNTS)
def test_a_receipts_length_tells_nothing_of_its_numbers(prompt: int, made: int, times: list[int], age: int) -> None:
    usage = {"prompt_tokens": prompt, "completion_tokens": made}
    spans = tuple(("worker.generate", start, took) for start, took in zip(times, reversed(times), strict=True))
    numbers = {"usage": usage, "spans": spans, "proof": {"binding": age, "document": age}}
    for receipt in (Receipt(**ALL | numbers), Receipt(**ALL | numbers | {"spans": (), "usage": {}})):
        encoded = receipt.signed(KEY).encode()
        assert len(encoded) == RECEIPT_MULTIPLE, "it is the last frame, and frames have their lengths in clear"
        assert verify_signature(encoded) == KEY.public_key().public_bytes_raw(), "and the zeros are signed too"


@pytest.mark.parametrize("name", ["region", "instance", "model_digest"])
@pytest.mark.parametrize("value", ["two\nlines", "\x1b[31mred", "r\u00e9gion", "a\r\nX-Header: 1"])
def test_a_name_that_is_no_line_of_ascii_is_refused(name: str, value: str) -> None:
    with pytest.raises(OpenError, match="one line"):
        Receipt.decode(cbor.encode(ALL | {name: value}))


@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused_within_the_error_family(data: bytes) -> None:
    with contextlib.suppress(OpenError):
        Receipt.decode(data)
    with contextlib.suppress(OpenError):
        verify_signature(data)
