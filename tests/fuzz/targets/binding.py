"""The worker's answer to the enclave's challenge."""

from __future__ import annotations

from pathlib import Path

from dataplane.enclave.binding import BindingError, WorkerBinding, judge_answer
from dataplane.protocol import cbor
from dataplane.protocol.attestation.document import PCR_BYTES
from dataplane.protocol.errors import AttestationError
from dataplane.protocol.wash import Wash
from tests.fuzz.choices import Choices

DOCUMENT = (Path(__file__).parents[2] / "data" / "attestation" / "nitrotpm.bin").read_bytes()
ALLOWED = [{4: b"\x01" * PCR_BYTES, 12: b"\x02" * PCR_BYTES}]
FIELDS = {"public_key": bytes(32), "epoch": bytes(16), "wash": None, "config_digest": bytes(32), "document": None}
WASHED = FIELDS | {"wash": Wash(id=b"\x01" * 16, time_ms=1_763_000_000_000).as_map()}
SEEDS = [
    b"\x00" + cbor.encode(FIELDS),
    b"\x01" + cbor.encode(FIELDS | {"document": DOCUMENT}),
    b"\x01" + cbor.encode(FIELDS | {"document": b"\x84\x44\xa1\x01\x38\x22\xa0\x40\x40"}),
    b"\x02" + DOCUMENT,
    b"\x00" + cbor.encode(WASHED),
    b"\x01" + cbor.encode(WASHED | {"document": DOCUMENT}),
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
        worker = judge(answer, attested=bool(mode))
    except (BindingError, AttestationError) as error:
        str(error).encode()
        return
    assert not worker.host_attested, "nobody can sign for AWS"


def judge(answer: bytes, *, attested: bool) -> WorkerBinding:
    """Judge as an enclave does whose image lists hosts (`attested`), or none."""
    return judge_answer(
        answer,
        challenge=bytes(32),
        own_pcr4=b"\x03" * PCR_BYTES,
        allowed=ALLOWED if attested else (),
        now_ms=1_763_000_000_000,
    )
