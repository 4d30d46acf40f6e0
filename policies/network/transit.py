"""Rules over the transit mesh: every pair of regions peered, routes written by hand and to regions alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Final

from policies.network.addresses import VPC
from policies.network.configuration import REGIONS, blocks, inside, network
from policies.network.links import Links
from policies.rule import Config, Resource, ResourceRule, Rule, StackRule, is_true, known

_MODULE: Final = "aws:ec2transitgateway/"
GATEWAY: Final = _MODULE + "transitGateway:TransitGateway"
ATTACHMENT: Final = _MODULE + "vpcAttachment:VpcAttachment"
PEERING: Final = _MODULE + "peeringAttachment:PeeringAttachment"
ACCEPTER: Final = _MODULE + "peeringAttachmentAccepter:PeeringAttachmentAccepter"
ROUTE: Final = _MODULE + "route:Route"
UNWRITTEN: Final = {
    _MODULE + "routeTablePropagation:RouteTablePropagation": "routes would come from the other side",
    _MODULE + "prefixListReference:PrefixListReference": "where it leads changes with a list",
    _MODULE + "policyTable:PolicyTable": "a policy would choose the table",
    _MODULE + "policyTableAssociation:PolicyTableAssociation": "a policy would choose the table",
    _MODULE + "policyTableEntry:PolicyTableEntry": "a policy would choose the table",
    _MODULE + "defaultRouteTableAssociation:DefaultRouteTableAssociation": "whatever is attached would be associated",
    _MODULE + "defaultRouteTablePropagation:DefaultRouteTablePropagation": "whatever is attached would propagate",
}
"""Ways for a route to come about that nobody wrote down."""
OFF: Final = ("defaultRouteTableAssociation", "defaultRouteTablePropagation", "autoAcceptSharedAttachments")
"""Properties of a gateway that must say "disable"; AWS's default of the first two is "enable"."""


def routes_to_regions(resource: Resource, config: Config) -> Iterator[str]:
    """A transit gateway's static route leads to a region's block, or drops."""
    if resource.type != ROUTE:
        yield f"{resource.type} is not for this mesh: {UNWRITTEN[resource.type]}; write static routes."
        return
    if is_true(known(resource.at("blackhole"), "blackhole")):
        return
    cidr = known(resource.at("destinationCidrBlock"), "destinationCidrBlock")
    destination = network(cidr)
    regions = blocks(config)
    if destination is None or not any(inside(destination, [block]) for block in regions.values()):
        listing = ", ".join(f"{block} ({region})" for region, block in regions.items())
        yield f"It leads to {cidr}, which is within no region's block; those are {listing}."


def gateway_waits(resource: Resource, _: Config) -> Iterator[str]:
    """A gateway associates, propagates and accepts nothing by itself."""
    for key in OFF:
        value = known(resource.at(key), key)
        if value != "disable" and not (value is None and key == "autoAcceptSharedAttachments"):
            yield f"{key} is {value or 'left to AWS, which enables it'}; disable it."


def full_mesh(resources: Sequence[Resource], config: Config) -> Iterator[tuple[str, str | None]]:
    """A gateway in every region, attached to its network, and one accepted peering for every pair."""
    links = Links(resources)
    if not links.of(VPC, GATEWAY):
        return
    regions = tuple(blocks(config))
    for region in regions:
        found = [one for one in links.of(GATEWAY) if one.region == region]
        if len(found) != 1:
            yield f"{region} has {len(found) or 'no'} transit gateways; it has one.", None
        if not any(one.region == region for one in links.of(ATTACHMENT)):
            yield f"{region}'s network is attached to no transit gateway.", None
    yield from _peerings(links, regions)


def _peerings(links: Links, regions: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    accepted: dict[frozenset[str], list[Resource]] = {}
    for peering in links.of(PEERING):
        ends = str(peering.region), str(peering.at("peerRegion"))
        for key, end in (("transitGatewayId", ends[0]), ("peerTransitGatewayId", ends[1])):
            gateways = links.targets(peering, key, GATEWAY)
            if not any(gateway.region == end for gateway in gateways):
                yield f"{peering.name} does not lead to {end}'s transit gateway of this stack ({key}).", peering.urn
        for accepter in links.of(ACCEPTER):
            if peering in links.targets(accepter, "transitGatewayAttachmentId", PEERING):
                if accepter.region != ends[1]:
                    yield f"{accepter.name} accepts in {accepter.region} what was asked of {ends[1]}.", accepter.urn
                accepted.setdefault(frozenset(ends), []).append(peering)
                break
        else:
            yield f"{peering.name} is accepted by nobody in {ends[1]}.", peering.urn
    for pair in itertools.combinations(regions, 2):
        if len(found := accepted.get(frozenset(pair), [])) != 1:
            yield f"{pair[0]} and {pair[1]} have {len(found) or 'no'} accepted peerings; every pair has one.", None


RULES: Final[list[Rule]] = [
    ResourceRule(
        "transit-routes-only-to-region-blocks",
        routes_to_regions,
        protects="The mesh carries what one region has for another, and nothing that a wider route would bring along.",
        fix="Give the route one region's block, or make it a blackhole; write every route as a static one.",
        types=(ROUTE, *UNWRITTEN),
        settings=(REGIONS,),
    ),
    ResourceRule(
        "transit-gateways-wait-for-routes",
        gateway_waits,
        protects="A gateway that associates or propagates by default routes whatever is attached to it.",
        fix="Set default_route_table_association, default_route_table_propagation and auto_accept_shared_attachments "
        'to "disable".',
        types=(GATEWAY,),
    ),
    StackRule(
        "transit-mesh-is-full",
        full_mesh,
        protects="With every pair of regions peered, the loss of one peering leaves a way through a third region.",
        fix="Give every region a transit gateway, attached to its network, and every pair one accepted peering.",
        settings=(REGIONS,),
    ),
]
