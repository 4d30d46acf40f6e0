"""Rules over tenants' keys: decrypting under attestation only, and no way around it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from policies.enclave.keys import ATTESTATION_KEYS, WITH_POLICY, allows, is_tenant_key, policy_problem
from policies.enclave.measurements import MEASUREMENTS, REGISTERS, SIGNER, agrees, fault, published
from policies.rule import Config, Resource, ResourceRule, Rule, Setting, like, listed
from policies.statements import EVERYONE, Statement

DECRYPT: Final = "kms:Decrypt"
ATTESTED_OPERATOR: Final = "StringEqualsIgnoreCase"
CONTEXT: Final = ("mrgc:tenant", "mrgc:session", "mrgc:expires")
"""The encryption context of a data key: exactly these."""

NEVER: Final = (
    "kms:CreateGrant",
    "kms:ReEncryptFrom",
    "kms:DeriveSharedSecret",
    "kms:GenerateDataKeyPair",
    "kms:GenerateDataKeyPairWithoutPlaintext",
    "kms:ImportKeyMaterial",
)
"""Allowed to nobody: each hands the key's use on, or takes what it protects elsewhere, without attestation."""

OWNERS: Final = (
    "kms:PutKeyPolicy",
    "kms:ReplicateKey",
    "kms:UpdatePrimaryRegion",
    "kms:ScheduleKeyDeletion",
    "kms:DisableKeyRotation",
    "kms:TagResource",
    "kms:UntagResource",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:Encrypt",
)
"""The tenant's own. A replica gets whatever policy its maker names, so replicating is as much as putting a policy."""

PLATFORMS: Final = (DECRYPT, "kms:DescribeKey")
"""All that the platform's roles may be allowed of a tenant's key; decrypting is judged by other rules besides."""

PLATFORM_ROLES: Final = Setting(
    name="platformRolePatterns",
    description="ARN patterns (* and ?) of the platform's roles. They may decrypt under attestation and nothing else. "
    "Whoever a policy lets decrypt counts as one of them, listed here or not.",
    default=["arn:*:iam::*:role/mrgc-*-??-*-?-*", "arn:*:iam::*:role/*/mrgc-*-??-*-?-*"],
    schema={"type": "array", "items": {"type": "string"}},
)

_ARN: Final = re.compile(r"arn:aws[a-z-]*:iam::([0-9]{12}):(root|(user|role)/[\w+=,.@/-]+)", re.ASCII)
_ACCOUNT: Final = re.compile(r"[0-9]{12}", re.ASCII)


def attested_decrypt(resource: Resource, _: Config) -> Iterator[str]:
    """Every statement that allows `kms:Decrypt` names PCR0, PCR1 and PCR2 by `StringEqualsIgnoreCase`."""
    if not is_tenant_key(resource):
        return
    problem = policy_problem(resource)
    if problem is not None:
        yield f"The policy of this tenant key {problem}."
    for statement in allows(resource):
        if not statement.reaches(DECRYPT):
            continue
        lacking = [index for index in REGISTERS if _register(statement, index) is None]
        if lacking:
            yield (
                f"{statement.label} allows {DECRYPT} without {_names(lacking)} of an attestation document under "
                f"{ATTESTED_OPERATOR}; another operator, IfExists or a set operator does not bind them."
            )


def measured(resource: Resource, config: Config) -> Iterator[str]:
    """The registers that a statement names are those of one published image."""
    if not is_tenant_key(resource):
        return
    for statement in allows(resource):
        if not statement.reaches(DECRYPT) or any(_register(statement, index) is None for index in REGISTERS):
            continue
        registers: dict[int, str] = {}
        faults: list[str] = []
        for index in (*REGISTERS, SIGNER):
            values = _register(statement, index)
            if values is None:
                continue
            if len(values) != 1:
                faults.append(f"lists {len(values)} values of PCR{index}, which mixes images: one statement an image")
                continue
            problem = fault(values[0], index)
            if problem is not None:
                faults.append(f"names a PCR{index} that {problem}")
            registers[index] = str(values[0])
        if not faults and not agrees(registers, published(config)):
            faults.append(f"names {_names(list(registers))} of no published image")
        yield from (f"{statement.label} {one}." for one in faults)


def no_bypass(resource: Resource, _: Config) -> Iterator[str]:
    """No statement, principal or wildcard of a tenant's key goes around the attested decryption."""
    if not is_tenant_key(resource):
        return
    for statement in allows(resource):
        yield from (f"{statement.label} {one}." for one in _bypasses(statement))


def _bypasses(statement: Statement) -> Iterator[str]:
    if statement.not_principal:
        yield "allows by NotPrincipal, which lets in everyone that it does not name"
    elif statement.not_action:
        yield "allows by NotAction, which allows everything that it does not name"
    else:
        yield from _principal_bypasses(statement)
        yield from _action_bypasses(statement)


def _principal_bypasses(statement: Statement) -> Iterator[str]:
    if not statement.principals:
        yield "names no principal"
    for kind, name in statement.principals:
        if (kind, name) == EVERYONE or (kind == "AWS" and "*" in name):
            yield f"allows every principal that {name!r} matches"
        elif kind != "AWS":
            yield f"allows the {kind} principal {name}, which attests nothing"
        elif not _ARN.fullmatch(name) and not _ACCOUNT.fullmatch(name):
            yield f"allows {name!r}, which is not the ARN of an account, a user or a role"
        elif statement.reaches(DECRYPT) and _account_of_root(name) is not None:
            yield f"lets the whole account {name} decrypt, and its IAM policies say who: name the role"


def _action_bypasses(statement: Statement) -> Iterator[str]:
    for pattern in statement.actions:
        wild = "*" in pattern or "?" in pattern
        if wild and any(like(action, pattern) for action in (DECRYPT, *NEVER, *OWNERS)):
            yield f"allows {pattern}: name each action"
        elif any(like(action, pattern) for action in NEVER):
            yield f"allows {pattern}, which goes around the conditions of {DECRYPT}"
        elif statement.reaches(DECRYPT) and not like(DECRYPT, pattern):
            yield f"allows {pattern} together with {DECRYPT}: give {DECRYPT} a statement of its own"


def context_bound(resource: Resource, _: Config) -> Iterator[str]:
    """Using a tenant's key takes exactly the protocol's encryption context."""
    if not is_tenant_key(resource):
        return
    for statement in allows(resource):
        if not statement.reaches_any((DECRYPT, "kms:GenerateDataKey")):
            continue
        keys = statement.condition("ForAllValues:StringEquals", "kms:encryptioncontextkeys")
        if keys is None or not all(value in CONTEXT for value in keys.values):
            yield f"{statement.label} does not keep the encryption context to {', '.join(CONTEXT)}."
        missing = [name for name in CONTEXT if not _context_value(statement, name)]
        if missing:
            yield f"{statement.label} does not require {', '.join(missing)} in the encryption context."


def _context_value(statement: Statement, name: str) -> bool:
    key = f"kms:encryptioncontext:{name}"
    return any(statement.condition(operator, key) is not None for operator in ("StringEquals", "StringLike"))


def no_platform_control(resource: Resource, config: Config) -> Iterator[str]:
    """The platform's roles get nothing of a tenant's key but decrypting under attestation."""
    if not is_tenant_key(resource):
        return
    found = allows(resource)
    decrypting = {name for one in found if one.reaches(DECRYPT) for kind, name in one.principals if kind == "AWS"}
    accounts = {match[1] for match in map(_ARN.fullmatch, decrypting) if match}
    patterns = [str(pattern) for pattern in listed(PLATFORM_ROLES.read(config))]
    for statement in found:
        # What NotAction leaves out has no name of its own, so there the actions that matter are shown.
        actions = [one for one in statement.actions if not any(like(one, allowed) for allowed in PLATFORMS)]
        actions = statement.reaches_any((*OWNERS, *NEVER)) if statement.not_action else actions
        if not actions:
            continue
        for kind, name in statement.principals:
            if kind != "AWS":
                continue
            if name in decrypting or any(like(name, pattern) for pattern in patterns):
                yield f"{statement.label} allows {_some(actions)} to {name}, a role of the platform."
            elif account_of(name) in accounts:
                yield (
                    f"{statement.label} allows {_some(actions)} to {name}, of the account of the role that decrypts: "
                    f"the platform's own IAM policies would decide who changes the key."
                )


def _register(statement: Statement, index: int) -> tuple[Any, ...] | None:
    """The values of a register that bind: under the one operator; None where nothing binds it."""
    found = statement.condition(ATTESTED_OPERATOR, f"{ATTESTATION_KEYS}pcr{index}")
    return found.values if found is not None and found.values else None


def _account_of_root(name: str) -> str | None:
    """The account that a principal stands for as a whole, or None."""
    match = _ARN.fullmatch(name)
    if match and match[2] == "root":
        return match[1]
    return name if _ACCOUNT.fullmatch(name) else None


def account_of(name: str) -> str | None:
    """The account that a principal is of, or stands for."""
    match = _ARN.fullmatch(name)
    return match[1] if match else _account_of_root(name)


def _names(registers: list[int]) -> str:
    return ", ".join(f"PCR{index}" for index in registers)


def _some(actions: list[str], most: int = 3) -> str:
    rest = len(actions) - most
    return ", ".join(actions[:most]) + (f" and {rest} more" if rest > 0 else "")


RULES: Final[list[Rule]] = [
    ResourceRule(
        "tenant-key-attested-decrypt",
        attested_decrypt,
        types=WITH_POLICY,
        protects="A tenant's key decrypts only for an enclave that proves what it runs: without the condition, the "
        "platform's credentials alone would open every data key.",
        fix="Allow kms:Decrypt only under StringEqualsIgnoreCase on kms:RecipientAttestation:PCR0, PCR1 and PCR2, in "
        "a policy of plain values (tenant_key_policy writes one).",
    ),
    ResourceRule(
        "tenant-key-measurements",
        measured,
        types=WITH_POLICY,
        settings=(MEASUREMENTS,),
        protects="The enclaves that a tenant's key decrypts for are the published ones: any other measurement, or the "
        "zeros of a debug enclave, lets in code that nobody has reviewed.",
        fix="Name PCR0, PCR1 and PCR2, and PCR8 where the image is signed, of one published image a statement, 96 hex "
        "digits each.",
    ),
    ResourceRule(
        "tenant-key-no-bypass",
        no_bypass,
        types=WITH_POLICY,
        protects="No statement, principal or wildcard beside the attested one reaches what a tenant's key protects.",
        fix="Name every principal by its ARN and every action by its name, give kms:Decrypt a statement of its own, "
        "and allow neither grants, re-encryption nor key pairs.",
    ),
    ResourceRule(
        "tenant-key-encryption-context",
        context_bound,
        types=WITH_POLICY,
        protects="A data key is bound to its tenant, its session and its end: without that, one session's wrapped key "
        "could be passed off as another's.",
        fix="Require mrgc:tenant, mrgc:session and mrgc:expires by StringEquals or StringLike, and no other key by "
        "ForAllValues:StringEquals on kms:EncryptionContextKeys.",
    ),
    ResourceRule(
        "tenant-key-no-platform-control",
        no_platform_control,
        types=WITH_POLICY,
        settings=(PLATFORM_ROLES,),
        protects="Whoever may put a key's policy, replicate it or make grants can undo its conditions, so the platform "
        "may do none of it.",
        fix="Give kms:PutKeyPolicy, kms:ReplicateKey, kms:GenerateDataKey and the like to the tenant's own principals, "
        "in an account that the decrypting role is not in.",
    ),
]
