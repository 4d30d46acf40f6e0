"""One region's network: a VPC, four tiers of subnets, their routes and ACLs, gateway endpoints, the flow log.

Only the public tier has a way to the internet, and only internal load balancers stand in it: Global Accelerator wants
an internet gateway on the VPC, and nothing has a public address. There is no NAT. The private tier reaches S3 and
DynamoDB by gateway endpoints and every other service by interface endpoints (`endpoints.py`). The FSx and transit
tiers have no route but the VPC's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

import pulumi
import pulumi_aws as aws

from components.addressing import ZONES, RegionPlan
from components.endpoint_policies import endpoint_policy
from components.flow_logs import FlowLogs, FlowLogsArgs
from components.network_acl import ANYWHERE, AclRule, TierAcl, tier_acls
from components.placement import Placement


@dataclass(frozen=True, kw_only=True)
class RegionNetworkArgs:
    """`plan` is the region's addresses; `zones` its three availability zones, in the order of the plan's subnets.

    `logs_key_arn` is this region's key for logs and `log_days` how long the flow log is kept, 90 days or more;
    `protect` keeps it when the stack goes.
    Raises ValueError when there are not three zones.
    """

    placement: Placement
    plan: RegionPlan
    zones: tuple[str, ...]
    logs_key_arn: pulumi.Input[str]
    log_days: int
    protect: bool = False

    def __post_init__(self) -> None:
        if len(set(self.zones)) != ZONES:
            raise ValueError(
                f"{self.placement.region}: zones are {', '.join(self.zones)}; name {ZONES} different ones."
            )


class RegionNetwork(pulumi.ComponentResource):
    """The network of one region. Subnet ids are in the plan's order, private route tables one a zone in that order.

    `internet_route` is the public tier's default route, for what must not be without the internet gateway.
    """

    vpc_id: pulumi.Output[str]
    public_subnet_ids: list[pulumi.Output[str]]
    private_subnet_ids: list[pulumi.Output[str]]
    fsx_subnet_ids: list[pulumi.Output[str]]
    transit_subnet_ids: list[pulumi.Output[str]]
    public_route_table_id: pulumi.Output[str]
    private_route_table_ids: list[pulumi.Output[str]]
    fsx_route_table_id: pulumi.Output[str]
    transit_route_table_id: pulumi.Output[str]
    s3_prefix_list_id: pulumi.Output[str]
    dynamodb_prefix_list_id: pulumi.Output[str]
    flow_log_group_name: str
    internet_route: aws.ec2.Route

    def __init__(self, name: str, args: RegionNetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:network:RegionNetwork", name, None, opts)
        self._name = name
        self._placement = args.placement
        self._child = pulumi.ResourceOptions(parent=self)
        plan = args.plan

        vpc = aws.ec2.Vpc(
            f"{name}-vpc",
            cidr_block=str(plan.block),
            # Private DNS of the interface endpoints needs both.
            enable_dns_support=True,
            enable_dns_hostnames=True,
            tags=self._tags("vpc"),
            opts=self._child,
        )
        self.vpc_id = vpc.id
        self._empty_defaults(vpc)

        self.public_subnet_ids = self._subnets("public", plan.public, args.zones)
        self.private_subnet_ids = self._subnets("private", plan.private, args.zones)
        self.fsx_subnet_ids = self._subnets("fsx", plan.fsx, args.zones)
        self.transit_subnet_ids = self._subnets("transit", plan.transit, args.zones)

        self.public_route_table_id = self._route_table("public", self.public_subnet_ids)
        # One a zone, so that one zone's way to the other regions can be changed alone.
        self.private_route_table_ids = [
            self._route_table(f"private-{place}", [subnet]) for place, subnet in enumerate(self.private_subnet_ids, 1)
        ]
        self.fsx_route_table_id = self._route_table("fsx", self.fsx_subnet_ids)
        self.transit_route_table_id = self._route_table("transit", self.transit_subnet_ids)
        self.internet_route = self._internet()

        subnets = {
            "public": self.public_subnet_ids,
            "private": self.private_subnet_ids,
            "fsx": self.fsx_subnet_ids,
            "transit": self.transit_subnet_ids,
        }
        for tier, acl in tier_acls(plan).items():
            self._acl(tier, acl, subnets[tier])

        self.s3_prefix_list_id = self._gateway_endpoint("s3").prefix_list_id
        self.dynamodb_prefix_list_id = self._gateway_endpoint("dynamodb").prefix_list_id
        self.flow_log_group_name = FlowLogs(
            f"{name}-flow-logs",
            FlowLogsArgs(
                placement=args.placement,
                vpc_id=vpc.id,
                key_arn=args.logs_key_arn,
                days=args.log_days,
                protect=args.protect,
            ),
            opts=self._child,
        ).group_name
        self.register_outputs(
            {
                "vpc_id": self.vpc_id,
                "public_subnet_ids": self.public_subnet_ids,
                "private_subnet_ids": self.private_subnet_ids,
                "fsx_subnet_ids": self.fsx_subnet_ids,
                "transit_subnet_ids": self.transit_subnet_ids,
                "s3_prefix_list_id": self.s3_prefix_list_id,
                "dynamodb_prefix_list_id": self.dynamodb_prefix_list_id,
                "flow_log_group_name": self.flow_log_group_name,
            }
        )

    def _tags(self, what: str) -> dict[str, str]:
        return self._placement.tags("network", what)

    def _empty_defaults(self, vpc: aws.ec2.Vpc) -> None:
        """Take over what every VPC comes with, without rules: what is forgotten in it reaches nothing."""
        aws.ec2.DefaultSecurityGroup(
            f"{self._name}-default-group", vpc_id=vpc.id, tags=self._tags("default-unused"), opts=self._child
        )
        aws.ec2.DefaultNetworkAcl(
            f"{self._name}-default-acl",
            default_network_acl_id=vpc.default_network_acl_id,
            tags=self._tags("default-unused"),
            # Every subnet is in it from its creation until its tier's ACL takes it: not a change to undo.
            opts=pulumi.ResourceOptions(parent=self, ignore_changes=["subnetIds"]),
        )

    def _subnets(self, tier: str, blocks: Sequence[IPv4Network], zones: Sequence[str]) -> list[pulumi.Output[str]]:
        return [
            aws.ec2.Subnet(
                f"{self._name}-{tier}-{place}",
                vpc_id=self.vpc_id,
                cidr_block=str(block),
                availability_zone=zone,
                # Nothing here has a public address, in the public tier neither: its load balancers are internal.
                map_public_ip_on_launch=False,
                tags={**self._tags(f"{tier}-{place}"), "mrgc:tier": tier},
                opts=self._child,
            ).id
            # The FSx tier has two subnets for three zones.
            for place, (block, zone) in enumerate(zip(blocks, zones, strict=False), 1)
        ]

    def _route_table(self, what: str, subnets: Sequence[pulumi.Output[str]]) -> pulumi.Output[str]:
        """A route table with no route but the VPC's own. Further routes are resources, some of other components."""
        table = aws.ec2.RouteTable(
            f"{self._name}-{what}-routes", vpc_id=self.vpc_id, tags=self._tags(what), opts=self._child
        )
        for place, subnet in enumerate(subnets, 1):
            suffix = f"-{place}" if len(subnets) > 1 else ""
            aws.ec2.RouteTableAssociation(
                f"{self._name}-{what}-routes{suffix}", route_table_id=table.id, subnet_id=subnet, opts=self._child
            )
        return table.id

    def _internet(self) -> aws.ec2.Route:
        """The internet gateway and the public tier's way to it, which the accelerator's endpoints need."""
        gateway = aws.ec2.InternetGateway(
            f"{self._name}-internet", vpc_id=self.vpc_id, tags=self._tags("internet"), opts=self._child
        )
        return aws.ec2.Route(
            f"{self._name}-public-default",
            route_table_id=self.public_route_table_id,
            destination_cidr_block=str(ANYWHERE),
            gateway_id=gateway.id,
            opts=self._child,
        )

    def _acl(self, tier: str, acl: TierAcl, subnets: Sequence[pulumi.Output[str]]) -> None:
        aws.ec2.NetworkAcl(
            f"{self._name}-{tier}-acl",
            vpc_id=self.vpc_id,
            subnet_ids=list(subnets),
            ingress=[_ingress(rule) for rule in acl.ingress],
            egress=[_egress(rule) for rule in acl.egress],
            tags={**self._tags(tier), "mrgc:tier": tier},
            opts=self._child,
        )

    def _gateway_endpoint(self, service: str) -> aws.ec2.VpcEndpoint:
        return aws.ec2.VpcEndpoint(
            f"{self._name}-{service}",
            vpc_id=self.vpc_id,
            vpc_endpoint_type="Gateway",
            service_name=f"com.amazonaws.{self._placement.region}.{service}",
            # Load balancers, file servers and transit gateways call neither service from their subnets.
            route_table_ids=self.private_route_table_ids,
            policy=endpoint_policy(self._placement, service),
            tags=self._tags(service),
            opts=self._child,
        )


def _ingress(rule: AclRule) -> aws.ec2.NetworkAclIngressArgs:
    return aws.ec2.NetworkAclIngressArgs(
        rule_no=rule.number,
        action="allow",
        protocol=rule.protocol,
        cidr_block=str(rule.block),
        from_port=rule.from_port,
        to_port=rule.to_port,
        icmp_type=_icmp(rule),
        icmp_code=_icmp(rule),
    )


def _egress(rule: AclRule) -> aws.ec2.NetworkAclEgressArgs:
    return aws.ec2.NetworkAclEgressArgs(
        rule_no=rule.number,
        action="allow",
        protocol=rule.protocol,
        cidr_block=str(rule.block),
        from_port=rule.from_port,
        to_port=rule.to_port,
        icmp_type=_icmp(rule),
        icmp_code=_icmp(rule),
    )


def _icmp(rule: AclRule) -> int | None:
    """-1 is every type and code; left out it would be 0, which is the echo reply alone."""
    return -1 if rule.protocol == "icmp" else None
