"""The local KMS compares every register of a document, zeros too, but where zero means that nothing was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataplane.protocol.attestation.document import AttestationDocument, parse_cose, parse_payload
from stacks.local.aws.attested import conditions_of
from stacks.local.aws.conditions import conditions_hold

DATA = Path(__file__).parents[2] / "data" / "attestation"
KEY = "kms:RecipientAttestation:"
ZERO = "0" * 96


def document(name: str) -> AttestationDocument:
    return parse_payload(parse_cose((DATA / name).read_bytes()).payload)


def holds(name: str, **wanted: str) -> bool | None:
    return conditions_hold(
        {"StringEqualsIgnoreCase": {KEY + key: value for key, value in wanted.items()}}, conditions_of(document(name))
    )


def test_a_zero_pcr12_of_a_genuine_host_is_compared() -> None:
    pcr4 = document("nitrotpm.bin").pcrs[4].hex()
    assert holds("nitrotpm.bin", NitroTPMPCR4=pcr4, NitroTPMPCR12=ZERO) is True, "an untouched command line"
    assert holds("nitrotpm.bin", NitroTPMPCR4=pcr4, NitroTPMPCR12="1" * 96) is False, "a changed one was pinned"


def test_a_zero_pcr8_of_an_unsigned_enclave_is_compared() -> None:
    assert holds("enclave-indefinite-map.bin", PCR8=ZERO) is True, "nobody signed it"
    assert holds("enclave-definite-map.bin", PCR8=ZERO) is False, "somebody signed it"


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_debug_enclaves_zero_registers_equal_nothing(index: int) -> None:
    assert holds("enclave-debug.bin", **{f"PCR{index}": ZERO}) is False, "zero measures nothing"


def test_what_is_no_register_of_a_document_equals_nothing() -> None:
    assert holds("nitrotpm.bin", PCR12=ZERO) is False, "a host's registers are no enclave's"
    assert holds("enclave-indefinite-map.bin", NitroTPMPCR12=ZERO) is False, "nor the other way"
    assert holds("enclave-indefinite-map.bin", PCR16=ZERO) is False, "an enclave has 16"
