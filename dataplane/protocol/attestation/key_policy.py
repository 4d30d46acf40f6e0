"""The key policy of a tenant's KMS key: who manages it, who wraps data keys, and which enclaves may unwrap them.

Source: KMS developer guide, "AWS KMS condition keys for attested platforms" and "kms:EncryptionContext". An `Allow`
that names `kms:RecipientAttestation` keys refuses calls without an attestation document; other statements and grants
still count, so this is the whole policy and grants none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dataplane.protocol.attestation.document import MAX_PCRS, PCR_BYTES
from dataplane.protocol.errors import MrgcError

CONTEXT_KEYS = ("mrgc:tenant", "mrgc:session", "mrgc:expires")
"""The encryption context of a data key: exactly these (docs/protocol.md)."""

REQUIRED_PCRS = (0, 1, 2)
MAX_MEASUREMENTS = 8
"""Images allowed at once. A policy has 32 KiB and a statement takes about 2 KiB; a roll-out needs two."""

MAX_PLATFORM_ROLES = 8
"""Host roles allowed at once: one a region, and room for four regions to be replaced by four others."""

ADMIN_ACTIONS = (
    "kms:DescribeKey",
    "kms:GetKeyPolicy",
    "kms:PutKeyPolicy",
    "kms:ReplicateKey",
    "kms:UpdatePrimaryRegion",
    "kms:EnableKey",
    "kms:DisableKey",
    "kms:EnableKeyRotation",
    "kms:DisableKeyRotation",
    "kms:GetKeyRotationStatus",
    "kms:ListResourceTags",
    "kms:TagResource",
    "kms:UntagResource",
    "kms:ScheduleKeyDeletion",
    "kms:CancelKeyDeletion",
)
"""Everything an owner needs, and nothing that uses the key or grants its use. Whoever may put a policy can undo it."""

Measurement = Mapping[int, bytes | str]

_ARN = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:(root|(user|role)/[\w+=,.@/-]{1,512})", re.ASCII)
_TENANT = re.compile(r"[^*?${}]{1,128}")


class KeyPolicyError(MrgcError):
    """Arguments that make no safe key policy."""


def tenant_key_policy(
    tenant_admin_arn: str,
    tenant_principal_arn: str,
    platform_role_arns: str | Sequence[str],
    pcrs: Measurement | Sequence[Measurement],
    *,
    tenant_id: str | None = None,
) -> dict[str, Any]:
    """Return the policy document as plain values, ready for `json.dumps`.

    `platform_role_arns` is the hosts' role, or several: every region's hosts have a role of their own.
    `pcrs` is one measurement or several (old and new image during a roll-out), each naming PCR0, PCR1 and PCR2, never
    zero, and PCR8 where the image is signed, as 48 bytes or 96 hex digits. The encryption context must be exactly the
    protocol's three keys; with `tenant_id` its `mrgc:tenant` must be that tenant. Raises `KeyPolicyError`.
    """
    roles = [platform_role_arns] if isinstance(platform_role_arns, str) else list(platform_role_arns)
    if not 0 < len(roles) <= MAX_PLATFORM_ROLES:
        raise KeyPolicyError(f"{len(roles)} platform roles were given; 1 to {MAX_PLATFORM_ROLES} are allowed.")
    for arn in (tenant_admin_arn, tenant_principal_arn, *roles):
        if not _ARN.fullmatch(arn):
            raise KeyPolicyError(f"{arn!r} is not the ARN of an account, a user or a role.")
    if tenant_admin_arn in roles or tenant_principal_arn in roles:
        raise KeyPolicyError("The platform's role can't also own or use the tenant's key.")
    if tenant_id is not None and not _TENANT.fullmatch(tenant_id):
        raise KeyPolicyError("The tenant's id is not 1 to 128 characters without * ? $ { }, which policies interpret.")
    measurements = [pcrs] if isinstance(pcrs, Mapping) else list(pcrs)
    if not 0 < len(measurements) <= MAX_MEASUREMENTS:
        raise KeyPolicyError(f"{len(measurements)} measurements were given; 1 to {MAX_MEASUREMENTS} are allowed.")
    context = _context_conditions(tenant_id)
    decrypts = [
        {
            "Sid": f"AttestedEnclaveDecrypts{number}",
            "Effect": "Allow",
            "Principal": {"AWS": roles[0] if len(roles) == 1 else roles},
            "Action": "kms:Decrypt",
            "Resource": "*",
            "Condition": {**context, "StringEqualsIgnoreCase": _attestation_conditions(measurement)},
        }
        for number, measurement in enumerate(measurements)
    ]
    return {
        "Version": "2012-10-17",
        "Id": "mrgc-tenant-key",
        "Statement": [
            {
                "Sid": "TenantManages",
                "Effect": "Allow",
                "Principal": {"AWS": tenant_admin_arn},
                "Action": list(ADMIN_ACTIONS),
                "Resource": "*",
            },
            {
                "Sid": "TenantWraps",
                "Effect": "Allow",
                "Principal": {"AWS": tenant_principal_arn},
                "Action": "kms:GenerateDataKey",
                "Resource": "*",
                "Condition": context,
            },
            *decrypts,
        ],
    }


def _context_conditions(tenant_id: str | None) -> dict[str, dict[str, Any]]:
    """Bind the encryption context: no other keys, and each of the three there."""
    conditions: dict[str, dict[str, Any]] = {
        "ForAllValues:StringEquals": {"kms:EncryptionContextKeys": list(CONTEXT_KEYS)},
        "StringLike": {f"kms:EncryptionContext:{key}": "?*" for key in CONTEXT_KEYS},
    }
    if tenant_id is not None:
        del conditions["StringLike"]["kms:EncryptionContext:mrgc:tenant"]
        conditions["StringEquals"] = {"kms:EncryptionContext:mrgc:tenant": tenant_id}
    return conditions


def _attestation_conditions(measurement: Measurement) -> dict[str, str]:
    missing = [index for index in REQUIRED_PCRS if index not in measurement]
    if missing:
        raise KeyPolicyError(f"A measurement lacks PCR{missing[0]}; PCR0, PCR1 and PCR2 are required.")
    unknown = [index for index in measurement if type(index) is not int or not 0 <= index < MAX_PCRS]
    if unknown:
        raise KeyPolicyError(f"A measurement names PCR {unknown[0]!r}; there are PCR0 to PCR{MAX_PCRS - 1}.")
    return {f"kms:RecipientAttestation:PCR{index}": _hex(index, measurement[index]) for index in sorted(measurement)}


def _hex(index: int, value: bytes | str) -> str:
    try:
        register = bytes.fromhex(value) if isinstance(value, str) else value
    except ValueError:
        raise KeyPolicyError(f"PCR{index} of a measurement is not hexadecimal.") from None
    if len(register) != PCR_BYTES:
        raise KeyPolicyError(f"PCR{index} of a measurement is not {PCR_BYTES} bytes.")
    if index in REQUIRED_PCRS and not any(register):
        raise KeyPolicyError(f"PCR{index} of a measurement is zero, which is every debug enclave's.")
    return register.hex()
