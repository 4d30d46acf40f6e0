"""Who may talk to whom in one region: six groups and one table of rules, each rule a resource of its own.

`RULES` is the whole of it; docs/network.md repeats it for people, and a test holds the two together. Groups are
stateful: an answer needs no rule. They see neither Amazon's DNS resolver nor DHCP, metadata and the time service.

**Across regions no TCP is let through.** A router picks among its own region's hosts; regions meet in DynamoDB's
tables and behind the accelerator. A group cannot be named from another region either, so the rule would have to admit
10.66.0.0/16. Should routers spill over one day, it is one row here: GPU, in, 8080, from the peers' private subnets.
The transit mesh carries no requests until then; ICMP is let in so that path MTU discovery and traces work on it.

**Hosts admit nothing from Lustre's servers.** FSx's guide lists 988 and 1018 to 1023 inbound at clients too, from the
file system's group, for a server that connects back. The table is narrower on purpose: the client opens every
connection itself and reopens a lost one, and what can reach a host is a short list. docs/network.md says what that
costs and what to add if it proves wrong; it has not run against FSx.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network
from typing import Final, Literal

import pulumi
import pulumi_aws as aws

from components.addressing import CLUSTER
from components.network_acl import ANYWHERE
from components.placement import Placement


class Group(StrEnum):
    """The security groups of a region."""

    GPU = "gpu"
    FSX = "fsx"
    ROUTER = "router"
    NLB = "nlb"
    ENDPOINTS = "endpoints"
    CONTROL = "control"


class PrefixList(StrEnum):
    """AWS's lists of the addresses behind the gateway endpoints."""

    S3 = "s3"
    DYNAMODB = "dynamodb"


Peer = Group | PrefixList | IPv4Network

DESCRIPTIONS: Final[Mapping[Group, str]] = {
    Group.GPU: "GPU hosts",
    Group.FSX: "Lustre file servers",
    Group.ROUTER: "Router tasks",
    Group.NLB: "Load balancer of the routers",
    Group.ENDPOINTS: "Interface endpoints of AWS services",
    Group.CONTROL: "Control loops",
}
"""What AWS shows of each group. Changing one replaces the group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`group` admits from, or may open connections to, `peer`. Ports are the destination's, both ends included.

    For `icmp` both are -1, every type and code. `why` is the rule's description in AWS.
    """

    group: Group
    direction: Literal["in", "out"]
    protocol: Literal["tcp", "icmp"]
    from_port: int
    to_port: int
    peer: Peer
    why: str

    @property
    def key(self) -> str:
        """The rule's name among the region's rules, such as `gpu-in-router-8080`."""
        if isinstance(self.peer, IPv4Network):
            peer = "anywhere" if self.peer == ANYWHERE else "cluster"
        else:
            peer = str(self.peer)
        what = f"{self.from_port}" if self.protocol == "tcp" else "icmp"
        return f"{self.group}-{self.direction}-{peer}-{what}"

    @property
    def ports(self) -> str:
        """The ports as a person writes them, or `ICMP`, which is every message."""
        if self.protocol == "icmp":
            return "ICMP"
        return f"{self.from_port}" if self.from_port == self.to_port else f"{self.from_port}-{self.to_port}"


HTTPS: Final = 443
PLAIN: Final = 8080
"""Where a parent takes requests, and where a router answers health checks and operators."""
LUSTRE: Final = ((988, 988), (1018, 1023))
EVERY_MESSAGE: Final = -1
"""ICMP's type or code, where any will do."""


def _tcp(group: Group, direction: Literal["in", "out"], port: int, peer: Peer, why: str) -> Rule:
    return Rule(group=group, direction=direction, protocol="tcp", from_port=port, to_port=port, peer=peer, why=why)


def _lustre(group: Group, direction: Literal["in", "out"], peer: Group, why: str) -> tuple[Rule, ...]:
    return tuple(
        Rule(group=group, direction=direction, protocol="tcp", from_port=first, to_port=last, peer=peer, why=why)
        for first, last in LUSTRE
    )


def _aws_services(group: Group) -> tuple[Rule, ...]:
    return (
        _tcp(group, "out", HTTPS, Group.ENDPOINTS, "AWS services by interface endpoint"),
        _tcp(group, "out", HTTPS, PrefixList.S3, "S3 by gateway endpoint: image layers, packages, our buckets"),
        _tcp(group, "out", HTTPS, PrefixList.DYNAMODB, "DynamoDB by gateway endpoint: the global tables"),
    )


RULES: Final[tuple[Rule, ...]] = (
    _tcp(Group.NLB, "in", HTTPS, ANYWHERE, "Clients, whose addresses the accelerator keeps"),
    _tcp(Group.NLB, "in", PLAIN, ANYWHERE, "Clients of the alternate listener, TLS as well"),
    _tcp(Group.NLB, "out", HTTPS, Group.ROUTER, "Connections of clients, from either listener"),
    _tcp(Group.NLB, "out", PLAIN, Group.ROUTER, "Health checks"),
    _tcp(Group.ROUTER, "in", HTTPS, Group.NLB, "Connections of clients"),
    _tcp(Group.ROUTER, "in", PLAIN, Group.NLB, "Health checks"),
    _tcp(Group.ROUTER, "out", PLAIN, Group.GPU, "Sealed requests to parents"),
    _tcp(Group.ROUTER, "out", HTTPS, Group.GPU, "Sealed requests to parents, over TLS"),
    *_aws_services(Group.ROUTER),
    _tcp(Group.GPU, "in", PLAIN, Group.ROUTER, "Sealed requests from routers"),
    _tcp(Group.GPU, "in", HTTPS, Group.ROUTER, "Sealed requests from routers, over TLS"),
    Rule(
        group=Group.GPU,
        direction="in",
        protocol="icmp",
        from_port=EVERY_MESSAGE,
        to_port=EVERY_MESSAGE,
        peer=CLUSTER,
        why="Path MTU discovery (a transit gateway carries 8500 bytes, a VPC 9001), reachability",
    ),
    *_lustre(Group.GPU, "out", Group.FSX, "Model files"),
    *_aws_services(Group.GPU),
    *_lustre(Group.FSX, "in", Group.GPU, "Model files"),
    *_lustre(Group.FSX, "in", Group.FSX, "Lustre among its own servers"),
    *_lustre(Group.FSX, "out", Group.FSX, "Lustre among its own servers"),
    *_aws_services(Group.CONTROL),
    _tcp(Group.ENDPOINTS, "in", HTTPS, Group.GPU, "GPU hosts"),
    _tcp(Group.ENDPOINTS, "in", HTTPS, Group.ROUTER, "Routers"),
    _tcp(Group.ENDPOINTS, "in", HTTPS, Group.CONTROL, "Control loops"),
)
"""Every rule of a region. What is not here is refused: groups are made without AWS's outbound rule to everywhere."""


def rules(*, alternate_port: bool) -> tuple[Rule, ...]:
    """The rules of a region whose load balancer listens on 8080 too, or does not."""
    if alternate_port:
        return RULES
    return tuple(rule for rule in RULES if not (rule.peer == ANYWHERE and rule.from_port == PLAIN))


@dataclass(frozen=True, kw_only=True)
class SecurityGroupsArgs:
    """The prefix lists are those of the region's gateway endpoints.

    `alternate_port` says whether the load balancer listens on 8080 too; without that listener nobody is let in there.
    """

    placement: Placement
    vpc_id: pulumi.Input[str]
    s3_prefix_list_id: pulumi.Input[str]
    dynamodb_prefix_list_id: pulumi.Input[str]
    alternate_port: bool = True


class SecurityGroups(pulumi.ComponentResource):
    """The security groups of one region with their rules."""

    gpu_id: pulumi.Output[str]
    fsx_id: pulumi.Output[str]
    router_id: pulumi.Output[str]
    nlb_id: pulumi.Output[str]
    endpoints_id: pulumi.Output[str]
    control_id: pulumi.Output[str]

    def __init__(self, name: str, args: SecurityGroupsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:security_groups:SecurityGroups", name, None, opts)
        placement = args.placement
        groups = {
            group: aws.ec2.SecurityGroup(
                f"{name}-{group}",
                description=DESCRIPTIONS[group],
                vpc_id=args.vpc_id,
                tags={**placement.tags("security-groups", str(group)), "mrgc:group": str(group)},
                opts=pulumi.ResourceOptions(parent=self),
            )
            for group in Group
        }
        prefix_lists: Mapping[PrefixList, pulumi.Input[str]] = {
            PrefixList.S3: args.s3_prefix_list_id,
            PrefixList.DYNAMODB: args.dynamodb_prefix_list_id,
        }
        for rule in rules(alternate_port=args.alternate_port):
            make = aws.vpc.SecurityGroupIngressRule if rule.direction == "in" else aws.vpc.SecurityGroupEgressRule
            make(
                f"{name}-{rule.key}",
                security_group_id=groups[rule.group].id,
                ip_protocol=rule.protocol,
                from_port=rule.from_port,
                to_port=rule.to_port,
                referenced_security_group_id=groups[rule.peer].id if isinstance(rule.peer, Group) else None,
                prefix_list_id=prefix_lists[rule.peer] if isinstance(rule.peer, PrefixList) else None,
                cidr_ipv4=str(rule.peer) if isinstance(rule.peer, IPv4Network) else None,
                description=rule.why,
                tags=placement.tags("security-groups", rule.key),
                opts=pulumi.ResourceOptions(parent=groups[rule.group]),
            )
        self.gpu_id = groups[Group.GPU].id
        self.fsx_id = groups[Group.FSX].id
        self.router_id = groups[Group.ROUTER].id
        self.nlb_id = groups[Group.NLB].id
        self.endpoints_id = groups[Group.ENDPOINTS].id
        self.control_id = groups[Group.CONTROL].id
        self.register_outputs({f"{group}_id": made.id for group, made in groups.items()})
