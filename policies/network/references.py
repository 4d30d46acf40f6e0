"""A rule over references: what a resource is part of, leads to or is sealed by, is made by the same program.

Other rules follow references and pass over what leads nowhere in the stack; here that itself is refused, where an id
from elsewhere would take something out of their sight: a rule for a group of nobody's, a route by a stranger's
gateway, a disk under AWS's key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from policies.network.accounts import account_of, allowed
from policies.network.links import Links
from policies.rule import UNKNOWN, Config, Resource, Rule, StackRule, known, walk

VPC: Final = ("aws:ec2/vpc:Vpc",)
SUBNET: Final = ("aws:ec2/subnet:Subnet",)
TABLE: Final = ("aws:ec2/routeTable:RouteTable", "aws:ec2/defaultRouteTable:DefaultRouteTable")
BALANCER: Final = ("aws:lb/loadBalancer:LoadBalancer",)
TARGETS: Final = ("aws:lb/targetGroup:TargetGroup",)
BUCKET: Final = ("aws:s3/bucket:Bucket", "aws:s3/bucketV2:BucketV2")
FILES: Final = ("aws:fsx/lustreFileSystem:LustreFileSystem",)
KEY: Final = ("aws:kms/key:Key", "aws:kms/replicaKey:ReplicaKey")
_TRANSIT: Final = "aws:ec2transitgateway/"
GATEWAY: Final = (_TRANSIT + "transitGateway:TransitGateway",)
TRANSIT_TABLE: Final = (_TRANSIT + "routeTable:RouteTable",)
ATTACHMENT: Final = (
    _TRANSIT + "vpcAttachment:VpcAttachment",
    _TRANSIT + "peeringAttachment:PeeringAttachment",
    _TRANSIT + "peeringAttachmentAccepter:PeeringAttachmentAccepter",
)

REFERENCES: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "aws:ec2/subnet:Subnet": {"vpcId": VPC},
    "aws:ec2/routeTable:RouteTable": {"vpcId": VPC},
    "aws:ec2/securityGroup:SecurityGroup": {"vpcId": VPC},
    "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup": {"vpcId": VPC},
    "aws:ec2/networkAcl:NetworkAcl": {"vpcId": VPC, "subnetIds": SUBNET},
    "aws:ec2/internetGateway:InternetGateway": {"vpcId": VPC},
    "aws:ec2/internetGatewayAttachment:InternetGatewayAttachment": {"vpcId": VPC},
    "aws:ec2/flowLog:FlowLog": {"vpcId": VPC},
    "aws:ec2/routeTableAssociation:RouteTableAssociation": {"subnetId": SUBNET, "routeTableId": TABLE},
    "aws:ec2/route:Route": {"transitGatewayId": GATEWAY},
    "aws:ec2/vpcEndpoint:VpcEndpoint": {"vpcId": VPC, "subnetIds": SUBNET, "routeTableIds": TABLE},
    "aws:ec2/vpcEndpointService:VpcEndpointService": {"networkLoadBalancerArns": BALANCER},
    "aws:ec2/launchTemplate:LaunchTemplate": {"kmsKeyId": KEY},
    _TRANSIT + "vpcAttachment:VpcAttachment": {"vpcId": VPC, "subnetIds": SUBNET, "transitGatewayId": GATEWAY},
    _TRANSIT + "routeTable:RouteTable": {"transitGatewayId": GATEWAY},
    _TRANSIT + "route:Route": {"transitGatewayRouteTableId": TRANSIT_TABLE, "transitGatewayAttachmentId": ATTACHMENT},
    _TRANSIT + "routeTableAssociation:RouteTableAssociation": {
        "transitGatewayRouteTableId": TRANSIT_TABLE,
        "transitGatewayAttachmentId": ATTACHMENT,
    },
    "aws:lb/loadBalancer:LoadBalancer": {"subnets": SUBNET},
    "aws:lb/listener:Listener": {"loadBalancerArn": BALANCER, "targetGroupArn": TARGETS},
    "aws:lb/targetGroup:TargetGroup": {"vpcId": VPC},
    "aws:autoscaling/group:Group": {"vpcZoneIdentifiers": SUBNET},
    "aws:ecs/service:Service": {"subnets": SUBNET, "targetGroupArn": TARGETS},
    "aws:fsx/lustreFileSystem:LustreFileSystem": {"subnetIds": SUBNET, "kmsKeyId": KEY},
    "aws:fsx/dataRepositoryAssociation:DataRepositoryAssociation": {"fileSystemId": FILES},
    "aws:cloudwatch/logGroup:LogGroup": {"kmsKeyId": KEY},
    "aws:sns/topic:Topic": {"kmsMasterKeyId": KEY},
    "aws:ecr/repository:Repository": {"kmsKey": KEY},
    "aws:dynamodb/table:Table": {"kmsKeyArn": KEY},
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": {
        "bucket": BUCKET,
        "kmsMasterKeyId": KEY,
    },
    "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": {"bucket": BUCKET},
    "aws:s3/bucketReplicationConfig:BucketReplicationConfig": {"replicaKmsKeyId": KEY},
    "aws:globalaccelerator/listener:Listener": {"acceleratorArn": ("aws:globalaccelerator/accelerator:Accelerator",)},
    "aws:globalaccelerator/endpointGroup:EndpointGroup": {
        "listenerArn": ("aws:globalaccelerator/listener:Listener",),
    },
}
"""Properties by type, at whatever depth, and what each refers to."""


def of_this_stack(resources: Sequence[Resource], _: Config) -> Iterator[tuple[str, str | None]]:
    """Every reference is to a resource of the stack."""
    links = Links(resources)
    for one in resources:
        kinds = REFERENCES.get(one.type, {})
        for path, value in _references(one, kinds):
            types = kinds[path[-1] if path[-1] in kinds else path[-2]]
            if value is UNKNOWN and links.targets(one, path[0], *types):
                continue  # Not known before the update, and made from what it should be.
            if _strangers(one, value):
                continue  # Refused by itself, for its account.
            if not links.named(str(known(value, f"{one.name}.{'.'.join(path)}")), *types):
                yield f"{one.name}'s {'.'.join(path)} is {value}, which this stack does not make.", one.urn or None


def _strangers(one: Resource, value: Any) -> bool:
    account = account_of(value) if isinstance(value, str) else None
    return account is not None and account not in allowed(one.provider)


def _references(one: Resource, kinds: dict[str, tuple[str, ...]]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for path, value in walk(one.props) if kinds else ():
        entry = len(path) > 1 and path[-1].isdigit() and path[-2] in kinds
        if (path[-1] in kinds or entry) and not isinstance(value, list) and value not in (None, ""):
            yield path, value


RULES: Final[list[Rule]] = [
    StackRule(
        "nothing-from-elsewhere",
        of_this_stack,
        protects="Rules judge what this program makes: a subnet of another network, a stranger's transit gateway or "
        "AWS's own key would be behind something that none of them has seen.",
        fix="Refer to resources that this program makes, by their outputs.",
    ),
]
