"""The network ACLs of a region: one table of rules for each tier of subnets, as plain values.

An ACL is stateless: what goes out needs a rule for its answer to come back. What no rule names is denied. Security
groups decide who talks to whom (`security_groups.py`); the ACLs are the second fence, drawn by address alone, which a
mistake in a group does not open.

ACLs do not see Amazon's DNS resolver, DHCP, instance and task metadata and the time service at 169.254.169.123
(Amazon VPC user guide, "Network ACL basics"), so no rule is needed for them and none could stop them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, collapse_addresses
from typing import Final, Literal

from components.addressing import CLUSTER, RegionPlan

ANYWHERE: Final = IPv4Network("0.0.0.0/0")
HTTPS: Final = 443
CLIENT_PORTS: Final = (1024, 65535)
"""Where a client whose system we do not know may have opened its connection from."""
OWN_PORTS: Final = (32768, 61000)
"""Where Linux opens connections from by default (`net.ipv4.ip_local_port_range`); no listener of ours is here."""
LUSTRE_PORTS: Final = ((988, 988), (1018, 1023))
"""Lustre's listener, and the reserved ports that Lustre connects from (FSx for Lustre user guide, "File system access
control with Amazon VPC")."""

Protocol = Literal["-1", "tcp", "icmp"]

FIRST_RULE: Final = 100
STEP: Final = 10
"""Room for a rule in between, for a person in an emergency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AclRule:
    """One allow: `block` is where traffic comes from (ingress) or goes to (egress), ports are the destination's.

    `protocol` "-1" is every protocol and "icmp" every message; both have ports 0 to 0, as EC2 wants it.
    """

    number: int
    protocol: Protocol
    block: IPv4Network
    from_port: int
    to_port: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TierAcl:
    """The rules of one tier's subnets, in the order that they are tried."""

    ingress: tuple[AclRule, ...]
    egress: tuple[AclRule, ...]


def tier_acls(plan: RegionPlan) -> dict[str, TierAcl]:
    """The ACL of each tier by the tier's name: `public`, `private`, `fsx`, `transit`."""
    return {"public": _public(), "private": _private(), "fsx": _fsx(plan), "transit": _transit(plan)}


def _public() -> TierAcl:
    """The load balancers. Global Accelerator keeps the clients' addresses, so clients come from anywhere.

    For endpoints that keep them, its developer guide asks for the clients' ports in both directions; the inbound
    range covers the alternate listener 8080. Only load balancers stand here, and their group admits two ports.
    """
    return TierAcl(
        ingress=_numbered(
            _everything(CLUSTER, "within the cluster"),
            _tcp(ANYWHERE, (HTTPS, HTTPS), "clients to the load balancer's listener"),
            _tcp(ANYWHERE, CLIENT_PORTS, "what Global Accelerator asks for; the alternate listener"),
        ),
        egress=_numbered(
            _everything(CLUSTER, "within the cluster"),
            _tcp(ANYWHERE, CLIENT_PORTS, "answers to clients"),
        ),
    )


def _private() -> TierAcl:
    """Hosts, routers, control loops, interface endpoints.

    Load balancers give routers no client address, so clients are not seen here. S3 and DynamoDB keep public addresses
    behind their gateway endpoints, and an ACL takes no prefix list: hence port 443 to anywhere, and the answers. The
    tier's route tables lead nowhere else: no internet gateway, no NAT, two prefix lists.
    """
    return TierAcl(
        ingress=_numbered(
            _everything(CLUSTER, "within the cluster"),
            _tcp(ANYWHERE, OWN_PORTS, "answers of S3 and DynamoDB through their gateway endpoints"),
        ),
        egress=_numbered(
            _everything(CLUSTER, "within the cluster"),
            _tcp(ANYWHERE, (HTTPS, HTTPS), "S3 and DynamoDB through their gateway endpoints"),
        ),
    )


def _fsx(plan: RegionPlan) -> TierAcl:
    """Lustre file servers: Lustre's own ports, with this region's private tier and each other, and nothing else.

    FSx reaches the bucket of a data repository association from its own side, not through these subnets.
    """
    blocks = (*_joined(plan.private), *_joined(plan.fsx))
    rules = [
        _tcp(block, ports, "Lustre, in either direction") for block, ports in itertools.product(blocks, LUSTRE_PORTS)
    ]
    return TierAcl(ingress=_numbered(*rules), egress=_numbered(*rules))


def _transit(plan: RegionPlan) -> TierAcl:
    """The transit gateway's interfaces: TCP and ICMP of this region's private tier, in and out.

    On these subnets inbound rules see what leaves the region, by its source, and outbound rules see what enters it, by
    its destination; the far side is never seen (Amazon VPC, "How network ACLs work with transit gateways"). So the
    private tier is the only address that either needs, and no other tier can use the gateway at all.
    """
    rules = [
        rule
        for block in _joined(plan.private)
        for rule in (
            _tcp(block, (0, 65535), "the private tier to and from other regions"),
            AclRule(number=0, protocol="icmp", block=block, from_port=0, to_port=0, why="path MTU and reachability"),
        )
    ]
    return TierAcl(ingress=_numbered(*rules), egress=_numbered(*rules))


def _everything(block: IPv4Network, why: str) -> AclRule:
    return AclRule(number=0, protocol="-1", block=block, from_port=0, to_port=0, why=why)


def _tcp(block: IPv4Network, ports: tuple[int, int], why: str) -> AclRule:
    return AclRule(number=0, protocol="tcp", block=block, from_port=ports[0], to_port=ports[1], why=why)


def _joined(blocks: Iterable[IPv4Network]) -> tuple[IPv4Network, ...]:
    """Neighbouring subnets as one block: an ACL has 20 rules a direction, unless AWS is asked for more."""
    return tuple(collapse_addresses(blocks))


def _numbered(*rules: AclRule) -> tuple[AclRule, ...]:
    return tuple(replace(rule, number=FIRST_RULE + STEP * place) for place, rule in enumerate(rules))
