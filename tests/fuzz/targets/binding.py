"""The worker's answer to the enclave's challenge."""

from __future__ import annotations

from pathlib import Path

from dataplane.enclave.binding import BindingError, judge_answer
from dataplane.protocol import cbor
from dataplane.protocol.attestation.document import PCR_BYTES
from dataplane.protocol.errors import AttestationError
from tests.fuzz.choices import Choices

DOCUMENT = (Path(__file__).parents[2] / "data" / "attestation" / "nitrotpm.bin").read_bytes()
ALLOWED = [{4: b"\x01" * PCR_BYTES, 12: b"\x02" * PCR_BYTES}]
FIELDS = {"public_key": bytes(32), "epoch": bytes(16), "wash_ms": 1, "config_digest": bytes(32), "document": None}
SEEDS = [
    b"\x00" + cbor.encode(FIELDS),
    b"\x01" + cbor.encode(FIELDS | {"document": DOCUMENT}),
    b"\x01" + cbor.encode(FIELDS | {"document": b"\x84\x44\xa1\x01\x38\x22\xa0\x40\x40"}),
    b"\x02" + DOCUMENT,
    b"\x00" + cbor.encode(FIELDS | {"wash_ms": 2**64 - 1}),
]
MAX_LEN = 8192


def target(data: bytes) -> None:
    """Judge; a document that holds is one for this challenge, which no fuzzer has a signature for."""
    choices = Choices(data)
    mode = choices.number(2)
    answer = choices.rest()
    if mode == 2:
        answer = cbor.encode(FIELDS | {"document": answer})
    try:
        worker = judge_answer(
            answer,
            challenge=bytes(32),
            own_pcr4=b"\x03" * PCR_BYTES,
            allowed=ALLOWED if mode else (),
            now_ms=1_763_000_000_000,
        )
    except (BindingError, AttestationError) as error:
        str(error).encode()
        return
    assert not worker.host_attested, "nobody can sign for AWS"
