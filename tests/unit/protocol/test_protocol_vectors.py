"""The known answers: made by a separate implementation, met byte for byte in both roles and both directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from dataplane.protocol.envelope import RequestOpener, RequestSealer
from dataplane.protocol.errors import ProblemError
from dataplane.protocol.header import RequestHeader
from dataplane.protocol.keys import hkdf_extract

CASES = range(4)
REJECT_CODES = {
    "wrong magic": "malformed-envelope",
    "unknown version": "unsupported-version",
    "header bit flipped": "malformed-envelope",
    "final flag cleared": "malformed-envelope",
    "truncated ciphertext": "malformed-envelope",
    "no frames": "malformed-envelope",
    "trailing byte": "malformed-envelope",
    "header length beyond 8 KiB": "malformed-envelope",
    "header length beyond body": "malformed-envelope",
    "frame length beyond 64 KiB + 16": "malformed-envelope",
    "ciphertext bit flipped": "malformed-envelope",
}


def sealed(case: Mapping[str, Any]) -> tuple[RequestSealer, bytes]:
    header = RequestHeader.decode(bytes.fromhex(case["header_cbor"]))
    sealer = RequestSealer(header, bytes.fromhex(case["cek"]))
    frames = sealer.seal_message(bytes.fromhex(case["message_cbor"]), case["frame_size"])
    return sealer, sealer.prefix() + b"".join(frames)


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def test_the_file_holds_what_these_tests_expect(vectors: dict[str, Any]) -> None:
    assert len(vectors["cases"]) == len(CASES), "a new case must be tested too"
    assert {reject["name"] for reject in vectors["reject"]} == set(REJECT_CODES), "a new reject needs its code here"


@pytest.mark.parametrize("number", CASES)
def test_a_header_reads_and_writes_the_same_bytes(vectors: dict[str, Any], number: int) -> None:
    encoded = bytes.fromhex(vectors["cases"][number]["header_cbor"])
    assert RequestHeader.decode(encoded).encode() == encoded, "deterministic CBOR has one form"


@pytest.mark.parametrize("number", CASES)
def test_keys_start_from_the_hash_of_magic_version_length_and_header(vectors: dict[str, Any], number: int) -> None:
    case = vectors["cases"][number]
    prk = hkdf_extract(bytes.fromhex(case["header_hash"]), bytes.fromhex(case["cek"]))
    assert prk.hex() == case["prk"], "PRK is HKDF-Extract(hh, CEK)"


@pytest.mark.parametrize("number", CASES)
def test_the_tenant_seals_the_known_request(vectors: dict[str, Any], number: int) -> None:
    case = vectors["cases"][number]
    sealer, body = sealed(case)
    assert body.hex() == case["request_body"], "the body must match byte for byte"
    assert sealer.th.hex() == case["request_frames_sha256"], "th is the hash of the frames as sent"


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("number", CASES)
def test_the_enclave_opens_it_and_seals_the_known_response(vectors: dict[str, Any], number: int, size: int) -> None:
    case = vectors["cases"][number]
    opener = RequestOpener()
    for piece in pieces(bytes.fromhex(case["request_body"]), size):
        opener.feed(piece)
        if opener.header is not None and not opener.unlocked:
            opener.unlock(bytes.fromhex(case["cek"]))
    opener.finish()
    message = opener.message()
    assert message is not None, "the final frame was there"
    assert message.hex() == case["message_cbor"], "the message must match byte for byte"
    assert opener.th.hex() == case["request_frames_sha256"], "both sides hash the same frames"
    response = opener.response_sealer(bytes.fromhex(case["response_salt"]))
    body = response.prefix()
    for frame in case["response_frames"]:
        body += response.seal(bytes.fromhex(frame["data"]), final=frame["final"])
    assert body.hex() == case["response_body"], "the response must match byte for byte"


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("number", CASES)
def test_the_tenant_opens_the_known_response(vectors: dict[str, Any], number: int, size: int) -> None:
    case = vectors["cases"][number]
    opener = sealed(case)[0].response_opener()
    opened = [frame for piece in pieces(bytes.fromhex(case["response_body"]), size) for frame in opener.feed(piece)]
    opener.finish()
    expected = [(frame["final"], bytes.fromhex(frame["data"])) for frame in case["response_frames"]]
    assert [(frame.final, frame.data) for frame in opened] == expected, "frame by frame, as sealed"


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize("name", REJECT_CODES)
def test_a_known_bad_body_is_refused_with_its_code(vectors: dict[str, Any], name: str, size: int) -> None:
    reject = next(reject for reject in vectors["reject"] if reject["name"] == name)
    cek = bytes.fromhex(vectors["cases"][reject["base_case"]]["cek"])
    opener = RequestOpener()

    def open_all() -> None:
        for piece in pieces(bytes.fromhex(reject["request_body"]), size):
            opener.feed(piece)
            if opener.header is not None and not opener.unlocked:
                opener.unlock(cek)
        opener.finish()

    with pytest.raises(ProblemError) as caught:
        open_all()
    assert caught.value.code == REJECT_CODES[name], reject["why"]
    with pytest.raises(ProblemError):
        opener.message()
