from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

import pulumi
import pulumi_aws as aws
import pytest

from components.addressing import plan_cluster
from components.placement import Placement
from components.transit import RegionTransit, RegionTransitArgs
from tests.support.pulumi_program import ACCOUNT, Program, record

BLOCKS = {
    "us-east-1": "10.66.0.0/18",
    "us-east-2": "10.66.64.0/18",
    "us-west-2": "10.66.128.0/18",
    "eu-west-1": "10.66.192.0/18",
}


def transit(count: int, region: str = "us-east-2") -> Program:
    plans = plan_cluster(dict(list(BLOCKS.items())[:count]))

    outputs: dict[str, Any] = {}

    def program() -> None:
        provider = aws.Provider(f"aws-{region}", region=region)
        made = RegionTransit(
            f"transit-{region}",
            RegionTransitArgs(
                placement=Placement(region=region, environment="dev", account=ACCOUNT),
                vpc_id="vpc-1",
                subnet_ids=["subnet-a", "subnet-b", "subnet-c"],
                route_table_ids=["rtb-a", "rtb-b", "rtb-c"],
                asn=64513,
                block=plans[region].block,
                peer_blocks={name: plan.block for name, plan in plans.items() if name != region},
            ),
            opts=pulumi.ResourceOptions(provider=provider),
        )
        pulumi.Output.all(
            gateway_id=made.gateway_id, attachment_id=made.attachment_id, route_table_id=made.route_table_id
        ).apply(outputs.update)

    return replace(record(program), outputs=outputs)


@pytest.fixture(scope="module", params=[3, 4])
def count(request: pytest.FixtureRequest) -> int:
    assert isinstance(request.param, int)
    return request.param


@pytest.fixture(scope="module")
def made(count: int) -> Program:
    return transit(count)


def test_the_gateway_has_its_own_asn_and_associates_and_propagates_nothing_by_itself(made: Program) -> None:
    gateway = made.one("ec2transitgateway/transitGateway:TransitGateway").inputs
    assert gateway["amazonSideAsn"] == 64513
    assert gateway["defaultRouteTableAssociation"] == "disable"
    assert gateway["defaultRouteTablePropagation"] == "disable"
    assert gateway["autoAcceptSharedAttachments"] == "disable", "another account's attachment is not let in unseen"
    attachment = made.one("ec2transitgateway/vpcAttachment:VpcAttachment").inputs
    assert attachment["transitGatewayDefaultRouteTableAssociation"] is False
    assert attachment["transitGatewayDefaultRouteTablePropagation"] is False
    assert made.of("ec2transitgateway/routeTablePropagation:RouteTablePropagation") == []


def test_the_vpc_is_attached_in_every_zone_and_associated_with_the_one_table(made: Program) -> None:
    attachment = made.one("ec2transitgateway/vpcAttachment:VpcAttachment").inputs
    assert attachment["vpcId"] == "vpc-1"
    assert attachment["subnetIds"] == ["subnet-a", "subnet-b", "subnet-c"]
    assert attachment["transitGatewayId"] == made.outputs["gateway_id"]
    association = made.one("ec2transitgateway/routeTableAssociation:RouteTableAssociation").inputs
    assert association["transitGatewayAttachmentId"] == made.outputs["attachment_id"]
    assert association["transitGatewayRouteTableId"] == made.outputs["route_table_id"]


def test_the_gateways_table_knows_its_own_block_and_nothing_else(made: Program) -> None:
    route = made.one("ec2transitgateway/route:Route").inputs
    assert route["destinationCidrBlock"] == "10.66.64.0/18"
    assert route["transitGatewayAttachmentId"] == made.outputs["attachment_id"]
    assert route["transitGatewayRouteTableId"] == made.outputs["route_table_id"]


def test_every_zones_table_leads_to_each_peers_block_and_only_there(made: Program, count: int) -> None:
    routes = [one.inputs for one in made.of("ec2/route:Route")]
    peers = {IPv4Network(text) for name, text in list(BLOCKS.items())[:count] if name != "us-east-2"}
    assert {(one["routeTableId"], IPv4Network(one["destinationCidrBlock"])) for one in routes} == {
        (table, peer) for table in ("rtb-a", "rtb-b", "rtb-c") for peer in peers
    }
    assert len(routes) == 3 * len(peers)
    assert {one["transitGatewayId"] for one in routes} == {made.outputs["gateway_id"]}


def test_routes_of_the_vpc_wait_for_the_attachment(made: Program) -> None:
    attachment = made.one("ec2transitgateway/vpcAttachment:VpcAttachment")
    for route in made.of("ec2/route:Route"):
        assert attachment.urn in route.dependencies


def test_what_aws_holds_once_is_deleted_before_it_is_replaced(made: Program) -> None:
    for kind in ("ec2transitgateway/route:Route", "ec2transitgateway/routeTableAssociation:RouteTableAssociation"):
        for one in made.of(kind):
            assert one.request.deleteBeforeReplace, f"a second {one.name} beside the first is refused"


def test_everything_is_the_components_child_tagged_and_in_its_region(made: Program) -> None:
    component = made.one("mrgc:transit:RegionTransit")
    children = [one for one in made if one.custom and not one.type.startswith("pulumi:providers:")]
    assert children
    for one in children:
        assert one.parent == component.urn, one.name
        assert made.region(one) == "us-east-2", one.name
        assert "region" not in one.inputs
    for kind in ("transitGateway:TransitGateway", "vpcAttachment:VpcAttachment", "routeTable:RouteTable"):
        tags = made.one(f"ec2transitgateway/{kind}").inputs["tags"]
        assert tags["mrgc:component"] == "transit"
        assert tags["mrgc:region"] == "us-east-2"
