"""Genuine documents are judged as a separate verifier judged them, and nothing altered passes."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.protocol.attestation.document import AttestationDocument, instance_pcr4, parse_cose, parse_payload
from dataplane.protocol.attestation.verify import (
    AWS_NITRO_ROOT_G1_SHA256,
    AttestationPolicy,
    authenticate,
    aws_nitro_root_g1,
    verify,
    verify_kept,
)
from dataplane.protocol.errors import AttestationError

DATA = Path(__file__).parents[2] / "data" / "attestation"
EXPECTED: dict[str, dict[str, Any]] = json.loads((DATA / "expected.json").read_text())
GENUINE = ("enclave-definite-map.bin", "enclave-indefinite-map.bin", "nitrotpm.bin")
REFUSED = {"enclave-debug.bin": "debug", "not-aws-root.bin": "chain"}
HOUR_MS = 3_600_000
P384_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973


def document(name: str) -> bytes:
    return (DATA / name).read_bytes()


def policy(name: str, **more: Any) -> AttestationPolicy:
    """Allow what `expected.json` says of the registers, those left out that no policy may name.

    Of an enclave the zero PCR0 to PCR2 of debugging (a made-up PCR0 is in their place), of NitroTPM's document PCR7,
    for its machine has Secure Boot off.
    """
    tpm = EXPECTED[name]["pcr_field"] == "nitrotpm_pcrs"
    measurement = registers(name)
    if tpm:
        del measurement[7]
    elif not any(measurement[0]):
        measurement = {0: b"\1" * 48}
    return AttestationPolicy(allowed_pcrs=[measurement], tpm=tpm, **more)


def registers(name: str) -> dict[int, bytes]:
    return {int(index): bytes.fromhex(value) for index, value in EXPECTED[name]["pcrs"].items()}


def refusal(data: bytes, name: str, *, now_ms: int | None = None, **more: Any) -> str:
    moment = EXPECTED[name]["timestamp_ms"] if now_ms is None else now_ms
    with pytest.raises(AttestationError) as caught:
        verify(data, now_ms=moment, policy=policy(name, **more))
    return caught.value.reason


def test_every_document_of_the_vectors_has_a_judgement() -> None:
    files = {file.name for file in DATA.glob("*.bin")}
    assert files == set(EXPECTED) == {*GENUINE, *REFUSED}, "a document that no test judges proves nothing"
    for name, expected in EXPECTED.items():
        assert hashlib.sha256(document(name)).hexdigest() == expected["sha256"], f"{name} is not the one expected"


@pytest.mark.parametrize("path", sorted((DATA / "years").glob("*.bin")), ids=lambda path: path.stem)
def test_genuine_documents_of_other_years_are_of_the_profile(path: Path) -> None:
    data = path.read_bytes()
    said = parse_payload(parse_cose(data).payload)
    assert authenticate(data, now_ms=said.timestamp_ms) == said, "genuine, under AWS's root, at its own time"
    made_on = datetime.fromtimestamp(said.timestamp_ms / 1000, UTC)
    assert path.stem.startswith(str(made_on.year)), "the year that its name says"


def test_the_pinned_root_is_the_published_one() -> None:
    assert aws_nitro_root_g1().subject.rfc4514_string() == "CN=aws.nitro-enclaves,OU=AWS,O=Amazon,C=US"
    der = aws_nitro_root_g1().public_bytes(Encoding.DER)
    assert hashlib.sha256(der).hexdigest() == AWS_NITRO_ROOT_G1_SHA256, "the file must be AWS's root"


@pytest.mark.parametrize("name", GENUINE)
def test_a_genuine_document_is_accepted_at_its_time_and_says_what_is_expected(name: str) -> None:
    expected = EXPECTED[name]
    parsed = verify(document(name), now_ms=expected["timestamp_ms"], policy=policy(name))
    assert parsed.module_id == expected["module_id"]
    assert parsed.timestamp_ms == expected["timestamp_ms"]
    assert parsed.pcr_field == expected["pcr_field"]
    assert {str(index): value.hex() for index, value in parsed.pcrs.items()} == expected["pcrs"]


@pytest.mark.parametrize("name", GENUINE)
def test_a_genuine_document_is_refused_four_hours_later(name: str) -> None:
    assert refusal(document(name), name, now_ms=EXPECTED[name]["timestamp_ms"] + 4 * HOUR_MS) == "age"


@pytest.mark.parametrize("name", GENUINE)
def test_a_kept_document_is_judged_at_its_own_time_without_a_clock(name: str) -> None:
    parsed = verify_kept(document(name), policy=policy(name))
    assert parsed.timestamp_ms == EXPECTED[name]["timestamp_ms"], "what it says, years later"


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_a_kept_document_is_refused_for_all_but_its_age(name: str, reason: str) -> None:
    with pytest.raises(AttestationError) as caught:
        verify_kept(document(name), policy=policy(name))
    assert caught.value.reason == reason, EXPECTED[name]["must"]


def test_a_kept_document_must_say_what_is_expected() -> None:
    name = "enclave-definite-map.bin"
    for expected, reason in (({"user_data": b"x"}, "user-data"), ({"nonce": b"x"}, "nonce")):
        with pytest.raises(AttestationError) as caught:
            verify_kept(document(name), policy=policy(name, **expected))
        assert caught.value.reason == reason, "only the age is not asked"


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_a_document_that_must_be_refused_is_refused_by_name(name: str, reason: str) -> None:
    assert refusal(document(name), name) == reason, EXPECTED[name]["must"]


def test_a_debug_document_is_genuine_in_all_but_its_registers() -> None:
    parsed = authenticate(document("enclave-debug.bin"), now_ms=EXPECTED["enclave-debug.bin"]["timestamp_ms"])
    assert not any(parsed.pcrs[0]), "chain and signature hold, and that alone must not be enough"


@pytest.mark.parametrize("name", [name for name in GENUINE if name.startswith("enclave")])
def test_pcr4_is_the_instance(name: str) -> None:
    parsed: AttestationDocument = authenticate(document(name), now_ms=EXPECTED[name]["timestamp_ms"])
    assert instance_pcr4(parsed.instance_id) == parsed.pcrs[4]


def test_age_limits_hold_to_the_millisecond() -> None:
    name = "enclave-definite-map.bin"
    made = EXPECTED[name]["timestamp_ms"]
    verify(document(name), now_ms=made + 300_000, policy=policy(name))
    verify(document(name), now_ms=made - 60_000, policy=policy(name))
    assert refusal(document(name), name, now_ms=made + 300_001) == "age"
    assert refusal(document(name), name, now_ms=made - 60_001) == "age"


def test_measurements_decide() -> None:
    name = "enclave-definite-map.bin"
    made = EXPECTED[name]["timestamp_ms"]
    other = bytes([1]) * 48
    pcr0 = bytes.fromhex(EXPECTED[name]["pcrs"]["0"])
    verify(document(name), now_ms=made, policy=AttestationPolicy(allowed_pcrs=[{0: other}, {0: pcr0}]))
    for allowed in ([], [{0: other}], [{0: pcr0, 1: other}], [{0: pcr0, 31: pcr0}]):
        with pytest.raises(AttestationError) as caught:
            verify(document(name), now_ms=made, policy=AttestationPolicy(allowed_pcrs=allowed))
        assert caught.value.reason == "pcr", f"{len(allowed)} measurements that do not match must refuse"


@pytest.mark.parametrize(
    ("allowed", "tpm"),
    [
        ({}, False),
        ({0: bytes(48)}, False),
        ({0: b"short"}, False),
        ({0: "1" * 48}, False),
        ({3: b"\1" * 48}, False),
        ({8: b"\1" * 48}, False),
        ({-1: b"\1" * 48}, False),
        ({0: b"\1" * 48, -1: b"\1" * 48}, False),
        ({0: b"\1" * 48, 32: b"\1" * 48}, False),
        ({False: b"\1" * 48}, False),
        ({0.0: b"\1" * 48}, False),
        ({"0": b"\1" * 48}, False),
        ({0: b"\1" * 48, 1: bytes(48)}, False),
        ({0: b"\1" * 48, 2: bytes(48)}, False),
        ({4: b"\1" * 48}, True),
        ({4: b"\1" * 48, 12: bytes(48), 24: bytes(48)}, True),
        ({12: b"\1" * 48}, True),
        ({0: b"\1" * 48}, True),
    ],
)
def test_a_policy_that_would_allow_too_much_can_not_be_made(allowed: dict[int, bytes], tpm: bool) -> None:  # noqa: FBT001 - a parameter of the table above
    with pytest.raises(AttestationError) as caught:
        AttestationPolicy(allowed_pcrs=[allowed], tpm=tpm)
    assert caught.value.reason == "pcr", "the measurement is what is wrong"


def test_a_register_beyond_the_debugged_ones_is_compared_when_it_is_zero() -> None:
    name = "enclave-indefinite-map.bin"
    made = EXPECTED[name]["timestamp_ms"]
    pcr0 = registers(name)[0]
    unsigned = AttestationPolicy(allowed_pcrs=[{0: pcr0, 8: bytes(48)}])
    verify(document(name), now_ms=made, policy=unsigned)
    signed = "enclave-definite-map.bin"
    with pytest.raises(AttestationError) as caught:
        verify_kept(document(signed), policy=AttestationPolicy(allowed_pcrs=[{0: registers(signed)[0], 8: bytes(48)}]))
    assert caught.value.reason == "pcr", "a signed image is not the unsigned one that was pinned"


def test_an_enclave_is_no_host_and_a_host_no_enclave() -> None:
    tpm = "nitrotpm.bin"
    enclave = "enclave-definite-map.bin"
    for name, wrong in ((tpm, False), (enclave, True)):
        allowed = [{0: registers(name)[0], 4: registers(name)[4], 12: bytes(48)}]
        with pytest.raises(AttestationError) as caught:
            verify(
                document(name),
                now_ms=EXPECTED[name]["timestamp_ms"],
                policy=AttestationPolicy(allowed_pcrs=allowed, tpm=wrong),
            )
        assert caught.value.reason == "pcr"


def test_nonce_user_data_and_public_key_are_compared_and_named() -> None:
    name = "enclave-definite-map.bin"
    nonce = authenticate(document(name), now_ms=EXPECTED[name]["timestamp_ms"]).nonce
    assert nonce is not None
    verify(document(name), now_ms=EXPECTED[name]["timestamp_ms"], policy=policy(name, nonce=nonce))
    assert refusal(document(name), name, nonce=nonce[:-1]) == "nonce"
    assert refusal(document(name), name, user_data=b"x") == "user-data", "the document has none"
    assert refusal(document(name), name, public_key=b"x") == "public-key"


def test_the_tagged_form_is_read_too() -> None:
    name = "enclave-definite-map.bin"
    verify(b"\xd2" + document(name), now_ms=EXPECTED[name]["timestamp_ms"], policy=policy(name))


def test_the_other_form_of_a_signature_is_valid_so_a_hash_is_no_identity() -> None:
    name = "enclave-indefinite-map.bin"
    data = document(name)
    flipped = data[:-48] + (P384_ORDER - int.from_bytes(data[-48:])).to_bytes(48)
    assert flipped != data
    verify(flipped, now_ms=EXPECTED[name]["timestamp_ms"], policy=policy(name))


@pytest.mark.parametrize("name", GENUINE)
def test_no_flipped_bit_passes(name: str) -> None:
    data = document(name)
    # Every 7th byte (coprime with the structure's sizes) and every byte of head and tail, a different bit each time.
    for position in sorted({*range(0, len(data), 7), *range(40), *range(len(data) - 100, len(data))}):
        altered = bytearray(data)
        altered[position] ^= 1 << (position % 8)
        reason = refusal(bytes(altered), name)
        assert reason in {"cose", "field", "chain", "signature"}, f"byte {position} was refused late, for {reason}"


@pytest.mark.parametrize("cut", [0, 1, 10, 1000, -1])
def test_a_cut_document_is_not_cose(cut: int) -> None:
    assert refusal(document(GENUINE[0])[:cut], GENUINE[0]) == "cose"


def test_bytes_after_the_document_are_refused() -> None:
    assert refusal(document(GENUINE[0]) + b"\0", GENUINE[0]) == "cose"


def test_size_is_checked_first() -> None:
    assert refusal(bytes(16_385), GENUINE[0]) == "size"
    assert refusal(bytes(16_384), GENUINE[0]) == "cose"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_raise_nothing_but_attestation_errors(data: bytes) -> None:
    for parse in (parse_cose, parse_payload):
        with pytest.raises(AttestationError):
            parse(data)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_altered_documents_raise_nothing_but_attestation_errors(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(GENUINE))
    altered = bytearray(document(name))
    start = data.draw(st.integers(0, len(altered) - 1))
    altered[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(min_size=1, max_size=8))
    if bytes(altered).removeprefix(b"\xd2") == document(name):
        return
    with pytest.raises(AttestationError):
        verify(bytes(altered), now_ms=EXPECTED[name]["timestamp_ms"], policy=policy(name))
