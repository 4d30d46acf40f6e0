"""One region's network as the engine would be told of it, in each of four regions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import IPv4Network
from typing import Any

import pulumi
import pulumi_aws as aws
import pytest

from components.addressing import plan_cluster
from components.endpoint_policies import endpoint_policy
from components.flow_logs import FlowLogsArgs, delivery_policy, trust_policy
from components.network import RegionNetwork, RegionNetworkArgs
from components.network_acl import tier_acls
from components.placement import Placement
from tests.support.aws_outputs import identity
from tests.support.pulumi_program import ACCOUNT, Program, Recorded, record

BLOCKS = {
    "us-east-1": "10.66.0.0/18",
    "us-east-2": "10.66.64.0/18",
    "us-west-2": "10.66.128.0/18",
    "eu-west-1": "10.66.192.0/18",
}
PLANS = plan_cluster(BLOCKS)
KEY = "arn:aws:kms:us-east-1:123456789012:key/logs"
ANYWHERE = "0.0.0.0/0"
ATTRIBUTES = (
    "vpc_id", "public_subnet_ids", "private_subnet_ids", "fsx_subnet_ids", "transit_subnet_ids",
    "public_route_table_id", "private_route_table_ids", "fsx_route_table_id", "transit_route_table_id",
    "s3_prefix_list_id", "dynamodb_prefix_list_id", "flow_log_group_name",
)  # fmt: skip


def placement(region: str, environment: str = "dev") -> Placement:
    return Placement(region=region, environment=environment, account=ACCOUNT)


def network_args(region: str, *, zones: tuple[str, ...] | None = None, log_days: int = 90) -> RegionNetworkArgs:
    return RegionNetworkArgs(
        placement=placement(region),
        plan=PLANS[region],
        zones=zones or (f"{region}a", f"{region}b", f"{region}c"),
        logs_key_arn=KEY,
        log_days=log_days,
    )


def build(region: str, *, log_days: int = 90) -> Program:
    """The recorded network; `outputs` are the component's attributes."""
    seen: dict[str, Any] = {}

    def program() -> None:
        provider = aws.Provider(f"aws-{region}", region=region)
        made = RegionNetwork(
            f"network-{region}",
            network_args(region, log_days=log_days),
            opts=pulumi.ResourceOptions(provider=provider),
        )
        pulumi.Output.all(**{name: getattr(made, name) for name in ATTRIBUTES}).apply(seen.update)

    recorded = record(program)
    recorded.outputs = seen
    return recorded


@pytest.fixture(scope="module", params=sorted(BLOCKS))
def region(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def made(region: str) -> Program:
    return build(region)


def tier(program: Program, type_: str, what: str) -> Recorded:
    found = [one for one in program.of(type_) if one.inputs.get("tags", {}).get("mrgc:tier") == what]
    assert len(found) == 1
    return found[0]


def ident(resource: Recorded) -> str:
    return identity(resource.type, resource.name)


def test_everything_is_in_the_region_by_the_components_provider_and_under_the_component(
    made: Program, region: str
) -> None:
    component = made.one("mrgc:network:RegionNetwork")
    flow_logs = made.one("mrgc:flow_logs:FlowLogs")
    assert flow_logs.parent == component.urn
    for one in made:
        if not one.type.startswith("aws:"):
            continue
        assert one.parent in {component.urn, flow_logs.urn}, f"{one.name} has no parent"
        assert made.region(one) == region
        assert "region" not in one.inputs, f"{one.name} names a region beside its provider's"


def test_the_vpc_has_the_regions_block_and_names_for_private_dns(made: Program, region: str) -> None:
    vpc = made.one("ec2/vpc:Vpc").inputs
    assert vpc["cidrBlock"] == str(PLANS[region].block)
    assert vpc["enableDnsSupport"] is True
    assert vpc["enableDnsHostnames"] is True
    assert "assignGeneratedIpv6CidrBlock" not in vpc, "the rules are written for IPv4 alone"


def test_every_subnet_of_the_plan_is_there_in_its_zone_without_public_addresses(made: Program, region: str) -> None:
    subnets = {one.inputs["cidrBlock"]: one.inputs for one in made.of("ec2/subnet:Subnet")}
    assert set(subnets) == {str(subnet) for subnet in PLANS[region].subnets()}
    for name, blocks in PLANS[region].tiers():
        zones = [subnets[str(block)]["availabilityZone"] for block in blocks]
        assert zones == [f"{region}{letter}" for letter in "abc"[: len(blocks)]]
        assert all(subnets[str(block)]["tags"]["mrgc:tier"] == name for block in blocks)
    assert all(one["mapPublicIpOnLaunch"] is False for one in subnets.values())


def test_only_the_public_tier_has_a_route_to_the_internet(made: Program) -> None:
    table = made.one("ec2/routeTable:RouteTable", f"{made.one('mrgc:network:RegionNetwork').name}-public-routes")
    route = made.one("ec2/route:Route").inputs
    assert route["destinationCidrBlock"] == ANYWHERE
    assert route["gatewayId"] == ident(made.one("ec2/internetGateway:InternetGateway"))
    assert route["routeTableId"] == ident(table)
    assert all("routes" not in one.inputs for one in made.of("ec2/routeTable:RouteTable")), "inline routes fight others"
    public = {ident(one) for one in made.of("ec2/subnet:Subnet") if one.inputs["tags"]["mrgc:tier"] == "public"}
    associated = {
        one.inputs["subnetId"]
        for one in made.of("ec2/routeTableAssociation:RouteTableAssociation")
        if one.inputs["routeTableId"] == ident(table)
    }
    assert associated == public


def test_every_subnet_has_a_route_table_and_each_private_zone_its_own(made: Program) -> None:
    associations = [one.inputs for one in made.of("ec2/routeTableAssociation:RouteTableAssociation")]
    assert sorted(one["subnetId"] for one in associations) == sorted(ident(one) for one in made.of("ec2/subnet:Subnet"))
    tables = {one["subnetId"]: one["routeTableId"] for one in associations}
    private = [tables[subnet] for subnet in made.outputs["private_subnet_ids"]]
    assert private == made.outputs["private_route_table_ids"]
    assert len(set(private)) == 3


def test_there_is_no_nat_and_no_address_of_the_internet(made: Program) -> None:
    types = {one.type for one in made}
    assert not types & {"aws:ec2/natGateway:NatGateway", "aws:ec2/eip:Eip", "aws:ec2/egressOnlyInternetGateway"}


@pytest.mark.parametrize("name", ["public", "private", "fsx", "transit"])
def test_each_tier_has_its_acl_on_all_its_subnets_with_the_tables_rules(made: Program, region: str, name: str) -> None:
    acl = tier(made, "ec2/networkAcl:NetworkAcl", name).inputs
    assert acl["subnetIds"] == made.outputs[f"{name}_subnet_ids"]
    table = tier_acls(PLANS[region])[name]
    for direction, rules in (("ingress", table.ingress), ("egress", table.egress)):
        assert [
            (rule["ruleNo"], rule["protocol"], rule["cidrBlock"], rule["fromPort"], rule["toPort"])
            for rule in acl[direction]
        ] == [(rule.number, rule.protocol, str(rule.block), rule.from_port, rule.to_port) for rule in rules]
        assert {rule["action"] for rule in acl[direction]} == {"allow"}
        for rule in acl[direction]:
            if rule["protocol"] == "icmp":
                assert (rule["icmpType"], rule["icmpCode"]) == (-1, -1), "0 would be the echo reply alone"


def test_what_a_vpc_comes_with_is_taken_over_and_empty(made: Program) -> None:
    group = made.one("ec2/defaultSecurityGroup:DefaultSecurityGroup").inputs
    assert group["vpcId"] == made.outputs["vpc_id"]
    assert "ingress" not in group
    assert "egress" not in group
    acl = made.one("ec2/defaultNetworkAcl:DefaultNetworkAcl")
    assert acl.inputs["defaultNetworkAclId"].startswith("defaultNetworkAclId-network-")
    assert "ingress" not in acl.inputs
    assert "egress" not in acl.inputs
    assert acl.ignore_changes == ("subnetIds",), "each subnet passes through it on its way to its own ACL"


@pytest.mark.parametrize("service", ["s3", "dynamodb"])
def test_gateway_endpoints_are_in_the_private_route_tables_alone_with_their_policy(
    made: Program, region: str, service: str
) -> None:
    endpoint = made.one("ec2/vpcEndpoint:VpcEndpoint", f"network-{region}-{service}").inputs
    assert endpoint["vpcEndpointType"] == "Gateway"
    assert endpoint["serviceName"] == f"com.amazonaws.{region}.{service}"
    assert endpoint["routeTableIds"] == made.outputs["private_route_table_ids"]
    assert endpoint["policy"] == endpoint_policy(placement(region), service)
    assert made.outputs[f"{service}_prefix_list_id"].startswith(f"prefixListId-network-{region}-{service}")


def test_all_traffic_is_logged_encrypted_and_kept(made: Program, region: str) -> None:
    log = made.one("ec2/flowLog:FlowLog")
    assert log.inputs["trafficType"] == "ALL"
    assert log.inputs["vpcId"] == made.outputs["vpc_id"]
    assert log.inputs["maxAggregationInterval"] == 60
    assert log.inputs["logFormat"].startswith("${version} ${account-id} ${interface-id} ")
    group = made.one("cloudwatch/logGroup:LogGroup")
    assert group.inputs["kmsKeyId"] == KEY
    assert group.inputs["retentionInDays"] == 90
    assert group.inputs["name"] == made.outputs["flow_log_group_name"] == "/mrgc/dev/flow-logs"
    role = made.one("iam/role:Role").inputs
    assert role["assumeRolePolicy"] == trust_policy(placement(region))
    assert "name" not in role, "one account holds every region's role"
    delivery = made.one("iam/rolePolicy:RolePolicy")
    assert delivery.inputs["policy"] == delivery_policy(placement(region), "/mrgc/dev/flow-logs")
    assert delivery.urn in log.dependencies, "the log must not start before its role can write"


def test_the_flow_logs_role_is_taken_for_this_accounts_flow_logs_of_this_region_alone() -> None:
    (statement,) = json.loads(trust_policy(placement("us-east-2")))["Statement"]
    assert statement["Principal"] == {"Service": "vpc-flow-logs.amazonaws.com"}
    assert statement["Condition"] == {
        "StringEquals": {"aws:SourceAccount": ACCOUNT},
        "ArnLike": {"aws:SourceArn": f"arn:aws:ec2:us-east-2:{ACCOUNT}:vpc-flow-log/*"},
    }


def test_the_flow_logs_role_writes_to_its_own_group_and_nowhere_else() -> None:
    (statement,) = json.loads(delivery_policy(placement("us-east-2"), "/mrgc/dev/flow-logs"))["Statement"]
    group = f"arn:aws:logs:us-east-2:{ACCOUNT}:log-group:/mrgc/dev/flow-logs"
    assert statement["Resource"] == [group, f"{group}:*"]
    assert "logs:CreateLogGroup" not in statement["Action"]


def test_the_retention_is_the_stacks() -> None:
    assert build("us-east-1", log_days=365).one("cloudwatch/logGroup:LogGroup").inputs["retentionInDays"] == 365


def test_a_shorter_retention_than_90_days_is_refused() -> None:
    with pytest.raises(ValueError, match=r"us-east-1: flow logs are kept 89 days; keep them 90 or more\."):
        FlowLogsArgs(placement=placement("us-east-1"), vpc_id="vpc-1", key_arn=KEY, days=89)


@pytest.mark.parametrize("zones", [("us-east-1a", "us-east-1b"), ("us-east-1a", "us-east-1b", "us-east-1a")])
def test_anything_but_three_zones_is_refused(zones: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="us-east-1: zones are us-east-1a, us-east-1b"):
        network_args("us-east-1", zones=zones)


def test_everything_that_takes_tags_says_whose_it_is(made: Program, region: str) -> None:
    untagged = {"ec2/route:Route", "ec2/routeTableAssociation:RouteTableAssociation", "iam/rolePolicy:RolePolicy"}
    for one in made:
        if one.type.startswith("aws:") and one.type.removeprefix("aws:") not in untagged:
            tags: Mapping[str, Any] = one.inputs["tags"]
            assert tags["mrgc:region"] == region, one.name
            assert tags["mrgc:component"] in {"network", "flow-logs"}
            assert "Name" in tags


def test_no_output_is_missing_and_none_was_glued_into_a_name(made: Program) -> None:
    assert set(made.outputs) >= set(ATTRIBUTES)
    for name, value in made.outputs.items():
        for text in value if isinstance(value, list) else [value]:
            assert text, name
            assert "None" not in text
    assert len(made.outputs["public_subnet_ids"]) == 3
    assert len(made.outputs["fsx_subnet_ids"]) == 2
    assert len(made.outputs["transit_subnet_ids"]) == 3


def test_regions_share_no_address() -> None:
    blocks = [IPv4Network(one.inputs["cidrBlock"]) for region in BLOCKS for one in build(region).of("ec2/vpc:Vpc")]
    assert len(blocks) == 4
    assert not any(one.overlaps(other) for place, one in enumerate(blocks) for other in blocks[place + 1 :])
