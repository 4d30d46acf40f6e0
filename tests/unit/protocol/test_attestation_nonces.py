"""One document for several askers: each finds its own nonce in it, and nobody takes one that was made for others."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol.attestation.nonces import (
    MAX_HEADER_CHARS,
    MAX_SHARED_NONCES,
    expected_nonce,
    format_nonces,
    shared_nonce,
)
from dataplane.protocol.errors import AttestationError

NONCES = st.binary(min_size=16, max_size=64)
A, B, C = b"a" * 16, b"b" * 32, b"c" * 64


def test_one_nonce_stays_as_it_is_and_needs_no_list() -> None:
    assert shared_nonce([A, A]) == A, "asked twice is asked once"
    assert format_nonces([A]) is None, "nothing is to be said of one"
    assert expected_nonce(A, None) == A, "and the asker expects what it sent"


def test_several_nonces_are_hashed_sorted_and_joined() -> None:
    assert shared_nonce([C, A, B]) == hashlib.sha256(A + B + C).digest(), "in one order, whoever asked first"
    assert format_nonces([C, A, B]) == ",".join(one.hex() for one in (A, B, C)), "the list is in the same order"


@given(st.sets(NONCES, min_size=1, max_size=MAX_SHARED_NONCES))
def test_every_asker_of_a_document_finds_what_it_carries(nonces: set[bytes]) -> None:
    header = format_nonces(nonces)
    for own in nonces:
        assert expected_nonce(own, header) == shared_nonce(nonces), "each expects the one nonce of the document"


@given(st.sets(NONCES, min_size=2, max_size=5), NONCES)
def test_who_did_not_ask_takes_no_document_of_others(nonces: set[bytes], stranger: bytes) -> None:
    header = format_nonces(nonces - {stranger})
    if header is None:
        return
    with pytest.raises(AttestationError) as caught:
        expected_nonce(stranger, header)
    assert caught.value.reason == "nonce", "the failed check is named"


@given(st.text(max_size=200))
def test_no_text_is_taken_for_a_list_by_accident(text: str) -> None:
    with pytest.raises(AttestationError):
        expected_nonce(A, text)


@pytest.mark.parametrize(
    "header",
    [
        "",
        A.hex(),
        f"{B.hex()},{A.hex()}",
        f"{A.hex()},{A.hex()}",
        f"{A.hex()},{B.hex().upper()}",
        f"{A.hex()}, {B.hex()}",
        f"{A.hex()},{B.hex()},",
        f"{A.hex()},{'aa' * 15}",
        f"{A.hex()},{'aa' * 65}",
        ",".join(f"{n:032x}" for n in range(MAX_SHARED_NONCES + 1)),
        ",".join(f"{n:0128x}" for n in range(4_000)),
    ],
)
def test_a_list_of_another_form_is_refused(header: str) -> None:
    with pytest.raises(AttestationError) as caught:
        expected_nonce(bytes(16), header)
    assert caught.value.reason == "nonce", header[:80]


def test_a_document_serves_a_bounded_number() -> None:
    longest = [bytes([n]) * 64 for n in range(MAX_SHARED_NONCES)]
    header = format_nonces(longest)
    assert header is not None, "a list"
    assert len(header) == MAX_HEADER_CHARS < 8_190, "its header passes common HTTP libraries"
    for wrong in ([], [*longest, b"x" * 16]):
        with pytest.raises(ValueError, match="serves 1 to 32"):
            shared_nonce(wrong)
