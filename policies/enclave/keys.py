"""Which KMS resources are a tenant's key, and what their policy says.

A key is a tenant's if anything about it says so: its tag, the component that it belongs to, or a policy that names an
attestation document anywhere. So dropping one of them, the tag say, leaves the rules in force. A policy attached to a
key by a resource of its own (`aws:kms/keyPolicy:KeyPolicy`) replaces the key's policy and does not say whose key it
is: it is judged as a tenant's, always.
"""

from __future__ import annotations

import json
from typing import Any, Final

from policies.rule import UNKNOWN, DocumentError, Resource, document, known, tags
from policies.statements import Statement, statements

KEY: Final = "aws:kms/key:Key"
EXTERNAL_KEY: Final = "aws:kms/externalKey:ExternalKey"
REPLICA_KEY: Final = "aws:kms/replicaKey:ReplicaKey"
REPLICA_EXTERNAL_KEY: Final = "aws:kms/replicaExternalKey:ReplicaExternalKey"
KEY_POLICY: Final = "aws:kms/keyPolicy:KeyPolicy"

PRIMARIES: Final = (KEY, EXTERNAL_KEY)
REPLICAS: Final = (REPLICA_KEY, REPLICA_EXTERNAL_KEY)
KEYS: Final = (*PRIMARIES, *REPLICAS)
WITH_POLICY: Final = (*KEYS, KEY_POLICY)

WHOSE_TAG: Final = "mrgc:key"
TENANT_TAG: Final = "mrgc:tenant"
TENANT: Final = "tenant"
PLATFORM: Final = "platform"
TENANT_COMPONENT: Final = "mrgc:tenant_key:"
ATTESTATION_KEYS: Final = "kms:recipientattestation:"
"""Prefix of the condition keys, in lower case."""


def whose(resource: Resource) -> Any:
    """What a key's tag says: its value in lower case, None for no tag, `UNKNOWN` where tags are not known."""
    if resource.at("tags") is UNKNOWN or resource.at("tags", WHOSE_TAG) is UNKNOWN:
        return UNKNOWN
    value = tags(resource).get(WHOSE_TAG)
    return None if value is None else value.lower()


def claims_tenant(resource: Resource) -> bool:
    """Whether the resource says, other than by its policy, that it is a tenant's. An unknown tag counts as that."""
    return (
        resource.type == KEY_POLICY
        or whose(resource) in (TENANT, UNKNOWN)
        or TENANT_TAG in tags(resource)
        or any(component.startswith(TENANT_COMPONENT) for component in resource.components)
    )


def is_tenant_key(resource: Resource) -> bool:
    """Whether the resource is a tenant's key or its policy.

    Where nothing but an unknown policy could tell, asks the engine to come back with it (`known`).
    """
    if claims_tenant(resource):
        return True
    policy = known(resource.at("policy"), "policy")
    try:
        # As written anew, so that no spelling of JSON (escapes) hides the name.
        text = json.dumps(document(policy), ensure_ascii=False)
    except (DocumentError, TypeError):
        text = str(policy)
    return ATTESTATION_KEYS in text.lower()


def policy_problem(resource: Resource) -> str | None:
    """Why a policy can't be judged at all, as a clause about it; None where it can."""
    try:
        read = document(resource.at("policy"))
        if read is UNKNOWN:
            return "is not known before the update: make it of plain values"
        odd = [f"{one.label} has {oddity}" for one in statements(read) for oddity in one.oddities]
    except DocumentError as error:
        return str(error)
    return f"can't be read with certainty: {'; '.join(odd)}" if odd else None


def allows(resource: Resource) -> list[Statement]:
    """The statements of a policy that allow something; none for a policy that can't be judged.

    A Deny takes away and never gives, so it makes no difference to what must not be given.
    """
    if policy_problem(resource) is not None:
        return []
    return [one for one in statements(document(resource.at("policy"))) if one.allow]
