from __future__ import annotations

import itertools
from collections.abc import Sequence

import pulumi_aws as aws
import pytest

from components.addressing import plan_cluster
from components.mesh import TransitMesh, TransitMeshArgs
from components.mesh_routes import MeshError
from components.placement import Placement
from tests.support.pulumi_program import ACCOUNT, Program, Recorded, record

BLOCKS = {
    "us-east-1": "10.66.0.0/18",
    "us-east-2": "10.66.64.0/18",
    "us-west-2": "10.66.128.0/18",
    "eu-west-1": "10.66.192.0/18",
}
PEERING = "ec2transitgateway/peeringAttachment:PeeringAttachment"
ACCEPTER = "ec2transitgateway/peeringAttachmentAccepter:PeeringAttachmentAccepter"
ASSOCIATION = "ec2transitgateway/routeTableAssociation:RouteTableAssociation"
ROUTE = "ec2transitgateway/route:Route"


def mesh(count: int, lost: Sequence[tuple[str, str]] = ()) -> Program:
    regions = list(BLOCKS)[:count]

    def program() -> None:
        TransitMesh(
            "mesh",
            TransitMeshArgs(
                placements={region: Placement(region=region, environment="dev", account=ACCOUNT) for region in regions},
                plans=plan_cluster({region: BLOCKS[region] for region in regions}),
                gateways={region: f"tgw-{region}" for region in regions},
                route_tables={region: f"tgw-rtb-{region}" for region in regions},
                providers={region: aws.Provider(f"aws-{region}", region=region) for region in regions},
                lost_peerings=lost,
            ),
        )

    return record(program)


@pytest.fixture(scope="module", params=[3, 4])
def count(request: pytest.FixtureRequest) -> int:
    assert isinstance(request.param, int)
    return request.param


@pytest.fixture(scope="module")
def made(count: int) -> Program:
    return mesh(count)


def accepted(made: Program, one: str, other: str) -> str:
    """The id that the accepter of a peering has under mocks: its name, then a hash."""
    found = made.one(ACCEPTER, f"mesh-{one}-{other}-accepter")
    ids = {
        route.inputs["transitGatewayAttachmentId"]
        for kind in (ASSOCIATION, ROUTE)
        for route in made.of(kind)
        if str(route.inputs.get("transitGatewayAttachmentId", "")).startswith(found.name + "-")
    }
    assert len(ids) == 1, ids
    return str(ids.pop())


def leads(made: Program) -> dict[tuple[str, str], str]:
    """Table and block to attachment, for what is no blackhole."""
    return {
        (route.inputs["transitGatewayRouteTableId"], route.inputs["destinationCidrBlock"]): route.inputs[
            "transitGatewayAttachmentId"
        ]
        for route in made.of(ROUTE)
        if not route.inputs.get("blackhole")
    }


def names(found: list[Recorded]) -> set[str]:
    return {one.name for one in found}


def test_every_pair_of_regions_is_peered_asked_for_in_one_and_accepted_in_the_other(made: Program, count: int) -> None:
    pairs = list(itertools.combinations(list(BLOCKS)[:count], 2))
    assert names(made.of(PEERING)) == {f"mesh-{one}-{other}" for one, other in pairs}
    for one, other in pairs:
        asked = made.one(PEERING, f"mesh-{one}-{other}")
        assert made.region(asked) == one
        assert asked.inputs["peerRegion"] == other
        assert asked.inputs["transitGatewayId"] == f"tgw-{one}"
        assert asked.inputs["peerTransitGatewayId"] == f"tgw-{other}"
        assert asked.inputs["peerAccountId"] == ACCOUNT
        accepter = made.one(ACCEPTER, f"mesh-{one}-{other}-accepter")
        assert made.region(accepter) == other
        assert asked.urn in accepter.dependencies


def test_both_ends_of_a_peering_use_the_regions_one_table_after_it_is_accepted(made: Program, count: int) -> None:
    for one, other in itertools.combinations(list(BLOCKS)[:count], 2):
        accepter = made.one(ACCEPTER, f"mesh-{one}-{other}-accepter")
        for end in (one, other):
            association = made.one(ASSOCIATION, f"mesh-{one}-{other}-table-{end}")
            assert made.region(association) == end
            assert association.inputs["transitGatewayRouteTableId"] == f"tgw-rtb-{end}"
            assert association.inputs["transitGatewayAttachmentId"] == accepted(made, one, other)
            assert accepter.urn in association.dependencies


def test_each_table_leads_straight_to_every_other_regions_block(made: Program, count: int) -> None:
    regions = list(BLOCKS)[:count]
    expected = {}
    for one, other in itertools.combinations(regions, 2):
        expected[f"tgw-rtb-{one}", BLOCKS[other]] = accepted(made, one, other)
        expected[f"tgw-rtb-{other}", BLOCKS[one]] = accepted(made, one, other)
    assert leads(made) == expected


def test_every_route_over_a_peering_waits_for_its_acceptance_and_association(made: Program) -> None:
    for route in made.of(ROUTE):
        if route.inputs.get("blackhole"):
            continue
        waits = {one.type.rsplit(":", 1)[1] for one in made if one.urn in route.dependencies}
        assert waits == {"PeeringAttachmentAccepter", "RouteTableAssociation"}, route.name


def test_every_table_drops_the_rest_of_the_cluster_and_all_private_addresses(made: Program, count: int) -> None:
    drops = [route for route in made.of(ROUTE) if route.inputs.get("blackhole")]
    assert all("transitGatewayAttachmentId" not in route.inputs for route in drops)
    found = {(route.inputs["transitGatewayRouteTableId"], route.inputs["destinationCidrBlock"]) for route in drops}
    assert found == {
        (f"tgw-rtb-{region}", block)
        for region in list(BLOCKS)[:count]
        for block in ("10.66.0.0/16", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
    }


def test_every_resource_is_made_by_the_provider_of_its_table(made: Program) -> None:
    for one in made.of(ROUTE) + made.of(ASSOCIATION):
        assert one.inputs["transitGatewayRouteTableId"] == f"tgw-rtb-{made.region(one)}", one.name


def test_everything_is_the_meshs_child_and_peerings_are_tagged(made: Program) -> None:
    component = made.one("mrgc:mesh:TransitMesh")
    for one in made:
        if one.custom and not one.type.startswith("pulumi:providers:"):
            assert one.parent == component.urn, one.name
            assert "region" not in one.inputs
    for one in made.of(PEERING) + made.of(ACCEPTER):
        assert one.inputs["tags"]["mrgc:component"] == "mesh"
        assert one.inputs["tags"]["mrgc:region"] == made.region(one)


def test_a_lost_peering_stays_attached_and_only_the_two_routes_over_it_change(count: int, made: Program) -> None:
    after = mesh(count, [("us-west-2", "us-east-1")])
    for kind in (PEERING, ACCEPTER, ASSOCIATION, ROUTE):
        assert names(after.of(kind)) == names(made.of(kind)), "names stay, or the mesh would be built anew"
    changed = {key: via for key, via in leads(after).items() if leads(made)[key] != via}
    assert changed == {
        ("tgw-rtb-us-east-1", BLOCKS["us-west-2"]): accepted(after, "us-east-1", "us-east-2"),
        ("tgw-rtb-us-west-2", BLOCKS["us-east-1"]): accepted(after, "us-east-2", "us-west-2"),
    }


def test_what_aws_holds_once_is_deleted_before_it_is_replaced(made: Program) -> None:
    for one in made.of(ROUTE) + made.of(ASSOCIATION):
        assert one.request.deleteBeforeReplace, f"a second {one.name} beside the first is refused"


def test_a_region_that_would_be_cut_off_stops_the_program_before_anything_is_planned() -> None:
    with pytest.raises(MeshError, match=r"^us-east-1 is cut off: all its peerings are named as lost"):
        mesh(3, [("us-east-1", "us-east-2"), ("us-east-1", "us-west-2")])
