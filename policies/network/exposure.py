"""Rules over ways in and out: no public address anywhere, no other door, routes that stay inside.

The accelerator's two addresses are AWS's own, load balancers are internal, and AWS's services are reached by
endpoints: nothing in a region has a use for a public address, in the public tier neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from policies.network.addresses import SUBNET
from policies.network.configuration import PUBLIC, REGIONS, TIERS, blocks, inside, network, tier_of
from policies.network.links import Links
from policies.rule import UNKNOWN, Config, Resource, ResourceRule, Rule, StackRule, known, listed, walk

PUBLIC_KEYS: Final = frozenset(
    {
        "mapPublicIpOnLaunch",
        "associatePublicIpAddress",
        "assignPublicIp",
        "createPublicIp",
        "associateCarrierIpAddress",
        "publiclyAccessible",
        "isPubliclyAccessible",
        "endpointPublicAccess",
        "publicIp",
        "publicIpv4Pool",
        "mapCustomerOwnedIpOnLaunch",
        "ipv6Addresses",
        "ipv6AddressCount",
        "ipv6AddressLists",
        "ipv6Prefixes",
        "ipv6PrefixCount",
        "enablePrimaryIpv6",
        "primaryIpv6",
    }
)
"""Properties that give something a public address, at whatever depth and of whatever resource they are."""

PUBLIC_TYPES: Final = {
    "aws:ec2/eip:Eip": "an elastic address is public",
    "aws:ec2/eipAssociation:EipAssociation": "it puts a public address on an interface",
    "aws:ec2/eipDomainName:EipDomainName": "it names a public address",
    "aws:ec2/natGateway:NatGateway": "hosts would reach the internet through it",
    "aws:ec2/natGatewayEipAssociation:NatGatewayEipAssociation": "hosts would reach the internet through it",
    "aws:ec2/egressOnlyInternetGateway:EgressOnlyInternetGateway": "hosts would reach the internet through it",
    "aws:ec2/carrierGateway:CarrierGateway": "hosts would reach a carrier's network through it",
}

DOORS: Final = {
    "aws:ec2/vpcPeeringConnection:": "regions are joined by the transit mesh alone",
    "aws:ec2/vpcPeeringConnectionAccepter:": "regions are joined by the transit mesh alone",
    "aws:ec2/vpnGateway": "no VPN leads into a region",
    "aws:ec2/vpnConnection": "no VPN leads into a region",
    "aws:ec2/vpnConcentrator:": "no VPN leads into a region",
    "aws:ec2/customerGateway:": "no VPN leads into a region",
    "aws:ec2/localGateway": "no local gateway leads out of a region",
    "aws:ec2/trafficMirror": "a mirror copies a host's traffic to elsewhere",
    "aws:ec2/networkInterfacePermission:": "another account could put an interface into the network",
    "aws:ec2/vpcBlockPublicAccessExclusion:": "it opens what the account keeps closed",
    "aws:ec2/serialConsoleAccess:": "the serial console is a way into hosts",
    "aws:ec2/amiLaunchPermission:": "an image of a host would be shared",
    "aws:ec2/snapshotCreateVolumePermission:": "a disk of a host would be shared",
    "aws:ec2/managedPrefixList": "what a prefix list holds changes without the rules that name it",
    "aws:ec2transitgateway/instanceConnectEndpoint:": "EC2 Instance Connect is a way into hosts",
    "aws:ec2transitgateway/connect": "transit gateways join the regions alone",
    "aws:ec2transitgateway/multicast": "transit gateways join the regions alone",
    "aws:ec2transitgateway/vpcAttachmentAccepter:": "another account's network would be joined",
    "aws:globalaccelerator/customRouting": "it leads to any address of a subnet, past the load balancers",
    "aws:globalaccelerator/crossAccountAttachment:": "another account could lead traffic here",
    "aws:vpc/routeServer": "routes would come from whoever speaks BGP",
    "aws:vpc/securityGroupVpcAssociation:": "a group would hold in a network that it was not written for",
    "aws:lambda/functionUrl:": "a function would have a public address",
    "aws:ec2/vpcEndpointConnectionAccepter:": "connections are accepted one by one, by hand",
    "aws:iam/accessKey:": "it opens the account from anywhere, for as long as nobody deletes it",
    "aws:iam/samlProvider:": "whoever another service names could take roles",
    "aws:iam/openIdConnectProvider:": "whoever another service names could take roles",
    "aws:iam/serviceSpecificCredential:": "it opens the account from anywhere, for as long as nobody deletes it",
    "aws:iam/signingCertificate:": "it opens the account from anywhere, for as long as nobody deletes it",
    "aws:iam/sshKey:": "it opens the account from anywhere, for as long as nobody deletes it",
    "aws:iam/userLoginProfile:": "it opens the account from anywhere, for as long as nobody deletes it",
    "aws:lb/targetGroupAttachment:": "services register their own tasks; whatever else it is would get what is theirs",
    "aws:alb/targetGroupAttachment:": "services register their own tasks; whatever else it is would get what is theirs",
    "aws:ec2/vpcDhcpOptions": "names are AWS's resolver's to answer, as endpoints need it",
    "aws:ec2/defaultVpcDhcpOptions:": "names are AWS's resolver's to answer, as endpoints need it",
    "aws:ecs/expressGatewayService:": "it makes a public load balancer of its own",
    "aws:route53/resolverEndpoint:": "names that hosts ask for would be asked elsewhere",
    "aws:route53/resolverRule": "names that hosts ask for would be asked elsewhere",
    "aws:route53/vpcAssociationAuthorization:": "another account's network would be joined to a zone",
    "aws:route53/zoneAssociation:": "a zone would answer in a network that it was not written for",
    "aws:elb/": "a classic load balancer has none of the guards that the rules ask for",
}
"""Ways around the accelerator, the mesh and the endpoints, by the beginning of the type."""

ROUTE: Final = "aws:ec2/route:Route"
TABLE: Final = "aws:ec2/routeTable:RouteTable"
DEFAULT_TABLE: Final = "aws:ec2/defaultRouteTable:DefaultRouteTable"
MAIN_TABLE: Final = "aws:ec2/mainRouteTableAssociation:MainRouteTableAssociation"
ASSOCIATION: Final = "aws:ec2/routeTableAssociation:RouteTableAssociation"
ANYWHERE: Final = "0.0.0.0/0"
NO_INTERNET_GATEWAY: Final = ("vgw-", "vpce-", "eigw-", "cagw-", "lgw-", "nat-", "odb", "local")
"""How ids of what a route may name as its gateway, and is no internet gateway, begin."""
INTERNET_GATEWAY: Final = "aws:ec2/internetGateway:InternetGateway"
NEXT_HOPS: Final = (
    "gatewayId",
    "transitGatewayId",
    "natGatewayId",
    "egressOnlyGatewayId",
    "carrierGatewayId",
    "localGatewayId",
    "networkInterfaceId",
    "instanceId",
    "vpcEndpointId",
    "vpcPeeringConnectionId",
    "coreNetworkArn",
    "odbNetworkArn",
)


def no_public_address(resource: Resource, _: Config) -> Iterator[str]:
    """Nothing asks for a public address."""
    why = PUBLIC_TYPES.get(resource.type)
    if why is not None:
        yield f"{resource.type} is not for this network: {why}."
        return
    for path, value in walk(resource.props):
        if path[-1] in PUBLIC_KEYS and known(value, ".".join(path)) not in (None, False, "", 0, "false", "DISABLED"):
            if isinstance(value, list) and not value:
                continue
            yield f"{'.'.join(path)} is {value!r}; leave it off."


def no_other_door(resource: Resource, _: Config) -> Iterator[str]:
    """No resource of a type that is a way around."""
    for prefix, why in DOORS.items():
        if resource.type.startswith(prefix):
            yield f"{resource.type} is not for this network: {why}."


def routes_inside(resource: Resource, config: Config) -> Iterator[str]:
    """A subnet's route leads to a region's block by the transit gateway, or anywhere by the internet gateway."""
    if resource.type != ROUTE:
        if listed(resource.at("propagatingVgws")):
            yield "propagatingVgws is set; routes would come from a VPN."
        if resource.at("routes") is UNKNOWN:
            known(UNKNOWN, "routes")
    for route in _routes(resource):
        yield from _judge_route(route, config)


def _judge_route(route: Mapping[str, Any], config: Config) -> Iterator[str]:
    for key in ("destinationIpv6CidrBlock", "ipv6CidrBlock"):
        if route.get(key) not in (None, ""):
            yield f"{key} is set; the network has IPv4 only."
    if route.get("destinationPrefixListId") not in (None, ""):
        yield "destinationPrefixListId is set; gateway endpoints add their lists by themselves, and no other is needed."
    hops = [key for key in NEXT_HOPS if route.get(key) not in (None, "")]
    cidr = _destination(route)
    if cidr in (None, ""):
        return
    destination = network(known(cidr, "destinationCidrBlock"))
    if destination is not None and inside(destination, blocks(config).values()):
        allowed = "transitGatewayId"
    elif cidr == ANYWHERE:
        allowed = "gatewayId"
    else:
        yield f"{cidr} is no region's block; routes lead to {_listing(config)}, and the public tier's to {ANYWHERE}."
        return
    if hops != [allowed]:
        yield f"The route to {cidr} goes by {', '.join(hops) or 'nothing'}; it may go by {allowed} alone."
    elif allowed == "gatewayId" and str(route[allowed]).startswith(NO_INTERNET_GATEWAY):
        yield f"The route to {cidr} goes by {route[allowed]}, which is no internet gateway."


def _listing(config: Config) -> str:
    return ", ".join(str(block) for block in blocks(config).values())


def _destination(route: Mapping[str, Any]) -> Any:
    """The IPv4 destination: a route resource and an inline route name it differently."""
    given = [route[key] for key in ("destinationCidrBlock", "cidrBlock") if route.get(key) not in (None, "")]
    return given[0] if given else None


def _routes(resource: Resource) -> Iterator[Mapping[str, Any]]:
    """The routes that a resource makes: a route is one, a table may have several inline."""
    found = [resource.props] if resource.type == ROUTE else listed(resource.at("routes"))
    yield from (one for one in found if isinstance(one, Mapping))


def internet_by_the_public_tier(resources: Sequence[Resource], config: Config) -> Iterator[tuple[str, str | None]]:
    """A table with a way out of the regions belongs to public subnets alone."""
    links = Links(resources)
    for resource in links.of(ROUTE, TABLE, DEFAULT_TABLE):
        if not any(_leads_out(route) for route in _routes(resource)):
            continue
        gateways = links.targets(resource, "gatewayId" if resource.type == ROUTE else "routes", INTERNET_GATEWAY)
        if not gateways:
            yield f"{resource.name} leads out of the regions by no internet gateway of this stack.", resource.urn
        tables = [resource]
        if resource.type == ROUTE:
            tables = links.targets(resource, "routeTableId", TABLE, DEFAULT_TABLE)
        if not tables:
            yield f"{resource.name} leads out of the regions from a table that is not in this stack.", resource.urn
        for table in tables:
            for sentence in _table_is_public(links, table, config):
                yield sentence, table.urn or None


def _leads_out(route: Mapping[str, Any]) -> bool:
    """Whether a route is the way to the internet; what else leads out of the regions is refused by itself."""
    return bool(_destination(route) == ANYWHERE)


def _table_is_public(links: Links, table: Resource, config: Config) -> Iterator[str]:
    if table.type == DEFAULT_TABLE:
        yield f"{table.name} is the network's main table and leads out; every subnet without a table would use it."
    for main in links.of(MAIN_TABLE):
        if table in links.targets(main, "routeTableId", TABLE):
            yield f"{table.name} leads out and is the main table; every subnet without a table would use it."
    for association in links.of(ASSOCIATION):
        if table not in links.targets(association, "routeTableId", TABLE, DEFAULT_TABLE):
            continue
        subnets = links.targets(association, "subnetId", SUBNET)
        if not subnets:
            yield f"{table.name} leads out and is associated by {association.name} with no subnet of this stack."
        for subnet in subnets:
            tier = tier_of(config, subnet.at("cidrBlock"))
            if tier != PUBLIC:
                yield f"{table.name} leads out and serves {subnet.name}, which is of the {tier or 'no'} tier."


RULES: Final[list[Rule]] = [
    ResourceRule(
        "no-public-addresses",
        no_public_address,
        protects="What has a public address can be reached, and can reach out, past the accelerator, the load "
        "balancers and the endpoints; GPU hosts, file servers and transit subnets above all.",
        fix="Leave public addresses, NAT and IPv6 off everywhere; AWS's services are reached by VPC endpoints.",
    ),
    ResourceRule(
        "no-other-door",
        no_other_door,
        protects="The accelerator is the one way in, the transit mesh the one way between regions, endpoints the one "
        "way to AWS; every other way would be bounded by no rule.",
        fix="Take the resource out.",
        types=("aws:",),
    ),
    ResourceRule(
        "routes-stay-inside",
        routes_inside,
        protects="A subnet's route decides where its packets can go at all; a wider one undoes the tiers.",
        fix="Route to the regions' blocks by the transit gateway, and 0.0.0.0/0 by the internet gateway from the "
        "public tier's table, and make no other route.",
        types=(ROUTE, TABLE, DEFAULT_TABLE),
        settings=(REGIONS,),
    ),
    StackRule(
        "internet-by-the-public-tier-only",
        internet_by_the_public_tier,
        protects="GPU hosts, file servers and transit subnets have no way to the internet and it has none to them.",
        fix="Associate the table with the internet gateway's route with public subnets only.",
        settings=(REGIONS, TIERS),
    ),
]
