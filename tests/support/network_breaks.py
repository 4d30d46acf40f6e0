"""What breaks just one rule of the network pack: changes to the world that all of its rules accept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.support.network_world import ALLOWED, HOME, Made, Ref, World, document, made, tag, trust

R = HOME
Change = Callable[[World], None]


@dataclass(frozen=True, kw_only=True)
class Break:
    rule: str
    what: str
    change: Change

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}"


def change(name: str, **props: Any) -> Change:
    """Some properties of one resource are others; None takes one away."""

    def apply(world: World) -> None:
        world[name] = world[name].but(**props)

    return apply


def add(type_: str, region: str = R, name: str = "more", /, **props: Any) -> Change:
    """One resource more."""

    def apply(world: World) -> None:
        world[name] = made(type_, name, region, **props)

    return apply


def gone(*names: str) -> Change:
    """Some resources less."""

    def apply(world: World) -> None:
        for name in names:
            del world[name]

    return apply


def both(*changes: Change) -> Change:
    def apply(world: World) -> None:
        for one in changes:
            one(world)

    return apply


def swap(name: str, one: Made) -> Change:
    def apply(world: World) -> None:
        world[name] = one

    return apply


def breaks(rule: str, **changes: Change) -> Iterator[Break]:
    yield from (Break(rule=rule, what=what.replace("_", " "), change=one) for what, one in changes.items())


INGRESS = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
EGRESS = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"
INLINE = {"protocol": "tcp", "fromPort": 22, "toPort": 22, "cidrBlocks": ["0.0.0.0/0"]}


def ingress(group: str, **props: Any) -> Change:
    tcp = {"ipProtocol": "tcp", "fromPort": 443, "toPort": 443}
    return add(INGRESS, securityGroupId=Ref(f"{group}-{R}"), **{**tcp, **props})


def egress(group: str, **props: Any) -> Change:
    tcp = {"ipProtocol": "tcp", "fromPort": 443, "toPort": 443}
    return add(EGRESS, securityGroupId=Ref(f"{group}-{R}"), **{**tcp, **props})


def role(service: str, action: str, **more: Any) -> Change:
    policy = document({"Effect": "Allow", "Action": action, "Resource": "*"})
    return both(
        add("aws:iam/role:Role", R, "asker", assumeRolePolicy=trust(service), **more),
        add("aws:iam/rolePolicy:RolePolicy", R, "asks", role=Ref("asker"), policy=policy),
    )


def acl(direction: str, **entry: Any) -> Change:
    tcp = {"action": "allow", "protocol": "tcp", "cidrBlock": "0.0.0.0/0", "fromPort": 443, "toPort": 443}
    return change(f"acl-fsx-{R}", **{direction: [{**tcp, **entry}]})


def route(**props: Any) -> Change:
    return add("aws:ec2/route:Route", **{"routeTableId": Ref(f"table-private-{R}"), **props})


def health(**check: Any) -> Change:
    good = {"enabled": True, "protocol": "HTTP", "path": "/health", "interval": 10, "timeout": 5}
    merged = {**good, "unhealthyThreshold": 2, **check}
    return change(f"targets-{R}", healthCheck={key: value for key, value in merged.items() if value != ""})


def replicas(name: str, **fields: Any) -> Change:
    def apply(world: World) -> None:
        found = [dict(one) for one in world[name].props["replicas"]]
        found[0].update(fields)
        world[name] = world[name].but(replicas=found)

    return apply


ELSEWHERE = "eu-north-1"
MORE_ADDRESSES = "aws:ec2/vpcIpv4CidrBlockAssociation:VpcIpv4CidrBlockAssociation"
TRANSIT = "aws:ec2transitgateway/"

BREAKS: list[Break] = [
    *breaks(
        "only-configured-regions",
        another_region=add("aws:sns/topic:Topic", ELSEWHERE, kmsMasterKeyId=Ref(f"key-{R}")),
        a_provider_of_another_region=add("pulumi:providers:aws", "", "p", region=ELSEWHERE,
                                         allowedAccountIds=ALLOWED),
        a_provider_without_a_region=add("pulumi:providers:aws", "", "p", allowedAccountIds=ALLOWED),
        its_own_region_over_its_providers=change(f"topic-{R}", region=ELSEWHERE),
        neither_region_nor_provider=add("aws:sns/topic:Topic", "", kmsMasterKeyId=Ref(f"key-{R}")),
        copies_into_another_region=add("aws:s3/bucketMetric:BucketMetric", x={"destinationRegion": ELSEWHERE}),
        a_service_of_another_region=add("aws:ec2/vpcEndpointService:VpcEndpointService", acceptanceRequired=True,
                                        supportedRegions=[R, ELSEWHERE]),
    ),
    *breaks(
        "only-services-with-rules",
        a_stack_within=add("aws:cloudformation/stack:Stack", templateBody="{}"),
        anything_by_cloud_control=add("aws:cloudcontrol/resource:Resource", typeName="AWS::EC2::EIP"),
        an_old_name_of_a_service=add("aws:elasticloadbalancingv2/listenerRule:ListenerRule"),
        a_database=add("aws:rds/instance:Instance", storageEncrypted=True),
        aws_by_another_package=add("aws-native:ec2:Eip"),
        code_that_runs_at_deployment=add("pulumi-python:dynamic:Resource", ""),
        another_clouds_provider=add("pulumi:providers:gcp", ""),
        a_command=add("command:local:Command", "", create="aws ec2 allocate-address"),
    ),
    *breaks(
        "addresses-in-region-block",
        a_second_block=add(MORE_ADDRESSES, cidrBlock="100.64.0.0/16"),
        a_network_outside=add("aws:ec2/subnet:Subnet", R, f"fsx-1-{R}", cidrBlock="10.67.20.0/24"),
        no_tiers_subnet=change(f"fsx-1-{R}", cidrBlock="10.66.40.0/24", tags=None),
        a_tier_it_is_not=change(f"fsx-1-{R}", tags=tag(tier="public")),
        ipv6=change(f"vpc-{R}", assignGeneratedIpv6CidrBlock=True),
        ipv6_in_a_subnet=change(f"private-1-{R}", ipv6CidrBlock="2600:1f18::/64"),
        ipv6_beside=add("aws:ec2/vpcIpv6CidrBlockAssociation:VpcIpv6CidrBlockAssociation", vpcId=Ref(f"vpc-{R}")),
        a_pool=change(f"vpc-{R}", ipv4IpamPoolId="ipam-pool-1"),
        aws_default_network=add("aws:ec2/defaultVpc:DefaultVpc"),
        no_cidr=change(f"vpc-{R}", cidrBlock=None),
        host_bits=change(f"vpc-{R}", cidrBlock="10.66.0.1/18"),
        a_secondary_network=add("aws:ec2/secondaryNetwork:SecondaryNetwork"),
    ),
    *breaks(
        "addresses-do-not-overlap",
        two_networks=add(MORE_ADDRESSES, cidrBlock="10.66.32.0/20"),
    ),
    *breaks(
        "no-public-addresses",
        an_elastic_address=add("aws:ec2/eip:Eip"),
        a_nat=add("aws:ec2/natGateway:NatGateway", connectivityType="private"),
        a_way_out_for_ipv6=add("aws:ec2/egressOnlyInternetGateway:EgressOnlyInternetGateway"),
        a_subnet=change(f"private-1-{R}", mapPublicIpOnLaunch=True),
        a_subnet_of_the_public_tier=change(f"public-1-{R}", mapPublicIpOnLaunch="true"),
        a_hosts_interface=change(f"hosts-{R}", networkInterfaces=[
            {"securityGroups": [Ref(f"gpu-{R}")]}, {"associatePublicIpAddress": "true"}]),
        a_service=change(f"routers-{R}", networkConfiguration={
            "assignPublicIp": True, "securityGroups": [Ref(f"router-{R}")]}),
        a_scheduled_task=add("aws:cloudwatch/eventTarget:EventTarget", ecsTarget={
            "networkConfiguration": {"assignPublicIp": True}}),
        an_ipv6_address=change(f"hosts-{R}", networkInterfaces=[
            {"ipv6AddressCount": 1, "securityGroups": [Ref(f"gpu-{R}")]}]),
    ),
    *breaks(
        "no-other-door",
        vpc_peering=add("aws:ec2/vpcPeeringConnection:VpcPeeringConnection", vpcId=Ref(f"vpc-{R}")),
        accepted_vpc_peering=add("aws:ec2/vpcPeeringConnectionAccepter:VpcPeeringConnectionAccepter"),
        a_vpn=add("aws:ec2/vpnGateway:VpnGateway"),
        instance_connect=add("aws:ec2transitgateway/instanceConnectEndpoint:InstanceConnectEndpoint"),
        a_mirror=add("aws:ec2/trafficMirrorSession:TrafficMirrorSession"),
        a_functions_address=add("aws:lambda/functionUrl:FunctionUrl", authorizationType="NONE"),
        custom_routing=add("aws:globalaccelerator/customRoutingAccelerator:CustomRoutingAccelerator"),
        a_prefix_list=add("aws:ec2/managedPrefixList:ManagedPrefixList"),
        bgp=add("aws:vpc/routeServer:RouteServer"),
    ),
    *breaks(
        "routes-stay-inside",
        a_wider_block=route(destinationCidrBlock="10.66.0.0/16", transitGatewayId=Ref(f"gateway-{R}")),
        another_network=route(destinationCidrBlock="172.16.0.0/12", transitGatewayId=Ref(f"gateway-{R}")),
        half_of_everything=change(f"out-{R}", destinationCidrBlock="128.0.0.0/1"),
        a_region_by_an_interface=route(destinationCidrBlock="10.66.64.0/18", networkInterfaceId="eni-1"),
        a_region_by_vpc_peering=route(destinationCidrBlock="10.66.64.0/18", vpcPeeringConnectionId="pcx-1"),
        ipv6=route(destinationIpv6CidrBlock="fd00::/8", transitGatewayId=Ref(f"gateway-{R}"), destinationCidrBlock=""),
        a_prefix_list=route(destinationPrefixListId="pl-1", transitGatewayId=Ref(f"gateway-{R}")),
        inline=change(f"table-private-{R}", routes=[{"cidrBlock": "10.66.64.0/18", "natGatewayId": "nat-1"}]),
        a_vpns_routes=change(f"table-private-{R}", propagatingVgws=["vgw-1"]),
    ),
    *breaks(
        "internet-by-the-public-tier-only",
        from_the_private_tier=route(destinationCidrBlock="0.0.0.0/0", gatewayId=Ref(f"internet-{R}")),
        from_the_transit_tier_inline=change(
            f"table-transit-{R}", routes=[{"cidrBlock": "0.0.0.0/0", "gatewayId": Ref(f"internet-{R}")}]),
        a_private_subnet_in_the_public_table=change(f"in-private-1-{R}", routeTableId=Ref(f"table-public-{R}")),
        as_the_main_table=add("aws:ec2/mainRouteTableAssociation:MainRouteTableAssociation",
                              routeTableId=Ref(f"table-public-{R}")),
        the_default_table=add("aws:ec2/defaultRouteTable:DefaultRouteTable",
                              routes=[{"cidrBlock": "0.0.0.0/0", "gatewayId": Ref(f"internet-{R}")}]),
        a_table_of_elsewhere=change(f"out-{R}", routeTableId="rtb-0"),
        a_gateway_of_elsewhere=change(f"out-{R}", gatewayId="igw-0"),
    ),
    *breaks(
        "security-groups-are-known",
        an_unknown_group=add("aws:ec2/securityGroup:SecurityGroup", tags=tag(group="debug")),
        a_group_without_a_name=add("aws:ec2/securityGroup:SecurityGroup"),
        rules_inside=change(f"gpu-{R}", ingress=[INLINE]),
        rules_out_inside=change(f"gpu-{R}", egress=[{"protocol": "-1", "cidrBlocks": ["0.0.0.0/0"]}]),
        the_default_group_with_rules=change(f"default-group-{R}", ingress=[{"protocol": "-1", "self": True}]),
        an_old_rule=add("aws:ec2/securityGroupRule:SecurityGroupRule", type="ingress", **INLINE),
    ),
    *breaks(
        "no-open-ingress",
        ssh=ingress("nlb", fromPort=22, toPort=22, cidrIpv4="0.0.0.0/0"),
        half_of_everything=ingress("nlb", fromPort=22, toPort=22, cidrIpv4="128.0.0.0/1"),
        a_neighbours_network=ingress("router", fromPort=8081, toPort=8081, cidrIpv4="10.67.0.0/16"),
        a_range_over_the_listeners=ingress("nlb", fromPort=443, toPort=8080, cidrIpv4="0.0.0.0/0"),
        every_protocol=ingress("nlb", ipProtocol="-1", fromPort=None, toPort=None, cidrIpv4="0.0.0.0/0"),
        udp=ingress("nlb", ipProtocol="udp", cidrIpv4="0.0.0.0/0"),
        ipv6=ingress("nlb", cidrIpv6="::/0"),
    ),
    *breaks(
        "security-group-rules-as-listed",
        ssh_from_routers=ingress("gpu", fromPort=22, toPort=22, referencedSecurityGroupId=Ref(f"router-{R}")),
        ssh_within_the_cluster=ingress("gpu", fromPort=22, toPort=22, cidrIpv4="10.66.0.0/16"),
        a_wider_range=ingress("fsx", fromPort=988, toPort=1023, referencedSecurityGroupId=Ref(f"gpu-{R}")),
        all_of_it=ingress("gpu", ipProtocol="-1", fromPort=None, toPort=None,
                          referencedSecurityGroupId=Ref(f"router-{R}")),
        everything_out=egress("gpu", ipProtocol="-1", fromPort=None, toPort=None, cidrIpv4="0.0.0.0/0"),
        https_to_everywhere=egress("gpu", cidrIpv4="0.0.0.0/0"),
        dns_to_everywhere=egress("gpu", ipProtocol="17", fromPort=53, toPort=53, cidrIpv4="8.8.8.8/32"),
        ipv6_out=egress("gpu", cidrIpv6="::/0"),
        no_ports=ingress("gpu", fromPort=None, toPort=None, referencedSecurityGroupId=Ref(f"router-{R}")),
        no_peer=ingress("gpu"),
        two_peers=ingress("nlb", cidrIpv4="0.0.0.0/0", prefixListId=Ref(f"endpoint-s3-{R}")),
    ),
    *breaks(
        "security-groups-as-listed",
        a_host_in_the_load_balancers_group=change(
            f"hosts-{R}", networkInterfaces=[{"securityGroups": [Ref(f"nlb-{R}")]}]),
        a_host_open_to_everyone=ingress("gpu", cidrIpv4="0.0.0.0/0"),
        a_host_open_to_control=ingress("gpu", referencedSecurityGroupId=Ref(f"control-{R}")),
        files_open_to_routers=ingress("fsx", fromPort=988, toPort=988, referencedSecurityGroupId=Ref(f"router-{R}")),
        control_reaching_hosts=egress("control", referencedSecurityGroupId=Ref(f"gpu-{R}")),
        another_services_list=egress("gpu", prefixListId=Ref(f"endpoint-kms-{R}")),
        a_list_of_elsewhere=egress("gpu", prefixListId="pl-0"),
        a_group_of_elsewhere=ingress("gpu", referencedSecurityGroupId="sg-0"),
        a_rule_of_elsewheres_group=add(INGRESS, securityGroupId="sg-0", ipProtocol="tcp", fromPort=443, toPort=443,
                                       referencedSecurityGroupId=Ref(f"router-{R}")),
        two_of_one_group=add("aws:ec2/securityGroup:SecurityGroup", tags=tag(group="gpu")),
        worn_by_what_is_not_listed=add("aws:ec2/networkInterface:NetworkInterface", securityGroups=[Ref(f"gpu-{R}")]),
    ),
    *breaks(
        "network-acls-stay-closed",
        everyone_into_files=acl("ingress"),
        everyone_out_of_files=acl("egress"),
        ipv6=acl("ingress", cidrBlock="", ipv6CidrBlock="::/0"),
        every_protocol=change(f"acl-private-{R}", ingress=[
            {"action": "allow", "protocol": "-1", "cidrBlock": "0.0.0.0/0", "fromPort": 0, "toPort": 0}]),
        ssh_to_the_public_tier=change(f"acl-public-{R}", ingress=[
            {"action": "allow", "protocol": "6", "cidrBlock": "0.0.0.0/0", "fromPort": 22, "toPort": 22}]),
        an_entry_beside=add("aws:ec2/networkAclRule:NetworkAclRule", ruleAction="allow", protocol="tcp",
                            cidrBlock="0.0.0.0/0", fromPort=443, toPort=443),
        an_entry_of_the_default=change(f"default-acl-{R}", ingress=[
            {"action": "allow", "protocol": "-1", "cidrBlock": "10.66.0.0/16", "fromPort": 0, "toPort": 0}]),
    ),
    *breaks(
        "network-acl-on-every-subnet",
        a_subnet_without=change(f"acl-fsx-{R}", subnetIds=[Ref(f"fsx-1-{R}")]),
        another_tiers=change(f"acl-public-{R}", subnetIds=[Ref(f"{one}-{R}") for one in (
            "public-1", "public-2", "public-3", "private-1")]),
    ),
]  # fmt: skip
