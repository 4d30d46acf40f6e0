"""A tenant's key policy from any arguments: refused, or one that lets only attested enclaves decrypt."""

from __future__ import annotations

import json
from typing import Any

from dataplane.protocol.attestation.key_policy import KeyPolicyError, tenant_key_policy
from tests.fuzz.choices import Choices

ADMIN = "arn:aws:iam::111122223333:role/admin"
USER = "arn:aws:iam::111122223333:role/user"
HOST = "arn:aws:iam::444455556666:role/host"


def _argument(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


SEEDS = [
    b"\x00\x00\x00" + _argument(ADMIN) + _argument(USER) + b"\x00" + _argument(HOST) + b"\x01" + b"\x10" * 40,
    b"\x00\x00\x01" + _argument(ADMIN) + _argument(USER) + b"\x01" + _argument(HOST) * 2 + b"\x02" + b"\x20" * 90,
    b"\x01\x01\x01" + _argument("tenant-*") + b"\x00" * 20,
    b"\x01\x01\x01" + _argument("*") + b"\x03" * 60,
]


def target(data: bytes) -> None:
    """Make a policy; none may allow Decrypt without all three measurements and the bound context."""
    choices = Choices(data)
    admin = choices.text() if choices.number(1) else ADMIN
    user = choices.text() if choices.number(1) else USER
    tenant = choices.text() if choices.number(1) else None
    roles = [choices.text() if choices.number(1) else HOST for _ in range(choices.number(9))]
    pcrs = [_measurement(choices) for _ in range(choices.number(9))]
    try:
        policy = tenant_key_policy(admin, user, roles, pcrs, tenant_id=tenant)
    except KeyPolicyError as error:
        str(error).encode("utf-8", "surrogateescape")
        return
    json.dumps(policy).encode()
    statements = policy["Statement"]
    decrypts = [each for each in statements if "kms:Decrypt" in _listed(each["Action"])]
    assert len(decrypts) == len(pcrs), "one statement a measurement"
    for each in statements:
        assert each["Principal"]["AWS"] != "*", "nobody is everybody"
        assert not {"kms:*", "kms:CreateGrant"} & set(_listed(each["Action"])), "no grants and no wild cards"
    for each in decrypts:
        condition = each["Condition"]
        attested = condition["StringEqualsIgnoreCase"]
        for index in (0, 1, 2):
            register = bytes.fromhex(attested[f"kms:RecipientAttestation:PCR{index}"])
            assert len(register) == 48, "a whole register"
            assert any(register), "and none of a debug enclave"
        assert "kms:EncryptionContextKeys" in condition["ForAllValues:StringEquals"], "the context is bound"


def _measurement(choices: Choices) -> dict[int, bytes | str]:
    registers: dict[int, bytes | str] = {}
    for index in (0, 1, 2, choices.one((8, 3, 4, -1))):
        match choices.number(5):
            case 0:
                registers[index] = choices.text()
            case 1:
                registers[index] = choices.short()
            case 2:
                registers[index] = bytes(48)
            case 3:
                continue
            case _:
                registers[index] = bytes([1 + choices.number(254)]) * 48
    return registers


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
