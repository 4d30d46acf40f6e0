"""Rules over accounts: everything stands in one, and nobody of another is named, let in or trusted.

Which account that is, the providers say (`allowedAccountIds`), which AWS's provider itself compares with its
credentials before it makes anything; or the setting `account` says it. Tenants' accounts are named in two places
only: in the policies of their own keys, which the enclave pack judges, and as whom the endpoint services admit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from policies.rule import (
    UNKNOWN,
    Config,
    ConfigurationError,
    DocumentError,
    Resource,
    ResourceRule,
    Rule,
    Setting,
    StackRule,
    at,
    document,
    is_true,
    known,
    listed,
    tags,
    walk,
)
from policies.statements import Condition, Statement, statements

PROVIDER: Final = "pulumi:providers:aws"
SERVICE: Final = "aws:ec2/vpcEndpointService:VpcEndpointService"
PRINCIPAL: Final = "aws:ec2/vpcEndpointServiceAllowedPrinciple:VpcEndpointServiceAllowedPrinciple"
ROLE: Final = "aws:iam/role:Role"
PERMISSION: Final = "aws:lambda/permission:Permission"
JUDGED_ELSEWHERE: Final = (
    "aws:ec2/vpcEndpoint:VpcEndpoint",
    "aws:ec2/vpcEndpointPolicy:VpcEndpointPolicy",
    "aws:iam/policy:Policy",
    "aws:iam/rolePolicy:RolePolicy",
    "aws:iam/userPolicy:UserPolicy",
    "aws:iam/groupPolicy:GroupPolicy",
    "aws:kms/keyPolicy:KeyPolicy",
)
"""Endpoints' policies have a rule of their own; roles' name no principal; a key's apart is judged as a tenant's."""
KEYS: Final = ("aws:kms/key:Key", "aws:kms/replicaKey:ReplicaKey")

ACCOUNT: Final = Setting(
    name="account",
    description="The platform's account, twelve digits. While it is empty, it is the one that a resource's provider "
    "allows (allowedAccountIds).",
    default="",
    schema={"type": "string", "pattern": "^([0-9]{12})?$"},
)

_DIGITS: Final = re.compile(r"[0-9]{12}", re.ASCII)
_ARN: Final = re.compile(r"arn:aws[a-z-]*:[a-z0-9-]+:[a-z0-9*-]*:([0-9]{12}):", re.ASCII)
_REGISTRY: Final = re.compile(r"([0-9]{12})\.dkr[.-]ecr", re.ASCII)
ACCOUNT_KEYS: Final = frozenset(
    {
        "account",
        "accountId",
        "accountIds",
        "awsAccountId",
        "expectedBucketOwner",
        "ownerId",
        "ownerAccountId",
        "peerAccountId",
        "peerOwnerId",
        "registryId",
        "sharedAccounts",
        "sourceAccount",
        "userIds",
    }
)
"""Properties that hold an account by its digits."""
POLICIES: Final = ("policy", "policyDocument", "accessPolicy", "assumeRolePolicy", "resourcePolicy")
"""Properties that hold a policy; whatever else reads as one is judged as well."""

EQUAL: Final = ("StringEquals", "StringEqualsIgnoreCase", "StringLike")
BY_ARN: Final = (*EQUAL, "ArnEquals", "ArnLike")
WHOSE_ACCOUNT: Final = ("aws:principalaccount", "aws:sourceaccount", "kms:calleraccount")
WHOSE_ARN: Final = ("aws:principalarn", "aws:sourcearn", "kms:encryptioncontext:aws:logs:arn")
HARMLESS: Final = ("kms:describekey",)
"""What any AWS service may ask whoever it asks for: DynamoDB watches its tables' keys so."""


def account(resource: Resource, config: Config) -> str:
    """The account that a resource is in, twelve digits. Raises ConfigurationError where nothing says it."""
    given = ACCOUNT.read(config)
    found = [given] if given else allowed(resource.provider)
    if len(found) != 1 or not _DIGITS.fullmatch(str(found[0])):
        raise ConfigurationError(
            f"The account of {resource.name} is not known: give its provider one of allowed_account_ids, or set the "
            f"property account of this rule."
        )
    return str(found[0])


def allowed(provider: Mapping[str, Any] | None) -> list[str]:
    """The accounts that a provider may work in; a provider's lists are JSON texts, or lists."""
    value = known(at(provider, "allowedAccountIds"), "allowedAccountIds")
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return []
    return [str(one) for one in listed(value)]


def account_of(name: str) -> str | None:
    """The account that an ARN, or an account by its digits, is of; None for neither."""
    match = _ARN.match(name)
    return match[1] if match else name if _DIGITS.fullmatch(name) else None


def bound(statement: Statement, mine: str) -> bool:
    """Whether a condition holds for callers of the account alone."""
    return any(_binds(one, mine) for one in statement.conditions)


def _binds(one: Condition, mine: str) -> bool:
    if not one.values:
        return False
    if one.key in WHOSE_ACCOUNT:
        return one.operator in EQUAL and all(value == mine for value in one.values)
    if one.key in WHOSE_ARN:
        return one.operator in BY_ARN and all(account_of(str(value)) == mine for value in one.values)
    return False


def provider_is_of_one(resource: Resource, config: Config) -> Iterator[str]:
    """A provider works in one account, and speaks with AWS itself."""
    found = allowed(resource.props)
    given = ACCOUNT.read(config)
    if len(found) != 1:
        yield f"It may work in {' and '.join(found) or 'any account'}; name the platform's in allowed_account_ids."
    elif given and found != [given]:
        yield f"It works in {found[0]}; the platform's account is {given}."
    if known(resource.at("endpoints"), "endpoints") not in (None, "", "[]", []):
        yield "endpoints is set; its requests, and their credentials, would go elsewhere than to AWS."
    if is_true(known(resource.at("insecure"), "insecure")):
        yield "insecure is true; whoever is between could answer for AWS."


def one_account(resources: Sequence[Resource], config: Config) -> Iterator[tuple[str, str | None]]:
    """All providers work in the same account."""
    found = {account(one, config): one for one in reversed(resources) if allowed(one.provider)}
    if len(found) > 1:
        yield f"The resources are in {len(found)} accounts: {', '.join(sorted(found))}.", None


def names_no_other(resource: Resource, config: Config) -> Iterator[str]:
    """No property names a resource, a registry or an account that is not the platform's."""
    if resource.type in (SERVICE, PRINCIPAL):
        return  # Tenants are admitted there, one by one.
    for path, value in walk(resource.props):
        if not isinstance(value, str):
            continue
        named = {match[1] for expression in (_ARN, _REGISTRY) for match in expression.finditer(value)}
        if any(part in ACCOUNT_KEYS for part in path[-2:]) and _DIGITS.fullmatch(value):
            named.add(value)
        if named and not _is_policy(value):
            for other in sorted(named - {account(resource, config)}):
                yield f"{'.'.join(path)} names the account {other}."


def _is_policy(text: str) -> bool:
    """Whether a text is a policy document, whose accounts are judged statement by statement."""
    return _policy(text) is not None


def _policy(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, str) and not value.lstrip().startswith("{"):
        return None
    try:
        found = document(value) if isinstance(value, str | Mapping) else None
    except DocumentError:
        return None
    return found if isinstance(found, Mapping) and any(key.lower() == "statement" for key in found) else None


def lets_no_stranger_in(resource: Resource, config: Config) -> Iterator[str]:
    """Policies of resources and trust of roles are for this account, and for AWS's services on its behalf."""
    if resource.type in JUDGED_ELSEWHERE or (resource.type in KEYS and tags(resource).get("mrgc:key") == "tenant"):
        return
    if resource.type == PERMISSION:
        yield from _permission(resource, config)
    if resource.type in KEYS and resource.at("policy") in (None, ""):
        yield "It has no policy, so that AWS's default one leaves the key to the account's IAM policies."
    for key, value in resource.props.items():
        try:
            found = list(_of_resource(key, value))
        except DocumentError as error:
            yield f"Its {key} {error}."
            continue
        for one in found:
            yield from _admitted(one, account(resource, config), trust=resource.type == ROLE)


def _of_resource(key: str, value: Any) -> Iterator[Statement]:
    """The statements of a property that allow somebody something; none where it holds no policy of a resource."""
    if key in POLICIES and value is not UNKNOWN and value not in (None, ""):
        # A lifecycle is called a policy as well, and has no statements.
        read = document(value)
        if read is not UNKNOWN and not any(name.lower() == "statement" for name in read):
            return
    elif key not in POLICIES and _policy(value) is None:
        return
    if value is UNKNOWN or value not in (None, ""):
        found = statements(known(document(value), key))
        yield from (one for one in found if one.allow and (one.principals or one.not_principal))


def _admitted(one: Statement, mine: str, *, trust: bool) -> Iterator[str]:
    if one.oddities:
        yield f"{one.label} has {one.oddities[0]}; write it so that it can be judged."
        return
    if one.not_principal:
        yield f"{one.label} admits by NotPrincipal, which is everyone that it does not name."
        return
    closed = bound(one, mine)
    for kind, name in one.principals:
        # A role names the service that takes it; elsewhere a service also works for strangers, who could send it.
        service = kind == "Service" and (trust or all(action.lower() in HARMLESS for action in one.actions))
        if kind not in ("AWS", "Service", "*"):
            yield f"{one.label} admits whoever {name} ({kind}) says; name roles of this account."
        elif not (closed or service or (kind == "AWS" and account_of(name) == mine)):
            yield f"{one.label} admits {name} without a condition that holds it to the account {mine}."
        elif not trust and account_of(name) is None and any(_every(action) for action in one.actions):
            yield f"{one.label} allows {name} every action; name those that are needed."


def _every(action: str) -> bool:
    return action == "*" or action.endswith(":*")


def _permission(resource: Resource, config: Config) -> Iterator[str]:
    """A function's permission names the account or its resource on whose behalf a service calls."""
    mine = account(resource, config)
    who = str(known(resource.at("principal"), "principal"))
    if account_of(who) == mine:
        return
    source = known(resource.at("sourceArn"), "sourceArn")
    if not who.endswith(".amazonaws.com"):
        yield f"It lets {who} call the function; name an AWS service, or the account {mine}."
    elif resource.at("sourceAccount") != mine and account_of(str(source)) != mine:
        yield f"It lets {who} call the function for anybody; give source_account, or a source_arn of {mine}."


RULES: Final[list[Rule]] = [
    ResourceRule(
        "provider-names-its-account",
        provider_is_of_one,
        protects="What was reviewed is created where it was meant to be, whosever credentials lie about, and by AWS.",
        fix="Give each provider allowed_account_ids with the platform's account, and no endpoints of its own.",
        types=(PROVIDER,),
        settings=(ACCOUNT,),
    ),
    StackRule(
        "one-account",
        one_account,
        protects="The rules take what is of the account for the platform's, and what is of another for a stranger's.",
        fix="Give all providers the same account.",
        settings=(ACCOUNT,),
    ),
    ResourceRule(
        "no-other-account",
        names_no_other,
        protects="Keys, roles, images and destinations are the platform's own; a stranger's could be changed, or read, "
        "by the stranger.",
        fix="Name resources of the platform's account; tenants are named as allowed principals alone.",
        types=("aws:",),
        settings=(ACCOUNT,),
    ),
    ResourceRule(
        "policies-admit-no-stranger",
        lets_no_stranger_in,
        protects="A bucket's, a topic's, a key's or a function's policy, or a role's trust, is enough for another "
        "account to come in, whatever the network is like.",
        fix="Name principals of the account, or bind everybody and services to it by aws:PrincipalAccount, "
        "aws:SourceAccount, aws:SourceArn or kms:CallerAccount.",
        types=("aws:",),
        settings=(ACCOUNT,),
    ),
]
