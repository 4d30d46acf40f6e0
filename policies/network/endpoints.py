"""Rules over VPC endpoints: one for every AWS service that is called from within, each with a policy that bounds it.

What is called from within is read from the IAM policies of the roles that instances, tasks and functions in a network
take: a role that may ask a service which has no endpoint could never do so, or would need a way to the internet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from policies.network.accounts import ACCOUNT, account, account_of, bound
from policies.network.addresses import VPC
from policies.network.configuration import TEXTS
from policies.network.links import Links
from policies.rule import (
    UNKNOWN,
    Config,
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
)
from policies.statements import Statement, statements

ENDPOINT: Final = "aws:ec2/vpcEndpoint:VpcEndpoint"
ENDPOINT_POLICY: Final = "aws:ec2/vpcEndpointPolicy:VpcEndpointPolicy"
SERVICE: Final = "aws:ec2/vpcEndpointService:VpcEndpointService"
PRINCIPAL: Final = "aws:ec2/vpcEndpointServiceAllowedPrinciple:VpcEndpointServiceAllowedPrinciple"
ROLE: Final = "aws:iam/role:Role"
POLICY: Final = "aws:iam/policy:Policy"
ROLE_POLICY: Final = "aws:iam/rolePolicy:RolePolicy"
POLICY_ATTACHMENT: Final = "aws:iam/rolePolicyAttachment:RolePolicyAttachment"
FUNCTION: Final = "aws:lambda/function:Function"

INSIDE: Final = ("ec2.amazonaws.com", "ecs-tasks.amazonaws.com")
"""Who takes roles of what stands in a network; functions do where they have a vpcConfig."""
FUNCTIONS: Final = "lambda.amazonaws.com"

ALWAYS: Final = Setting(
    name="services",
    description="Services with an endpoint in every region, whatever roles may do, as service names end.",
    default=["s3", "dynamodb", "kms", "sts", "ecr.api", "ecr.dkr", "logs", "monitoring", "ec2"],
    schema=TEXTS,
)
BY_ACTION: Final = Setting(
    name="endpointsByAction",
    description="Which endpoints an action's prefix needs, where they are not called the same.",
    default={
        "ecr": ["ecr.api", "ecr.dkr", "s3"],
        "cloudwatch": ["monitoring"],
        "tag": ["tagging"],
        "kinesis": ["kinesis-streams"],
        "states": ["states"],
    },
    schema={"type": "object", "additionalProperties": TEXTS},
)
_ARN_SERVICE: Final = "com.amazonaws."
CARRIERS: Final = ("s3", "dynamodb", "sqs", "sns", "kinesis", "lambda", "secretsmanager")
"""Services by which data can be put into another account's resource."""
_BUCKET: Final = re.compile(r"arn:aws[a-z-]*:s3:::[a-z0-9.-]+/", re.ASCII)


def endpoint_guarded(resource: Resource, config: Config) -> Iterator[str]:
    """An endpoint leads to an AWS service of its region, answers its name, and has a policy that says what may pass."""
    if resource.type == ENDPOINT:
        region = known(resource.region, "region")
        service = known(resource.at("serviceName"), "serviceName")
        if not str(service).startswith(f"{_ARN_SERVICE}{region}."):
            yield f"It leads to {service}; endpoints lead to AWS's own services of {region}."
        other = known(resource.at("serviceRegion"), "serviceRegion")
        if other not in (None, "", region):
            yield f"It leads to {other}; endpoints lead to services of their own region, {region}."
        kind = known(resource.at("vpcEndpointType"), "vpcEndpointType") or "Gateway"
        if kind not in ("Gateway", "Interface"):
            yield f"It is of type {kind}; AWS's services have Gateway and Interface endpoints."
        if kind == "Interface":
            if not is_true(known(resource.at("privateDnsEnabled"), "privateDnsEnabled")):
                yield "privateDnsEnabled is off; the service's name would lead to the internet, where no route goes."
            if resource.at("securityGroupIds") is not UNKNOWN and not listed(resource.at("securityGroupIds")):
                yield "It has no security group, so it gets AWS's default one; give it the endpoints' group."
    yield from _policy(resource, known(resource.at("policy"), "policy"), config)


def _policy(resource: Resource, value: Any, config: Config) -> Iterator[str]:
    if value in (None, ""):
        yield "It has no policy, and AWS's default lets everybody ask everything."
        return
    try:
        found = statements(known(document(value), "policy"))
    except DocumentError as error:
        yield f"Its policy {error}."
        return
    for one in found:
        if one.oddities:
            yield f"Its policy has {one.oddities[0]} in {one.label}; write it so that it can be judged."
        elif one.allow:
            yield from _judge(one, account(resource, config))


def _judge(one: Statement, mine: str) -> Iterator[str]:
    if one.not_action or one.not_resource or one.not_principal:
        yield f"{one.label} allows all but what it names; name what it allows."
    elif any(action in ("*", "*:*") for action in one.actions):
        yield f"{one.label} allows every action; name the actions that are needed."
    elif _reads_named_buckets(one):
        return
    elif not bound(one, mine) and (not one.principals or any(account_of(name) != mine for _, name in one.principals)):
        yield f"{one.label} is for others' credentials as well; bind it by aws:PrincipalAccount to {mine}."
    elif _carries(one) and not _on_own(one, mine):
        yield f"{one.label} leads to other accounts' as well; name {mine}'s resources, or bind by aws:ResourceAccount."


def _reads_named_buckets(one: Statement) -> bool:
    """Whether it only gets objects of buckets by name: ECR's layers and a distribution's packages are AWS's own."""
    return (
        bool(one.actions)
        and all(action.lower() == "s3:getobject" for action in one.actions)
        and bool(one.resources)
        and all(_BUCKET.match(target) for target in one.resources)
    )


def _carries(one: Statement) -> bool:
    """Whether a service of its actions takes what is sent to it to whatever account's resource is named."""
    return any(action.partition(":")[0].lower() in CARRIERS for action in one.actions)


def _on_own(one: Statement, mine: str) -> bool:
    condition = one.condition("StringEquals", "aws:resourceaccount")
    if condition is not None and condition.values == (mine,):
        return True
    return bool(one.resources) and all(account_of(target) == mine for target in one.resources)


def endpoints_present(resources: Sequence[Resource], config: Config) -> Iterator[tuple[str, str | None]]:
    """Every region with a network has an endpoint for every service that is called from within."""
    links = Links(resources)
    unread: list[str] = []
    for vpc in links.of(VPC):
        here = {
            str(one.at("serviceName")).removeprefix(f"{_ARN_SERVICE}{vpc.region}.")
            for one in links.of(ENDPOINT)
            if vpc in links.targets(one, "vpcId", VPC)
        }
        needed = dict.fromkeys(ALWAYS.read(config), "the setting services")
        for role in links.of(ROLE):
            if role.region == vpc.region and _inside(links, role):
                for service, action in _used(links, role, config, unread):
                    needed.setdefault(service, f"{role.name} ({action})")
        for service, who in sorted(needed.items()):
            if service not in here:
                yield f"{vpc.name} in {vpc.region} has no endpoint for {service}, which {who} needs.", vpc.urn or None
    if unread:
        known(UNKNOWN, unread[0])


def _inside(links: Links, role: Resource) -> bool:
    """Whether what takes the role stands in a network."""
    try:
        trust = document(role.at("assumeRolePolicy"))
        services = {} if trust is UNKNOWN else {name for one in statements(trust) for _, name in one.principals}
    except DocumentError:
        return True
    if FUNCTIONS in services and any(
        role in links.targets(function, "role", ROLE) and at(function.props, "vpcConfig", "subnetIds") is not None
        for function in links.of(FUNCTION)
    ):
        return True
    return any(service in services for service in INSIDE)


def _used(links: Links, role: Resource, config: Config, unread: list[str]) -> Iterator[tuple[str, str]]:
    """Services that a role may ask, with an action of each; "*" is every service, which no endpoint is for."""
    names: Mapping[str, Any] = BY_ACTION.read(config)
    for name, text in _policies(links, role):
        try:
            policy = document(text)
            found = [] if policy is UNKNOWN else statements(policy)
        except DocumentError:
            found = []
            policy = None
        if policy is UNKNOWN:
            unread.append(f"{name}.policy")
        for one in found:
            if one.allow and one.not_action:
                yield "*", "NotAction"
            for action in one.actions if one.allow and not one.not_action else ():
                prefix = action.partition(":")[0].lower()
                for service in listed(names.get(prefix, prefix)):
                    yield service, action


def _policies(links: Links, role: Resource) -> Iterator[tuple[str, Any]]:
    for one in links.of(ROLE_POLICY):
        if role in links.targets(one, "role", ROLE):
            yield one.name, one.at("policy")
    for one in links.of(POLICY_ATTACHMENT):
        if role in links.targets(one, "role", ROLE):
            for policy in links.targets(one, "policyArn", POLICY):
                yield policy.name, policy.at("policy")
    for inline in listed(role.at("inlinePolicies")):
        yield role.name, at(inline, "policy")


def acceptance_required(resource: Resource, _: Config) -> Iterator[str]:
    """Each connection to the endpoint service is accepted by hand, and not everybody may ask."""
    if resource.type == PRINCIPAL:
        asking = [known(resource.at("principalArn"), "principalArn")]
    else:
        if not is_true(known(resource.at("acceptanceRequired"), "acceptanceRequired")):
            yield "acceptanceRequired is off; whoever may ask would be connected at once."
        if listed(resource.at("gatewayLoadBalancerArns")):
            yield "gatewayLoadBalancerArns is set; the service is in front of network load balancers alone."
        asking = [known(one, "allowedPrincipals") for one in listed(resource.at("allowedPrincipals"))]
    for principal in asking:
        if "*" in str(principal) or not str(principal).startswith("arn:"):
            yield f"It lets {principal} ask for a connection; name accounts, users or roles by ARN."


RULES: Final[list[Rule]] = [
    ResourceRule(
        "endpoints-have-policies",
        endpoint_guarded,
        protects="An endpoint without a policy takes any request with any credentials: data could leave through it "
        "into anybody's account.",
        fix="Give the endpoint a policy with named actions, bound to the account's principals and, where data can be "
        "put, to its resources; private DNS "
        "and the endpoints' group where it is an Interface endpoint.",
        types=(ENDPOINT, ENDPOINT_POLICY),
        settings=(ACCOUNT,),
    ),
    StackRule(
        "endpoints-for-every-service",
        endpoints_present,
        protects="A service without an endpoint is out of reach, and next a way to the internet is asked for.",
        fix="Make a VPC endpoint for the service in that region, or take the permission from the role.",
        settings=(ALWAYS, BY_ACTION),
    ),
    ResourceRule(
        "endpoint-service-requires-acceptance",
        acceptance_required,
        protects="Who reaches the routers by PrivateLink is decided one by one, and not by who asks.",
        fix="Set acceptance_required to true and name the allowed principals.",
        types=(SERVICE, PRINCIPAL),
    ),
]
