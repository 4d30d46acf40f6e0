from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pulumi_policy.proxy import UnknownValueError

from policies.network.configuration import REGIONS, blocks, cluster, tier_of, whole
from policies.network.rows import read
from policies.network.rules import RULES
from policies.network.security_groups import TABLE
from policies.rule import UNKNOWN, ConfigurationError, Resource, ResourceRule
from tests.support.network_breaks import add, change, egress, ingress, swap
from tests.support.network_world import HOME, Ref, World, allow, document, good, refusals, table

FOUR = {**REGIONS.default, "eu-west-1": "10.66.192.0/18"}


def said(name: str, type_: str, /, config: dict[str, Any] | None = None, **props: Any) -> list[str]:
    rule = next(one for one in RULES if one.name == name)
    assert isinstance(rule, ResourceRule)
    return rule.violations(Resource(type=type_, props=props, provider={"region": HOME}), config)


def refused(change_: Any, config: dict[str, Any] | None = None) -> set[str]:
    world: World = good()
    change_(world)
    return set(refusals(world, config=config))


def test_a_fourth_region_is_a_setting_and_then_missed_wherever_it_has_nothing() -> None:
    found = refusals(good(), config={"regions": FOUR})
    assert set(found) == {"transit-mesh-is-full", "accelerator-reaches-every-region", "tables-in-every-region"}
    assert all("eu-west-1" in " ".join(sentences) for sentences in found.values())


def test_strong_tables_stay_in_their_three_regions_when_a_fourth_comes() -> None:
    world = good()
    add("aws:kms/key:Key", "eu-west-1", "key-eu-west-1")(world)
    swap("metrics", table("metrics", "us-east-2", "us-west-2", "eu-west-1"))(world)
    assert "tables-in-every-region" not in refusals(world, config={"regions": FOUR})


def test_a_fourth_regions_resources_pass_once_it_is_configured() -> None:
    vpc = "aws:ec2/vpc:Vpc"
    rule = next(one for one in RULES if one.name == "addresses-in-region-block")
    assert isinstance(rule, ResourceRule)
    there = Resource(type=vpc, props={"cidrBlock": "10.66.192.0/18"}, provider={"region": "eu-west-1"})
    assert rule.violations(there) == [
        "Its region is eu-west-1, which has no block of addresses; configure one, or do without it."
    ]
    assert rule.violations(there, {"regions": FOUR}) == []


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"regions": {"us-east-1": "10.66.0.0"}}, None),
        ({"regions": {"us-east-1": "10.66.0.0/33"}}, "which is no IPv4 network"),
        ({"regions": {"us-east-1": "10.66.0.1/18"}}, "which is no IPv4 network"),
        ({"regions": {"us-east-1": "10.66.0.0/18", "us-east-2": "10.66.32.0/19"}}, "overlap"),
        ({"regions": {}}, "no object of region to CIDR"),
        ({"regions": ["us-east-1"]}, "no object of region to CIDR"),
    ],
)
def test_blocks_that_make_no_plan_are_a_violation_and_never_a_pass(
    config: dict[str, Any], expected: str | None
) -> None:
    found = said("addresses-in-region-block", "aws:ec2/vpc:Vpc", config, cidrBlock="10.66.0.0/18")
    assert len(found) == 1, "also 10.66.0.0, which is one address"
    assert expected is None or expected in found[0]


def test_the_cluster_is_the_smallest_network_around_all_blocks() -> None:
    assert str(cluster({})) == "10.66.0.0/16"
    assert str(cluster({"regions": {"us-east-1": "10.66.0.0/18"}})) == "10.66.0.0/18"
    with pytest.raises(ConfigurationError, match="keep all blocks within one /8"):
        cluster({"regions": {"us-east-1": "10.66.0.0/18", "us-east-2": "172.16.0.0/18"}})


def test_a_subnets_tier_is_known_by_its_addresses() -> None:
    assert tier_of({}, "10.66.66.0/24") == "public", "10.66.64.0 and the third /24"
    assert tier_of({}, "10.66.158.16/28") == "transit"
    assert tier_of({}, "10.66.10.0/24") is None, "half of a private subnet is none"
    assert tier_of({}, UNKNOWN) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [(90, 90), (90.0, 90), ("90", 90), (True, None), ("x", None), (1.5, None), (None, None), ("inf", None)],
)
def test_whole_numbers_are_read_as_the_engine_sends_them(value: object, expected: int | None) -> None:
    assert whole(value) == expected


@pytest.mark.parametrize(
    "line",
    [
        "gpu in tcp 443",
        "gpu through tcp 443 router",
        "gpu in tcp https router",
        "gpu in quic 443 router",
        "gpu in tcp 443 10.66.0.1/16",
        "gpu in -1 any 0.0.0.0/0",
    ],
)
def test_a_line_that_can_not_be_read_is_a_violation(line: str) -> None:
    found = said("security-groups-are-known", "aws:ec2/securityGroup:SecurityGroup", {"securityGroups": [line]})
    assert len(found) == 1
    assert line in found[0]


def test_the_default_table_is_the_platforms() -> None:
    rows = read(TABLE, {})
    open_ = {(row.whose, row.direction) for row in rows if str(row.peer) == "0.0.0.0/0"}
    assert open_ == {("nlb", "in")}, "nobody else is open, in or out"
    assert {row.ports for row in rows if row.whose == "gpu" and row.direction == "in" and row.protocol == "tcp"} == {
        (443, 443),
        (8080, 8080),
    }
    assert {row.peer for row in rows if row.whose == "gpu" and row.direction == "in" and row.protocol == "tcp"} == {
        "router"
    }


@pytest.mark.parametrize(
    "narrower",
    [
        ingress("gpu", ipProtocol="icmp", fromPort=3, toPort=4, cidrIpv4="10.66.64.0/18"),
        ingress("gpu", ipProtocol="1", fromPort=-1, toPort=-1, cidrIpv4="10.66.0.0/16"),
        ingress("nlb", ipProtocol="6", cidrIpv4="203.0.113.0/24"),
        ingress("fsx", fromPort=1020, toPort=1020, referencedSecurityGroupId=Ref(f"gpu-{HOME}")),
        egress("control", referencedSecurityGroupId=Ref(f"endpoints-{HOME}")),
    ],
)
def test_a_narrower_rule_than_listed_passes(narrower: Any) -> None:
    assert refused(narrower) == set()


def test_the_table_can_be_widened_by_configuration_alone() -> None:
    scrape = ingress("router", fromPort=9090, toPort=9090, referencedSecurityGroupId=Ref(f"control-{HOME}"))
    assert refused(scrape) == {"security-group-rules-as-listed"}
    wider = [*TABLE.default, "router in tcp 9090 control"]
    assert refused(scrape, {"securityGroups": wider}) == set()


def test_a_port_that_is_no_listener_any_more_closes_to_everyone() -> None:
    assert refused(lambda _: None, {"listenerPorts": [8080]}) == {"no-open-ingress", "listeners-as-listed"}


def test_lengths_of_time_are_settings() -> None:
    assert refused(lambda _: None, {"minimumDays": 365}) == {"logs-kept-long-enough", "flow-logs-on-every-network"}
    assert refused(lambda _: None, {"budgetSeconds": 24}) == {"health-checks-meet-the-failover-budget"}
    assert refused(lambda _: None, {"minimumDays": "long"}) == {"logs-kept-long-enough", "flow-logs-on-every-network"}


def test_the_accelerators_logs_may_be_in_its_own_region_when_that_is_not_configured() -> None:
    two = {"regions": {"us-east-1": "10.66.0.0/18", "us-east-2": "10.66.64.0/18"}}
    rule = next(one for one in RULES if one.name == "only-configured-regions")
    assert isinstance(rule, ResourceRule)
    urn = "urn:pulumi:prod::mrgc::{}aws:s3/bucket:Bucket::logs"
    stray = Resource(type="aws:s3/bucket:Bucket", props={}, provider={"region": "us-west-2"}, urn=urn.format(""))
    ours = replace(stray, urn=urn.format("mrgc:accelerator:Accelerator$"))
    assert rule.violations(ours, two) == []
    assert rule.violations(stray, two) == ["It is in us-west-2; the regions are us-east-1, us-east-2."]
    group = Resource(
        type="aws:globalaccelerator/endpointGroup:EndpointGroup",
        props={"endpointGroupRegion": "us-west-2"},
        provider={"region": "us-west-2"},
    )
    assert len(rule.violations(group, two)) == 1, "an endpoint group is as good as a region"


@pytest.mark.parametrize(
    ("name", "type_", "props"),
    [
        ("addresses-in-region-block", "aws:ec2/vpc:Vpc", {"cidrBlock": UNKNOWN}),
        ("no-public-addresses", "aws:ec2/subnet:Subnet", {"mapPublicIpOnLaunch": UNKNOWN}),
        ("routes-stay-inside", "aws:ec2/route:Route", {"destinationCidrBlock": UNKNOWN, "gatewayId": UNKNOWN}),
        ("routes-stay-inside", "aws:ec2/routeTable:RouteTable", {"routes": UNKNOWN}),
        ("network-acls-stay-closed", "aws:ec2/networkAcl:NetworkAcl", {"ingress": UNKNOWN}),
        ("no-open-ingress", "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", {"cidrIpv4": UNKNOWN}),
        (
            "transit-routes-only-to-region-blocks",
            "aws:ec2transitgateway/route:Route",
            {"destinationCidrBlock": UNKNOWN},
        ),
        ("listeners-as-listed", "aws:lb/listener:Listener", {"protocol": "TCP", "port": UNKNOWN}),
        ("endpoints-have-policies", "aws:ec2/vpcEndpointPolicy:VpcEndpointPolicy", {"policy": UNKNOWN}),
        ("encrypted-at-rest", "aws:ebs/volume:Volume", {"encrypted": UNKNOWN}),
        ("tables-in-every-region", "aws:dynamodb/table:Table", {"replicas": UNKNOWN}),
        ("logs-kept-long-enough", "aws:cloudwatch/logGroup:LogGroup", {"retentionInDays": UNKNOWN}),
        ("only-configured-regions", "pulumi:providers:aws", {"region": UNKNOWN}),
    ],
)
def test_what_is_not_known_yet_is_handed_back_to_the_engine_and_not_passed(
    name: str, type_: str, props: dict[str, Any]
) -> None:
    with pytest.raises(UnknownValueError):
        said(name, type_, **props)


def test_a_role_whose_policy_is_not_known_yet_leaves_the_question_of_endpoints_open() -> None:
    world = good()
    change(f"may-{HOME}", policy=Ref(f"key-{HOME}"))(world)
    with pytest.raises(UnknownValueError):
        refusals(world)


def test_roles_of_aws_services_outside_the_network_need_no_endpoints() -> None:
    world = good()
    trusts = document({"Effect": "Allow", "Principal": {"Service": "s3.amazonaws.com"}, "Action": "sts:AssumeRole"})
    add("aws:iam/role:Role", HOME, "replication", assumeRolePolicy=trusts)(world)
    add("aws:iam/rolePolicy:RolePolicy", HOME, "p", role=Ref("replication"), policy=document(allow("sns:Publish")))(
        world
    )
    assert refusals(world) == {}


def test_a_stack_without_a_network_needs_no_mesh_and_no_accelerator() -> None:
    assert refusals({}) == {}


def test_names_of_secrets_are_a_setting() -> None:
    parameter = "aws:ssm/parameter:Parameter"
    assert said("encrypted-at-rest", parameter, name="/mrgc/db-Password", type="String") != []
    assert said("encrypted-at-rest", parameter, name="/mrgc/pcr0", type="String") == []
    assert said("encrypted-at-rest", parameter, {"secretNames": ["pcr"]}, name="/mrgc/pcr0", type="String") != []


def test_default_blocks_are_the_three_regions() -> None:
    assert {region: str(block) for region, block in blocks({}).items()} == REGIONS.default
