"""`CiphertextForRecipient`: both genuine samples are parsed, and one made here opens."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.protocol.recipient import RecipientError, open_enveloped_data, parse_enveloped_data
from stacks.local.cms import RecipientKeyError, seal_for_recipient

DATA = Path(__file__).parents[2] / "data" / "kms-recipient"
SAMPLES = {"kms_cms_indefinite.ber": "out", "kms_cms_implicit_ctx.ber": "out_w_ctx"}
KEY = rsa.generate_private_key(65537, 2048)


def spki(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(("name", "suffix"), SAMPLES.items())
def test_a_genuine_sample_is_parsed_to_its_expected_parts(name: str, suffix: str) -> None:
    parts = parse_enveloped_data((DATA / name).read_bytes())
    assert parts.iv == (DATA / f"kms_cms_iv_{suffix}.expect").read_bytes()
    assert parts.encrypted_key == (DATA / f"kms_cms_encrypted_key_{suffix}.expect").read_bytes()
    assert parts.ciphertext == (DATA / f"kms_cms_ciphertext_{suffix}.expect").read_bytes()
    assert len(parts.ski) == 32
    assert parts.iv.hex() not in repr(parts), "a repr may end in a log"


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=200))
def test_what_is_sealed_here_opens_to_the_same_bytes(plaintext: bytes) -> None:
    assert open_enveloped_data(seal_for_recipient(plaintext, spki(KEY)), KEY) == plaintext


def test_what_is_made_here_has_the_samples_form() -> None:
    sample = (DATA / "kms_cms_indefinite.ber").read_bytes()
    made = seal_for_recipient(bytes(32), spki(KEY))
    assert len(made) == len(sample)
    # Up to the subjectKeyIdentifier, and from it to the encrypted key, nothing depends on the message.
    assert made[:33] == sample[:33]
    assert made[65:131] == sample[65:131]
    assert made[-10:] == sample[-10:] == bytes(10), "five indefinite lengths end here"
    assert parse_enveloped_data(made).ski == hashlib.sha256(spki(KEY)).digest()


def test_another_key_does_not_open_it() -> None:
    with pytest.raises(RecipientError, match="does not open"):
        open_enveloped_data(seal_for_recipient(bytes(32), spki(KEY)), rsa.generate_private_key(65537, 2048))


def test_only_rsa_keys_of_kms_sizes_are_sealed_for() -> None:
    for key in (
        b"",
        b"not DER",
        spki(ec.generate_private_key(ec.SECP384R1())),
        spki(rsa.generate_private_key(65537, 1024)),  # noqa: S505 - it must be refused
    ):
        with pytest.raises(RecipientKeyError):
            seal_for_recipient(bytes(32), key)


def test_an_oversized_message_is_refused_unread() -> None:
    with pytest.raises(RecipientError, match="at most 6144"):
        parse_enveloped_data(bytes(6_145))


def test_every_cut_and_every_appended_byte_is_refused() -> None:
    made = seal_for_recipient(bytes(32), spki(KEY))
    for length in range(0, len(made), 5):
        with pytest.raises(RecipientError):
            parse_enveloped_data(made[:length])
    with pytest.raises(RecipientError):
        parse_enveloped_data(made + b"\0")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_altered_messages_raise_nothing_but_recipient_errors(data: st.DataObject) -> None:
    altered = bytearray((DATA / data.draw(st.sampled_from(sorted(SAMPLES)))).read_bytes())
    start = data.draw(st.integers(0, len(altered)))
    altered[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    try:
        open_enveloped_data(bytes(altered), KEY)
    except RecipientError:
        return
    pytest.fail("a message for another key opened")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_raise_nothing_but_recipient_errors(data: bytes) -> None:
    with pytest.raises(RecipientError):
        parse_enveloped_data(data)
