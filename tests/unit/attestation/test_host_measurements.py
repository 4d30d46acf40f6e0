"""Level 2 takes the host image that was pinned, and no measurement that other hosts share.

The genuine document is that of an EC2 instance with Secure Boot off and an untouched kernel command line.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol.attestation.verify import SECURE_BOOT_OFF_PCR7, AttestationPolicy, verify, verify_kept
from dataplane.protocol.errors import AttestationError
from stacks.local.nsm import SoftwareNsm
from tests.support import nitro_documents as made

DATA = Path(__file__).parents[2] / "data" / "attestation"
GENUINE = (DATA / "nitrotpm.bin").read_bytes()
EXPECTED = json.loads((DATA / "expected.json").read_text())["nitrotpm.bin"]
REGISTERS = {int(index): bytes.fromhex(value) for index, value in EXPECTED["pcrs"].items()}

ZERO = bytes(48)
SOME = b"\x5a" * 48
OTHER = b"\xa5" * 48

GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
SECURITY = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
"""EFI_GLOBAL_VARIABLE and EFI_IMAGE_SECURITY_DATABASE_GUID (UEFI 2.10)."""


def policy(*allowed: dict[int, bytes]) -> AttestationPolicy:
    return AttestationPolicy(allowed_pcrs=allowed, tpm=True)


def host(pcrs: dict[int, bytes]) -> bytes:
    """A NitroTPM document under the test's root with these registers and zeros elsewhere."""
    nsm = SoftwareNsm(
        root=made.root(),
        pcrs=dict.fromkeys(range(3), SOME) | pcrs,
        instance_id="i-0123456789abcdef0",
        clock_ms=lambda: made.NOW_MS,
        pcr_field="nitrotpm_pcrs",
    )
    return nsm.attest(nonce=None, user_data=None, public_key=None)


def accepted(document: bytes, *allowed: dict[int, bytes]) -> bool:
    try:
        verify(document, now_ms=made.NOW_MS, policy=policy(*allowed), roots=[made.root().certificate])
    except AttestationError as error:
        assert error.reason == "pcr", error  # noqa: PT017 - the only reason there may be
        return False
    return True


def test_the_genuine_host_is_accepted_by_its_pcr4_and_its_zero_pcr12() -> None:
    assert REGISTERS[12] == ZERO, "an untouched kernel command line measures nothing into PCR12"
    verify_kept(GENUINE, policy=policy({4: REGISTERS[4], 12: ZERO}))


@pytest.mark.parametrize("allowed", [{4: REGISTERS[4], 12: SOME}, {4: SOME, 12: ZERO}, {4: REGISTERS[4], 7: SOME}])
def test_the_genuine_host_is_no_other(allowed: dict[int, bytes]) -> None:
    with pytest.raises(AttestationError) as caught:
        verify_kept(GENUINE, policy=policy(allowed))
    assert caught.value.reason == "pcr", "every register is compared"


@pytest.mark.parametrize(
    "allowed",
    [
        {7: REGISTERS[7]},
        {4: REGISTERS[4], 7: REGISTERS[7]},
        {4: REGISTERS[4], 12: ZERO, 7: REGISTERS[7]},
    ],
)
def test_the_pcr7_of_a_host_with_secure_boot_off_is_refused_by_name(allowed: dict[int, bytes]) -> None:
    with pytest.raises(AttestationError, match=r"PCR7 .*Secure Boot is off") as caught:
        policy(allowed)
    assert caught.value.reason == "pcr", "the measurement is at fault, before any document is seen"


def test_the_refused_pcr7_is_the_genuine_hosts_and_what_its_firmware_must_measure() -> None:
    assert REGISTERS[7] == SECURE_BOOT_OFF_PCR7, "seen on an instance"
    variables = [(GLOBAL, "SecureBoot", b"\0"), (GLOBAL, "PK", b""), (GLOBAL, "KEK", b"")]
    variables += [(SECURITY, "db", b""), (SECURITY, "dbx", b"")]
    # UEFI_VARIABLE_DATA of the TCG PC Client Platform Firmware Profile, and a separator of four zero bytes at the end.
    events = [
        vendor.bytes_le + len(name).to_bytes(8, "little") + len(data).to_bytes(8, "little")
        + name.encode("utf-16-le") + data
        for vendor, name, data in variables
    ]  # fmt: skip
    register = ZERO
    for event in (*events, bytes(4)):
        register = hashlib.sha384(register + hashlib.sha384(event).digest()).digest()
    assert register == SECURE_BOOT_OFF_PCR7, "Secure Boot off and no keys, the same on every such machine"


@pytest.mark.parametrize(
    ("allowed", "said"),
    [
        ({7: SOME}, "PCR4 with PCR12"),
        ({4: SOME}, "PCR4 with PCR12"),
        ({12: ZERO}, "PCR4 with PCR12"),
        ({7: SOME, 12: ZERO}, "PCR4 with PCR12"),
        ({4: ZERO, 12: ZERO}, "PCR4 of zero"),
        ({4: ZERO, 7: SOME}, "PCR4 of zero"),
        ({4: SOME, 7: ZERO}, "PCR7 of zero"),
        ({4: SOME, 7: ZERO, 12: ZERO}, "PCR7 of zero"),
        ({4: SOME, 12: b""}, "48 bytes"),
    ],
)
def test_a_measurement_that_other_hosts_share_is_refused(allowed: dict[int, bytes], said: str) -> None:
    with pytest.raises(AttestationError, match=said):
        policy(allowed)


def test_a_changed_command_line_does_not_pass_a_zero_pcr12() -> None:
    assert accepted(host({4: SOME}), {4: SOME, 12: ZERO}), "untouched"
    assert not accepted(host({4: SOME, 12: OTHER}), {4: SOME, 12: ZERO}), "zero is compared, not left out"


def test_pcr4_with_the_pcr7_of_secure_boot_is_enough() -> None:
    allowed = {4: SOME, 7: OTHER}
    assert accepted(host(allowed), allowed), "the machine checks signatures, and this is its image"
    assert not accepted(host({4: SOME, 7: SECURE_BOOT_OFF_PCR7}), allowed), "the same image without Secure Boot"


REGISTER = st.sampled_from([ZERO, SOME, OTHER, SECURE_BOOT_OFF_PCR7])
MEASUREMENT = st.dictionaries(st.sampled_from([0, 4, 7, 11, 12]), REGISTER)


@given(MEASUREMENT)
def test_a_measurement_may_be_pinned_exactly_where_it_tells_one_image_from_all_others(
    allowed: dict[int, bytes],
) -> None:
    binds = allowed.get(4, ZERO) != ZERO and (12 in allowed or 7 in allowed)
    shared = allowed.get(7) in (ZERO, SECURE_BOOT_OFF_PCR7)
    try:
        policy(allowed)
    except AttestationError:
        assert shared or not binds, f"{sorted(allowed)} binds the host"
    else:
        assert binds, f"{sorted(allowed)} does not bind the host"
        assert not shared, "PCR7 of unrelated machines"


@given(MEASUREMENT, MEASUREMENT)
def test_a_host_passes_exactly_where_every_pinned_register_is_equal(
    allowed: dict[int, bytes], shown: dict[int, bytes]
) -> None:
    shown[0] = SOME
    try:
        policy(allowed)
    except AttestationError:
        return
    equal = all(shown.get(index, ZERO) == value for index, value in allowed.items())
    assert accepted(host(shown), allowed) is equal, "zeros are values"
