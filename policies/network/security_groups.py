"""Rules over security groups: only those that are listed, with only the rules that are listed, worn by whom they fit.

`TABLE` is the whole of what may pass. A resource rule can't see the group that another resource's rule belongs to, so
before creation a rule must fit some line of the table; the stack rule then holds it to its own group's lines, at
preview already, since it knows references before ids exist.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Network
from typing import Any, Final

from policies.network.addresses import VPC
from policies.network.configuration import LISTENER_PORTS, REGIONS, TEXTS, cluster, network, ports
from policies.network.links import Links
from policies.network.load_balancers import BALANCERS
from policies.network.rows import PREFIX, Row, given, protocol_of, read, span
from policies.rule import UNKNOWN, Config, Resource, ResourceRule, Rule, Setting, StackRule, known, listed, tags, walk

GROUP: Final = "aws:ec2/securityGroup:SecurityGroup"
DEFAULT: Final = "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup"
LEGACY: Final = "aws:ec2/securityGroupRule:SecurityGroupRule"
INGRESS: Final = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
EGRESS: Final = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"
ENDPOINT: Final = "aws:ec2/vpcEndpoint:VpcEndpoint"
GROUP_TAG: Final = "mrgc:group"

TABLE: Final = Setting(
    name="securityGroups",
    description="What may pass, a line each: group, in or out, protocol, ports, peer (a group, a CIDR, or "
    "prefix:<service> for AWS's list of a gateway endpoint). Groups are known by their tag mrgc:group.",
    default=[
        "nlb in tcp 443 0.0.0.0/0",
        "nlb in tcp 8080 0.0.0.0/0",
        "nlb out tcp 443 router",
        "nlb out tcp 8080 router",
        "router in tcp 443 nlb",
        "router in tcp 8080 nlb",
        "router out tcp 443 gpu",
        "router out tcp 8080 gpu",
        "router out tcp 443 endpoints",
        "router out tcp 443 prefix:s3",
        "router out tcp 443 prefix:dynamodb",
        "gpu in tcp 443 router",
        "gpu in tcp 8080 router",
        "gpu in icmp any 10.66.0.0/16",
        "gpu out tcp 443 endpoints",
        "gpu out tcp 443 prefix:s3",
        "gpu out tcp 443 prefix:dynamodb",
        "gpu out tcp 988 fsx",
        "gpu out tcp 1018-1023 fsx",
        "fsx in tcp 988 gpu",
        "fsx in tcp 1018-1023 gpu",
        "fsx in tcp 988 fsx",
        "fsx in tcp 1018-1023 fsx",
        "fsx out tcp 988 fsx",
        "fsx out tcp 1018-1023 fsx",
        "control out tcp 443 endpoints",
        "control out tcp 443 prefix:s3",
        "control out tcp 443 prefix:dynamodb",
        "endpoints in tcp 443 gpu",
        "endpoints in tcp 443 router",
        "endpoints in tcp 443 control",
    ],
    schema=TEXTS,
)
WEARERS: Final = Setting(
    name="wearers",
    description="Which groups a resource of each type may wear.",
    default={
        "aws:lb/loadBalancer:LoadBalancer": ["nlb"],
        "aws:ec2/vpcEndpoint:VpcEndpoint": ["endpoints"],
        "aws:fsx/lustreFileSystem:LustreFileSystem": ["fsx"],
        "aws:ec2/launchTemplate:LaunchTemplate": ["gpu"],
        "aws:ecs/service:Service": ["router", "control"],
        "aws:lambda/function:Function": ["control"],
    },
    schema={"type": "object", "additionalProperties": TEXTS},
)
WORN_BY: Final = (
    "securityGroups",
    "securityGroupIds",
    "vpcSecurityGroupIds",
    "networkConfiguration",
    "networkInterfaces",
    "vpcConfig",
    "securityGroupId",
    "target",
    "ecsTarget",
)
"""Properties in which resources name the groups that they wear, or hold them somewhere inside."""
WORN_AS: Final = ("securityGroups", "securityGroupIds", "vpcSecurityGroupIds")
"""Properties that list groups themselves, at whatever depth."""


def groups_known(resource: Resource, config: Config) -> Iterator[str]:
    """A group is one of the table's and has no rule inside; AWS's default group has none at all."""
    if resource.type == LEGACY:
        yield "It can't be recognised and undoes separate rules; make aws.vpc.SecurityGroupIngressRule or EgressRule."
        return
    for direction in ("ingress", "egress"):
        if known(resource.at(direction), direction):
            yield f"It has {direction} rules inside; make each a resource of its own, so that it can be judged."
    if resource.type == DEFAULT:
        return
    group = tags(resource).get(GROUP_TAG)
    names = {row.whose for row in read(TABLE, config)}
    if group not in names:
        yield f"Its tag {GROUP_TAG} is {group or 'missing'}; the groups are {', '.join(sorted(names))}."


def no_open_ingress(resource: Resource, config: Config) -> Iterator[str]:
    """Nobody from outside the cluster is let in, but by TCP to a listener's port."""
    if resource.at("cidrIpv6") not in (None, ""):
        yield f"It admits {resource.at('cidrIpv6')}; the network has IPv4 only."
    cidr = known(resource.at("cidrIpv4"), "cidrIpv4")
    if cidr in (None, ""):
        return
    source = network(cidr)
    if source is not None and source.subnet_of(cluster(config)):
        return
    protocol, asked = _asked(resource)
    listeners = ports(config)
    if protocol != "tcp" or asked is None or not all(port in listeners for port in range(asked[0], asked[1] + 1)):
        yield (
            f"It admits {cidr} to {_words(protocol, asked)}; from outside the cluster only TCP to "
            f"{' and '.join(map(str, sorted(listeners)))} of the load balancer is let in."
        )


def rules_listed(resource: Resource, config: Config) -> Iterator[str]:
    """A rule fits a line of the table, of whichever group."""
    direction = "in" if resource.type == INGRESS else "out"
    peers = _peer_kinds(resource)
    if len(peers) != 1:
        yield f"It names {' and '.join(peers) or 'no peer'}; name one group, one CIDR or one prefix list."
        return
    protocol, asked = _asked(resource)
    rows = [row for row in read(TABLE, config) if row.direction == direction]
    if peers[0] == "cidrIpv6":
        if direction == "out":
            yield "It lets IPv6 out; the network has IPv4 only."
        return
    if peers[0] == "cidrIpv4":
        block = network(known(resource.at("cidrIpv4"), "cidrIpv4"))
        if direction == "in" and (block is None or not block.subnet_of(cluster(config))):
            return  # Whoever comes from outside is judged by no-open-ingress.
        fits = [row for row in rows if block is not None and row.admits(block)]
    elif peers[0] == "prefixListId":
        fits = [row for row in rows if str(row.peer).startswith(PREFIX)]
    else:
        fits = [row for row in rows if isinstance(row.peer, str) and not row.peer.startswith(PREFIX)]
    if asked is None or not any(row.covers(protocol, asked) for row in fits):
        yield f"No line of the table lets {_words(protocol, asked)} {direction} with {_peer(resource, peers[0])}."


def groups_listed(resources: Sequence[Resource], config: Config) -> Iterator[tuple[str, str | None]]:
    """Every rule is a line of its own group, every group one a region, every group on whom it is for."""
    links = Links(resources)
    rows = read(TABLE, config)
    for rule in links.of(INGRESS, EGRESS):
        for sentence in _held_to_its_group(links, rule, rows, config):
            yield sentence, rule.urn or None
    for one, other in itertools.combinations(links.of(GROUP), 2):
        group = tags(one).get(GROUP_TAG)
        if group == tags(other).get(GROUP_TAG) and str(one.region) == str(other.region):
            yield f"{one.name} and {other.name} are both the group {group} of {one.region}; there is one.", other.urn
    wearers: Mapping[str, Any] = WEARERS.read(config)
    for resource in resources:
        for sentence in itertools.chain(_worn(links, resource, wearers), _strange(links, resource, wearers)):
            yield sentence, resource.urn or None
    for vpc in links.of(VPC):
        if not any(vpc in links.targets(one, "vpcId", VPC) for one in links.of(DEFAULT)):
            yield (
                f"{vpc.name} keeps AWS's default group as it is, in which everything without a group meets.",
                vpc.urn or None,
            )


def _held_to_its_group(links: Links, rule: Resource, rows: Sequence[Row], config: Config) -> Iterator[str]:
    alone = itertools.chain(rules_listed(rule, config), no_open_ingress(rule, config) if rule.type == INGRESS else ())
    if next(alone, None) is not None:
        return  # Refused by itself, whatever its group.
    owners = links.targets(rule, "securityGroupId", GROUP, DEFAULT)
    if len(owners) != 1:
        yield f"{rule.name} belongs to no security group of this stack."
        return
    group = tags(owners[0]).get(GROUP_TAG, "default")
    direction = "in" if rule.type == INGRESS else "out"
    protocol, asked = _asked(rule)
    peer = _who(links, rule)
    if peer is None:
        yield f"{rule.name} names a peer that is not in this stack: neither a group, nor an endpoint's prefix list."
        return
    own = [row for row in rows if row.whose == group and row.direction == direction]
    if asked is None or not any(row.covers(protocol, asked) and row.admits(peer) for row in own):
        yield f"{rule.name} lets {_words(protocol, asked)} {direction} with {peer} for {group}, which is not listed."


def _who(links: Links, rule: Resource) -> str | IPv4Network | None:
    """The peer as a row names it."""
    kinds = _peer_kinds(rule)
    if kinds == ["cidrIpv4"]:
        return network(rule.at("cidrIpv4"))
    if kinds == ["referencedSecurityGroupId"]:
        found = links.targets(rule, "referencedSecurityGroupId", GROUP)
        return tags(found[0]).get(GROUP_TAG) if len(found) == 1 else None
    if kinds == ["prefixListId"]:
        found = links.targets(rule, "prefixListId", ENDPOINT)
        return PREFIX + str(found[0].at("serviceName")).rpartition(".")[2] if len(found) == 1 else None
    return None


def _worn(links: Links, resource: Resource, wearers: Mapping[str, Any]) -> Iterator[str]:
    if resource.type in (GROUP, INGRESS, EGRESS):
        return
    for key in WORN_BY:
        for group in links.targets(resource, key, GROUP):
            name = tags(group).get(GROUP_TAG)
            allowed = listed(wearers.get(resource.type))
            if name not in allowed:
                yield (
                    f"{resource.name} ({resource.type}) wears the group {name}; "
                    f"it may wear {' or '.join(allowed) if allowed else 'none'}."
                )


def _strange(links: Links, resource: Resource, wearers: Mapping[str, Any]) -> Iterator[str]:
    """Groups that are not of this stack, and AWS's default one, which is worn where no group is named."""
    if not resource.type.startswith("aws:") or resource.type in (GROUP, INGRESS, EGRESS):
        return
    worn = [
        (path, value)
        for path, value in walk(resource.props)
        if path[-1] in WORN_AS or (path[-1].isdigit() and path[-2] in WORN_AS)
    ]
    ids = [value for _, value in worn if not isinstance(value, list)]
    # What is not known yet is made from something, which is seen to where it is known who wears what.
    strangers = [value for value in ids if isinstance(value, str) and not links.named(value, GROUP)]
    yield from (f"{resource.name} wears {value}, which is no group of this stack." for value in strangers)
    if resource.type in wearers and not ids and _in_network(resource):
        yield f"{resource.name} ({resource.type}) names no group, so it wears AWS's default one."


def _in_network(resource: Resource) -> bool:
    """Whether it has an address, where no other rule asks for its group; functions may be outside."""
    if resource.type in (ENDPOINT, *BALANCERS):
        return False
    return not resource.type.startswith("aws:lambda/") or bool(resource.at("vpcConfig"))


def _asked(resource: Resource) -> tuple[str, tuple[int, int] | None]:
    protocol = protocol_of(known(resource.at("ipProtocol"), "ipProtocol"))
    first = known(resource.at("fromPort"), "fromPort")
    return protocol, span(protocol, first, known(resource.at("toPort"), "toPort"))


def _peer_kinds(resource: Resource) -> list[str]:
    return list(given(resource.props, ("cidrIpv4", "cidrIpv6", "prefixListId", "referencedSecurityGroupId")))


def _peer(resource: Resource, kind: str) -> str:
    value = resource.at(kind)
    return f"a {'group' if kind.startswith('ref') else 'prefix list'}" if value is UNKNOWN else str(value)


def _words(protocol: str, asked: tuple[int, int] | None) -> str:
    if protocol == "all" or asked is None:
        return "every protocol" if protocol == "all" else protocol
    return f"{protocol} {asked[0]}" if asked[0] == asked[1] else f"{protocol} {asked[0]}-{asked[1]}"


RULES: Final[list[Rule]] = [
    ResourceRule(
        "security-groups-are-known",
        groups_known,
        protects="A group that nobody listed, or a rule hidden inside one, opens what no reviewer has seen.",
        fix="Tag the group mrgc:group with one of the table's groups, and make each rule an aws.vpc.SecurityGroup"
        "IngressRule or EgressRule; leave AWS's default group empty.",
        types=(GROUP, DEFAULT, LEGACY),
        settings=(TABLE,),
    ),
    ResourceRule(
        "no-open-ingress",
        no_open_ingress,
        protects="Only the load balancer's listeners are for strangers; all else is reached from within the cluster.",
        fix="Name a group or addresses of the cluster as the source.",
        types=(INGRESS,),
        settings=(REGIONS, LISTENER_PORTS),
    ),
    ResourceRule(
        "security-group-rules-as-listed",
        rules_listed,
        protects="GPU hosts hear routers alone and reach file servers and endpoints alone; a rule that no line of the "
        "table covers would let more pass.",
        fix="Narrow the rule to a line of the table, or have the table changed by whoever reviews it.",
        types=(INGRESS, EGRESS),
        settings=(TABLE, REGIONS),
    ),
    StackRule(
        "security-groups-as-listed",
        groups_listed,
        protects="A line of the table is for one group and one peer, and a group for who is meant to wear it: a host "
        "in the load balancer's group would be open to everyone.",
        fix="Give each rule to the group and peer of its line, and each resource the group that is its own.",
        settings=(TABLE, WEARERS, REGIONS, LISTENER_PORTS),
    ),
]
