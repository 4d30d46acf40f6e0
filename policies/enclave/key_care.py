"""Rules over every KMS key: whose it is, that it rotates, that replicas repeat the policy, that there are no grants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from policies.enclave.keys import (
    EXTERNAL_KEY,
    KEYS,
    PLATFORM,
    PRIMARIES,
    REPLICA_EXTERNAL_KEY,
    REPLICAS,
    TENANT,
    WHOSE_TAG,
    claims_tenant,
    whose,
)
from policies.rule import (
    UNKNOWN,
    Config,
    DocumentError,
    Resource,
    ResourceRule,
    Rule,
    StackRule,
    document,
    is_true,
    known,
)

GRANT: Final = "aws:kms/grant:Grant"
MOST_DAYS: Final = 365
"""Rotated at least once a year, which is also what KMS does by default."""


def says_whose(resource: Resource, _: Config) -> Iterator[str]:
    """A key's tag says whose it is, and nothing else about the key says otherwise."""
    said = whose(resource)
    if said not in (TENANT, PLATFORM):
        told = "is not known before the update" if said is UNKNOWN else f"is {said!r}" if said else "is missing"
        yield f"The tag {WHOSE_TAG} {told}; it is {TENANT!r} or {PLATFORM!r}."
    elif said == PLATFORM and claims_tenant(resource):
        yield f"The tag {WHOSE_TAG} says {PLATFORM!r}, but the key is made as a tenant's."


def rotates(resource: Resource, _: Config) -> Iterator[str]:
    """A key is replaced under its ARN once a year or more often."""
    if resource.type in (EXTERNAL_KEY, REPLICA_EXTERNAL_KEY):
        yield "A key of imported material can't be rotated by KMS, and who imported it has it; make an aws.kms.Key."
        return
    for key in ("customKeyStoreId", "xksKeyId"):
        if resource.at(key) is UNKNOWN or resource.at(key) not in (None, ""):
            yield f"{key} is set: whoever runs that key store opens what KMS would not, and KMS can't rotate the key."
    if not is_true(resource.at("enableKeyRotation")):
        yield "Rotation is not enabled."
    days = resource.at("rotationPeriodInDays")
    if days is UNKNOWN or (days is not None and float(days) > MOST_DAYS):
        yield f"The rotation period is {days} days; {MOST_DAYS} are the most."


def own_policy(resource: Resource, _: Config) -> Iterator[str]:
    """A replica states a policy: without one, AWS gives it the default, which opens it to the account's IAM."""
    if resource.at("policy") in (None, ""):
        yield "This replica has no policy of its own, so AWS gives it the default one, which allows the account all."


def replicas_repeat(resources: Sequence[Resource], _: Config) -> Iterator[tuple[str, str | None]]:
    """A replica's policy says what its primary's says, statement for statement."""
    by_urn = {one.urn: one for one in resources}
    by_arn = {one.at("arn"): one for one in resources if one.type in PRIMARIES and isinstance(one.at("arn"), str)}
    for replica in resources:
        if replica.type not in REPLICAS:
            continue
        arn = replica.at("primaryKeyArn")
        sources = (by_urn.get(urn) for urn in replica.depends.get("primaryKeyArn", ()))
        primary = next((one for one in sources if one is not None and one.type in PRIMARIES), by_arn.get(arn))
        if primary is None:
            yield (
                f"{replica.name} replicates a key that is not of this program; nothing shows its policy.",
                replica.urn,
            )
            continue
        if _policy(replica) != _policy(primary):
            yield f"{replica.name} has another policy than its primary {primary.name}.", replica.urn


def _policy(key: Resource) -> Any:
    policy = known(key.at("policy"), f"{key.name}.policy")
    try:
        return known(document(policy), f"{key.name}.policy")
    except DocumentError:
        # Each unreadable policy is unlike every other, so the two are told apart.
        return object()


def no_grants(resource: Resource, _: Config) -> Iterator[str]:
    """There is no grant: it stands beside the key's policy, and no condition of the policy applies to it."""
    operations = resource.at("operations")
    shown = ", ".join(map(str, operations)) if isinstance(operations, list) else str(operations)
    yield f"A grant gives {shown} to {resource.at('granteePrincipal')!s} beside the key's policy."


RULES: Final[list[Rule]] = [
    ResourceRule(
        "kms-key-says-whose",
        says_whose,
        types=KEYS,
        protects="Every key is known as a tenant's or the platform's, so that none slips past the rules of tenants' "
        "keys for want of a name.",
        fix=f"Tag each key and each replica {WHOSE_TAG} = {TENANT} or {PLATFORM}.",
    ),
    ResourceRule(
        "kms-key-rotates",
        rotates,
        types=(*PRIMARIES, REPLICA_EXTERNAL_KEY),
        protects="A key's material is replaced every year, so that material once lost does not open what is sealed "
        "later.",
        fix=f"Set enable_key_rotation and no rotation period above {MOST_DAYS} days, on a key of KMS's own material.",
    ),
    ResourceRule(
        "kms-replica-own-policy",
        own_policy,
        types=REPLICAS,
        protects="A replica is a key of its own, with its own policy: AWS's default one lets the account's IAM "
        "policies decrypt without attestation.",
        fix="Give every replica the policy of its primary.",
    ),
    StackRule(
        "kms-replica-repeats-policy",
        replicas_repeat,
        protects="A key is as safe as the weakest of its replicas: they hold the same material.",
        fix="Make the replicas in the primary's program, with the same policy document.",
    ),
    ResourceRule(
        "kms-no-grants",
        no_grants,
        types=(GRANT,),
        protects="A grant allows what a key's policy does not, without its attestation conditions.",
        fix="Remove the grant; allow what is needed in the key's policy.",
    ),
]
