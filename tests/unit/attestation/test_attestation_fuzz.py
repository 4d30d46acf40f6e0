"""Mutated documents raise the verifier's own errors alone, in time, and what the profile takes has one meaning."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dataplane.protocol.attestation.certificate import read_certificate
from dataplane.protocol.attestation.der import DerError
from dataplane.protocol.attestation.document import MAX_BUNDLE, MAX_DOCUMENT_BYTES
from dataplane.protocol.attestation.structure import StructureError, check_single_item
from dataplane.protocol.attestation.verify import verify_kept
from dataplane.protocol.errors import AttestationError
from tests.fuzz.targets import attestation as fuzz
from tests.support import nitro_documents as made
from tests.support.cost import LOOP_STEP_S, least_cpu_s


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A seed with up to four pieces replaced, moved, doubled or cut."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        size = draw(st.integers(0, 8) | st.integers(0, 300))
        piece = bytes(data[start : start + size])
        kind = draw(st.sampled_from(["replace", "flip", "double", "move", "cut"]))
        if kind == "replace":
            data[start : start + size] = draw(st.binary(max_size=8))
        elif kind == "flip" and data:
            data[start] ^= draw(st.integers(1, 255))
        elif kind == "double":
            data[start:start] = piece
        elif kind == "move":
            del data[start : start + size]
            at = draw(st.integers(0, len(data)))
            data[at:at] = piece
        else:
            del data[start:]
    return bytes(data)


@pytest.mark.parametrize("seed", range(len(fuzz.SEEDS)))
def test_the_seeds_find_no_bug(seed: int) -> None:
    fuzz.target(fuzz.SEEDS[seed])


@settings(max_examples=250, deadline=None)
@given(mutated(fuzz.SEEDS))
def test_a_mutated_document_is_refused_in_time_by_the_verifiers_own_error(data: bytes) -> None:
    fuzz.target(data)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2_000))
@example(b"")
@example(b"\x99\x3f\xf0" + bytes(0x3FF0))
@example(b"\xbf" + bytes(16_000) + b"\xff")
@example(b"\xbf" + b"\x80\0" * 7_800 + b"\xff")
@example(b"\x30\x82\xff\xff" * 4_000)
@example(bytes(MAX_DOCUMENT_BYTES + 1))
def test_any_bytes_are_refused_in_time(data: bytes) -> None:
    fuzz.target(data)


def test_the_dearest_document_is_judged_in_time() -> None:
    """As many CAs as a document may hold, each with a signature that is right."""
    count = MAX_BUNDLE - 1
    keys = [ec.generate_private_key(ec.SECP384R1()) for _ in range(count + 1)]
    issuer_key, issuer_name, issuer_id = (
        made.root().key,
        made.root().certificate.subject.public_bytes(),
        made.key_id(-1),
    )
    chain: list[bytes] = []
    for number, key in enumerate(keys):
        below = count - 1 - number
        parts = made.plain_parts(0 if below > 0 else 2 if below == 0 else 3)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest
        parts.issuer, parts.subject = issuer_name, made.common_name(f"number {number}".encode())
        parts.key = made.spki(key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))
        if below >= 0:
            parts.extensions[made.BASIC] = made.extension(
                made.BASIC, bytes.fromhex(f"30060101ff0201{below:02x}"), made.TRUE
            )
            parts.extensions[made.AKI] = made.extension(made.AKI, made.tlv(0x30, made.tlv(0x80, issuer_id)))
            parts.extensions[made.SKI] = made.extension(made.SKI, made.tlv(4, identifier))
        chain.append(parts.sign(issuer_key))
        issuer_key, issuer_name, issuer_id = key, parts.subject, identifier
    payload = made.encode(made.plain_fields(chain))
    document = made.seal(payload, made.signature_of(payload, key=keys[-1]))
    taken_s = least_cpu_s(lambda: verify_kept(document, policy=fuzz.ENCLAVES, roots=[made.root().certificate]))
    assert taken_s < LOOP_STEP_S, f"nine signatures took {taken_s * 1000:.1f} ms of the enclave's loop"


def assert_read_alike(data: bytes) -> None:
    """Two readers of one certificate must not read two things; the profile's is the stricter one."""
    read = read_certificate(data)
    library = x509.load_der_x509_certificate(data)
    assert library.version is x509.Version.v3, "both read version 3"
    assert 0 < library.serial_number < 1 << 160, "both read a positive serial number"
    assert library.tbs_certificate_bytes == read.signed, "the same signed bytes"
    assert library.signature == read.signature, "the same signature"
    assert (library.issuer.public_bytes(), library.subject.public_bytes()) == (read.issuer, read.subject), "both names"
    dates = [datetime.fromtimestamp(at / 1000, UTC) for at in (read.not_before_ms, read.not_after_ms)]
    assert [library.not_valid_before_utc, library.not_valid_after_utc] == dates, "the same dates"
    constraints = library.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.path_length, constraints.ca) == (read.path_length, read.path_length is not None), "rights"
    try:
        key = library.public_key()
    except ValueError:
        with pytest.raises(ValueError, match=r"\w"):
            ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), b"\4" + read.point)
        return
    assert isinstance(key, ec.EllipticCurvePublicKey), "both read a curve's key"
    assert key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:] == read.point, "the same key"


@settings(max_examples=400, deadline=None)
@given(mutated(made.make_chain()))
def test_what_the_profile_takes_a_library_reads_alike(data: bytes) -> None:
    try:
        read_certificate(data)
    except DerError:
        return
    assert_read_alike(data)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(range(4)), st.data())
def test_a_mutated_certificate_that_is_signed_anew_is_refused_or_read_alike(position: int, data: st.DataObject) -> None:
    """Past every signature: the mutation is in the bytes that the issuer's key signs."""

    def mutate(body: bytes) -> bytes:
        altered = bytearray(body)
        at = data.draw(st.integers(0, len(altered) - 1))
        altered[at] ^= data.draw(st.integers(1, 255))
        return bytes(altered)

    def change(parts: made.Parts) -> None:
        parts.body = mutate

    chain = made.make_chain({made.CHAIN[position]: change})
    document = made.sign(made.encode(made.plain_fields(chain)))
    try:
        verify_kept(document, policy=fuzz.ENCLAVES, roots=[made.root().certificate])
    except AttestationError as error:
        assert error.reason in {"chain", "signature"}, error  # noqa: PT017 - it may also be accepted
    else:
        for certificate in chain:
            assert_read_alike(certificate)


@given(st.binary(max_size=64))
def test_the_walk_over_any_bytes_ends_in_its_own_error(data: bytes) -> None:
    try:
        check_single_item(data)
    except StructureError as error:
        assert str(error), "with a reason"  # noqa: PT017 - it may also be a well-formed item
