"""A small platform of three regions, resource by resource, that every rule of the network pack accepts.

It is written by hand and not by our components, so that a mistake there can't hide one here. `PREVIEW` is how the
engine shows it before anything exists (ids unknown, references by URN), `STATE` how an exported state may (ids known,
no references): a rule has to judge both alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from policies.network.rules import RULES
from policies.rule import UNKNOWN, Resource, ResourceRule

REGIONS = {"us-east-1": "10.66.0", "us-east-2": "10.66.64", "us-west-2": "10.66.128"}
HOME = "us-east-1"
ACCOUNT = "123456789012"
ALLOWED = json.dumps([ACCOUNT])
"""As a provider has its lists: JSON texts."""
OURS = {"StringEquals": {"aws:PrincipalAccount": ACCOUNT}}
PREFIX = "urn:pulumi:test::mrgc::"

Mode = Literal["preview", "state"]


@dataclass(frozen=True)
class Ref:
    """Something's id or ARN, by the name of its resource."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Made:
    """One resource of the world; `region` is its provider's, "" for a resource without one."""

    type: str
    name: str
    region: str
    props: Mapping[str, Any]
    around: str = ""
    account: str = ACCOUNT

    def but(self, **props: Any) -> Made:
        """The same with some properties changed; None takes one away."""
        merged = {key: value for key, value in {**self.props, **props}.items() if value is not None}
        return replace(self, props=merged)

    @property
    def urn(self) -> str:
        return f"{PREFIX}{self.around}{self.type}::{self.name}"


World = dict[str, Made]


def made(type_: str, name: str, region: str, /, **props: Any) -> Made:
    return Made(type=type_, name=name, region=region, props=props)


def tag(**more: str) -> dict[str, str]:
    return {f"mrgc:{key}": value for key, value in more.items()}


def allow(action: str | Sequence[str], resource: str = "arn:aws:x:::y", **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Principal": "*", "Action": action, "Resource": resource, **more}


def document(*statements: Mapping[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def trust(service: str) -> str:
    return document({"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"})


def good() -> World:
    """Everything, by name."""
    found: World = {}
    for region, base in REGIONS.items():
        for one in (*_network(region, base), *_groups(region), *_endpoints(region), *_transit(region), *_data(region)):
            found[one.name] = one
    for one in (*_mesh(), *_global()):
        found[one.name] = one
    return found


def _network(r: str, base: str) -> Iterator[Made]:
    third = int(base.rpartition(".")[2])
    head = base.rpartition(".")[0]
    yield made("pulumi:providers:aws", f"provider-{r}", r, region=r, allowedAccountIds=ALLOWED)
    yield made("aws:ec2/vpc:Vpc", f"vpc-{r}", r, cidrBlock=f"{base}.0/18")
    subnets = {
        "public": ["{0}.0/24", "{1}.0/24", "{2}.0/24"],
        "private": ["{10}.0/23", "{12}.0/23", "{14}.0/23"],
        "fsx": ["{20}.0/24", "{21}.0/24"],
        "transit": ["{30}.0/28", "{30}.16/28", "{30}.32/28"],
    }
    offsets = [f"{head}.{third + offset}" for offset in range(31)]
    outside = {
        "public": ([(443, 443), (1024, 65535)], [(1024, 65535)]),
        "private": ([(32768, 61000)], [(443, 443)]),
        "fsx": ([], []),
        "transit": ([], []),
    }
    for tier, blocks in subnets.items():
        table = f"table-{tier}-{r}"
        yield made("aws:ec2/routeTable:RouteTable", table, r, vpcId=Ref(f"vpc-{r}"))
        for number, block in enumerate(blocks, 1):
            name = f"{tier}-{number}-{r}"
            yield made(
                "aws:ec2/subnet:Subnet", name, r,
                cidrBlock=block.format(*offsets), mapPublicIpOnLaunch=False, tags=tag(tier=tier),
            )  # fmt: skip
            yield made(
                "aws:ec2/routeTableAssociation:RouteTableAssociation", f"in-{name}", r,
                routeTableId=Ref(table), subnetId=Ref(name),
            )  # fmt: skip
        inside = {"action": "allow", "protocol": "-1", "cidrBlock": "10.66.0.0/16", "fromPort": 0, "toPort": 0}
        ingress, egress = (
            [
                inside,
                *({**inside, "protocol": "tcp", "cidrBlock": "0.0.0.0/0", "fromPort": a, "toPort": b} for a, b in x),
            ]
            for x in outside[tier]
        )
        yield made(
            "aws:ec2/networkAcl:NetworkAcl", f"acl-{tier}-{r}", r,
            subnetIds=[Ref(f"{tier}-{number}-{r}") for number in range(1, len(blocks) + 1)],
            ingress=ingress, egress=egress, tags=tag(tier=tier),
        )  # fmt: skip
    yield made("aws:ec2/internetGateway:InternetGateway", f"internet-{r}", r, vpcId=Ref(f"vpc-{r}"))
    yield made(
        "aws:ec2/route:Route", f"out-{r}", r,
        routeTableId=Ref(f"table-public-{r}"), destinationCidrBlock="0.0.0.0/0", gatewayId=Ref(f"internet-{r}"),
    )  # fmt: skip
    yield made("aws:ec2/defaultSecurityGroup:DefaultSecurityGroup", f"default-group-{r}", r, vpcId=Ref(f"vpc-{r}"))
    yield made("aws:ec2/defaultNetworkAcl:DefaultNetworkAcl", f"default-acl-{r}", r)
    yield made(
        "aws:cloudwatch/logGroup:LogGroup", f"log-{r}", r, retentionInDays=90, kmsKeyId=Ref(f"key-{r}"), name="/mrgc/f"
    )
    yield made(
        "aws:ec2/flowLog:FlowLog", f"flows-{r}", r,
        vpcId=Ref(f"vpc-{r}"), trafficType="ALL", logDestination=Ref(f"log-{r}"),
    )  # fmt: skip


RULED = (
    ("nlb", "in", 443, 443, "0.0.0.0/0"),
    ("router", "in", 443, 443, "nlb"),
    ("router", "out", 8080, 8080, "gpu"),
    ("gpu", "in", 8080, 8080, "router"),
    ("gpu", "out", 443, 443, "s3"),
    ("gpu", "out", 1018, 1023, "fsx"),
    ("fsx", "in", 988, 988, "gpu"),
    ("endpoints", "in", 443, 443, "gpu"),
)


def _groups(r: str) -> Iterator[Made]:
    for group in ("nlb", "router", "gpu", "fsx", "endpoints", "control"):
        yield made("aws:ec2/securityGroup:SecurityGroup", f"{group}-{r}", r, tags=tag(group=group))
    for group, direction, first, last, peer in RULED:
        kind = "Ingress" if direction == "in" else "Egress"
        if "/" in peer:
            named: dict[str, Any] = {"cidrIpv4": peer}
        elif peer == "s3":
            named = {"prefixListId": Ref(f"endpoint-s3-{r}")}
        else:
            named = {"referencedSecurityGroupId": Ref(f"{peer}-{r}")}
        yield made(
            f"aws:vpc/securityGroup{kind}Rule:SecurityGroup{kind}Rule", f"{group}-{direction}-{peer}-{first}-{r}", r,
            securityGroupId=Ref(f"{group}-{r}"), ipProtocol="tcp", fromPort=first, toPort=last, **named,
        )  # fmt: skip
    yield made(
        "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", f"gpu-in-icmp-{r}", r,
        securityGroupId=Ref(f"gpu-{r}"), ipProtocol="icmp", fromPort=8, toPort=-1, cidrIpv4="10.66.0.0/16",
    )  # fmt: skip


SERVICES = ("s3", "dynamodb", "kms", "sts", "ecr.api", "ecr.dkr", "logs", "monitoring", "ec2", "xray")


def _endpoints(r: str) -> Iterator[Made]:
    for service in SERVICES:
        gateway = service in ("s3", "dynamodb")
        interface = {"privateDnsEnabled": True, "securityGroupIds": [Ref(f"endpoints-{r}")]}
        yield made(
            "aws:ec2/vpcEndpoint:VpcEndpoint", f"endpoint-{service}-{r}", r,
            vpcId=Ref(f"vpc-{r}"), serviceName=f"com.amazonaws.{r}.{service}",
            policy=document(allow("x:Get*", Condition=OURS)),
            vpcEndpointType="Gateway" if gateway else "Interface", **({} if gateway else interface),
        )  # fmt: skip
    yield made("aws:iam/role:Role", f"role-{r}", r, assumeRolePolicy=trust("ecs-tasks.amazonaws.com"))
    yield made(
        "aws:iam/rolePolicy:RolePolicy", f"may-{r}", r,
        role=Ref(f"role-{r}"), policy=document({"Effect": "Allow", "Action": "xray:PutTraceSegments", "Resource": "*"}),
    )  # fmt: skip
    yield made(
        "aws:lb/loadBalancer:LoadBalancer", f"balancer-{r}", r,
        loadBalancerType="network", internal=True, securityGroups=[Ref(f"nlb-{r}")],
        enforceSecurityGroupInboundRulesOnPrivateLinkTraffic="on",
    )  # fmt: skip
    yield made("aws:lb/listener:Listener", f"listener-{r}", r, port=443, protocol="TCP")
    yield made(
        "aws:lb/targetGroup:TargetGroup", f"targets-{r}", r,
        port=443, protocol="TCP", targetType="ip",
        healthCheck={"enabled": True, "protocol": "HTTP", "path": "/health", "matcher": "200", "interval": 10,
                     "timeout": 5, "unhealthyThreshold": 2},
    )  # fmt: skip
    yield made(
        "aws:ec2/vpcEndpointService:VpcEndpointService", f"service-{r}", r,
        acceptanceRequired=True, networkLoadBalancerArns=[Ref(f"balancer-{r}")],
        allowedPrincipals=["arn:aws:iam::111122223333:root"],
    )  # fmt: skip


def _transit(r: str) -> Iterator[Made]:
    yield made(
        "aws:ec2transitgateway/transitGateway:TransitGateway", f"gateway-{r}", r,
        defaultRouteTableAssociation="disable", defaultRouteTablePropagation="disable",
        autoAcceptSharedAttachments="disable",
    )  # fmt: skip
    yield made(
        "aws:ec2transitgateway/vpcAttachment:VpcAttachment", f"attachment-{r}", r,
        transitGatewayId=Ref(f"gateway-{r}"), vpcId=Ref(f"vpc-{r}"),
        subnetIds=[Ref(f"transit-{number}-{r}") for number in (1, 2, 3)],
    )  # fmt: skip
    yield made("aws:ec2transitgateway/route:Route", f"drop-{r}", r, destinationCidrBlock="10.0.0.0/8", blackhole=True)
    for other, base in REGIONS.items():
        block = f"{base}.0/18"
        yield made("aws:ec2transitgateway/route:Route", f"mesh-{other}-{r}", r, destinationCidrBlock=block)
        if other != r:
            yield made(
                "aws:ec2/route:Route", f"to-{other}-{r}", r,
                routeTableId=Ref(f"table-private-{r}"), destinationCidrBlock=block,
                transitGatewayId=Ref(f"gateway-{r}"),
            )  # fmt: skip


def _data(r: str) -> Iterator[Made]:
    key = Ref(f"key-{r}")
    own = allow("kms:*", Principal={"AWS": f"arn:aws:iam::{ACCOUNT}:root"})
    yield made("aws:kms/key:Key", f"key-{r}", r, enableKeyRotation=True, policy=document(own))
    yield made("aws:s3/bucket:Bucket", f"bucket-{r}", r)
    yield made(
        "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration", f"sealed-{r}", r,
        bucket=Ref(f"bucket-{r}"),
        rules=[{"applyServerSideEncryptionByDefault": {"sseAlgorithm": "aws:kms", "kmsMasterKeyId": key}}],
    )  # fmt: skip
    yield made(
        "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock", f"closed-{r}", r,
        bucket=Ref(f"bucket-{r}"), blockPublicAcls=True, blockPublicPolicy=True, ignorePublicAcls=True,
        restrictPublicBuckets=True,
    )  # fmt: skip
    yield made(
        "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration", f"expiry-{r}", r,
        bucket=Ref(f"bucket-{r}"), rules=[{"id": "old", "expiration": {"days": 90}}],
    )  # fmt: skip
    yield made(
        "aws:fsx/lustreFileSystem:LustreFileSystem", f"files-{r}", r,
        kmsKeyId=key, securityGroupIds=[Ref(f"fsx-{r}")], subnetIds=Ref(f"fsx-1-{r}"),
    )  # fmt: skip
    yield made(
        "aws:ec2/launchTemplate:LaunchTemplate", f"hosts-{r}", r,
        networkInterfaces=[{"associatePublicIpAddress": "false", "securityGroups": [Ref(f"gpu-{r}")]}],
        blockDeviceMappings=[{"deviceName": "/dev/xvda", "ebs": {"encrypted": "true", "kmsKeyId": key}}],
    )  # fmt: skip
    yield made(
        "aws:ecs/service:Service", f"routers-{r}", r,
        networkConfiguration={"assignPublicIp": False, "securityGroups": [Ref(f"router-{r}")]},
    )  # fmt: skip
    yield made("aws:sns/topic:Topic", f"topic-{r}", r, kmsMasterKeyId=key)
    yield made("aws:sqs/queue:Queue", f"queue-{r}", r, sqsManagedSseEnabled=True)
    yield made(
        "aws:ecr/repository:Repository", f"images-{r}", r,
        encryptionConfigurations=[{"encryptionType": "KMS", "kmsKey": key}],
    )  # fmt: skip
    yield made("aws:ssm/parameter:Parameter", f"pcr0-{r}", r, name="/mrgc/test/pcr0", type="String", value="00")
    yield made("aws:ssm/parameter:Parameter", f"tls-{r}", r, name="/mrgc/test/tls-key", type="SecureString", value="x")


def _mesh() -> Iterator[Made]:
    names = list(REGIONS)
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            yield made(
                "aws:ec2transitgateway/peeringAttachment:PeeringAttachment", f"peering-{one}-{other}", one,
                transitGatewayId=Ref(f"gateway-{one}"), peerTransitGatewayId=Ref(f"gateway-{other}"), peerRegion=other,
            )  # fmt: skip
            yield made(
                "aws:ec2transitgateway/peeringAttachmentAccepter:PeeringAttachmentAccepter", f"accept-{one}-{other}",
                other, transitGatewayAttachmentId=Ref(f"peering-{one}-{other}"),
            )  # fmt: skip


def table(name: str, *others: str, strong: bool = False) -> Made:
    """A global table at home with a replica in each of the others."""
    return made(
        "aws:dynamodb/table:Table", name, HOME,
        name=f"mrgc-test-{name}",
        serverSideEncryption={"enabled": True, "kmsKeyArn": Ref(f"key-{HOME}")},
        pointInTimeRecovery={"enabled": True}, deletionProtectionEnabled=True,
        replicas=[
            {"regionName": other, "consistencyMode": "STRONG" if strong else "EVENTUAL",
             "kmsKeyArn": Ref(f"key-{other}"), "pointInTimeRecovery": True, "deletionProtectionEnabled": True}
            for other in others
        ],
    )  # fmt: skip


def _global() -> Iterator[Made]:
    yield table("metrics", "us-east-2", "us-west-2")
    yield table("routing_state", "us-east-2", "us-west-2", strong=True)
    yield made(
        "aws:globalaccelerator/accelerator:Accelerator", "anycast", "us-west-2",
        attributes={"flowLogsEnabled": True, "flowLogsS3Bucket": Ref("bucket-us-west-2")},
    )  # fmt: skip
    yield made(
        "aws:globalaccelerator/listener:Listener", "anycast-listener", "us-west-2",
        acceleratorArn=Ref("anycast"), protocol="TCP", portRanges=[{"fromPort": 443, "toPort": 443}],
    )  # fmt: skip
    for r in REGIONS:
        yield made(
            "aws:globalaccelerator/endpointGroup:EndpointGroup", f"group-{r}", "us-west-2",
            listenerArn=Ref("anycast-listener"), endpointGroupRegion=r,
            endpointConfigurations=[{"endpointId": Ref(f"balancer-{r}"), "clientIpPreservationEnabled": True}],
        )  # fmt: skip


def resources(world: World, mode: Mode = "preview") -> list[Resource]:
    """The world as rules see it."""
    return [_resource(world, one, mode) for one in world.values()]


def _resource(world: World, one: Made, mode: Mode) -> Resource:
    props = {key: _shown(value, mode) for key, value in one.props.items()}
    if mode == "state":
        props["id"] = f"id-of-{one.name}"
    depends = {key: tuple(world[name].urn for name in _refs(value)) for key, value in one.props.items()}
    return Resource(
        type=one.type,
        name=one.name,
        urn=one.urn,
        props=props,
        provider={"region": one.region, "allowedAccountIds": json.dumps([one.account])} if one.region else None,
        depends={key: urns for key, urns in depends.items() if urns} if mode == "preview" else {},
    )


def _shown(value: Any, mode: Mode) -> Any:
    if isinstance(value, Ref):
        return UNKNOWN if mode == "preview" else f"id-of-{value.name}"
    if isinstance(value, Mapping):
        return {key: _shown(inner, mode) for key, inner in value.items()}
    return [_shown(inner, mode) for inner in value] if isinstance(value, list) else value


def _refs(value: Any) -> Iterator[str]:
    if isinstance(value, Ref):
        yield value.name
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _refs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _refs(inner)


def refusals(
    world: World, mode: Mode = "preview", config: Mapping[str, Any] | None = None, *, only: World | None = None
) -> dict[str, list[str]]:
    """What each rule says, by its name. Resource rules read those of `only` (default: all), stack rules the world."""
    everything = resources(world, mode)
    judged = [one for one in everything if only is None or one.name in only]
    found: dict[str, list[str]] = {}
    for rule in RULES:
        given = {} if config is None else {one.name: config[one.name] for one in rule.settings if one.name in config}
        if isinstance(rule, ResourceRule):
            said = [sentence for one in judged for sentence in rule.violations(one, given)]
        else:
            said = rule.violations(everything, given)
        if said:
            found[rule.name] = said
    return found
