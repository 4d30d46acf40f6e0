"""Who may talk to whom: the table read as sentences, and the resources that it becomes."""

from __future__ import annotations

import re
from pathlib import Path

import pulumi
import pulumi_aws as aws
import pytest

from components.addressing import CLUSTER
from components.network_acl import ANYWHERE
from components.placement import Placement
from components.security_groups import (
    DESCRIPTIONS,
    RULES,
    Group,
    PrefixList,
    Rule,
    SecurityGroups,
    SecurityGroupsArgs,
    rules,
)
from tests.support.aws_outputs import identity
from tests.support.pulumi_program import ACCOUNT, ROOT, Program, record

DOC = ROOT / "docs" / "network.md"
ALLOWED_TEXT = re.compile(r"^[a-zA-Z0-9. _\-:/()#,@\[\]+=&;{}!$*]{1,255}$")
"""What EC2 takes as the description of a group or a rule."""


def build(region: str = "us-east-1", *, alternate_port: bool = True) -> Program:
    """The recorded groups; `outputs` are the groups' ids by their names."""
    seen: dict[str, str] = {}

    def program() -> None:
        provider = aws.Provider(f"aws-{region}", region=region)
        made = SecurityGroups(
            f"groups-{region}",
            SecurityGroupsArgs(
                placement=Placement(region=region, environment="prod", account=ACCOUNT),
                vpc_id="vpc-1",
                s3_prefix_list_id="pl-s3",
                dynamodb_prefix_list_id="pl-dynamodb",
                alternate_port=alternate_port,
            ),
            opts=pulumi.ResourceOptions(provider=provider),
        )
        pulumi.Output.all(**{str(group): getattr(made, f"{group}_id") for group in Group}).apply(seen.update)

    recorded = record(program)
    recorded.outputs = seen
    return recorded


@pytest.fixture(scope="module", params=["us-east-1", "us-east-2", "us-west-2", "eu-west-1"])
def region(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def made(region: str) -> Program:
    return build(region)


def table(group: Group, direction: str) -> set[tuple[str, str]]:
    return {(str(one.peer), one.ports) for one in RULES if one.group == group and one.direction == direction}


AWS = {("endpoints", "443"), ("s3", "443"), ("dynamodb", "443")}


def test_a_host_is_reached_by_routers_and_by_icmp_of_the_cluster() -> None:
    assert table(Group.GPU, "in") == {
        ("router", "8080"),
        ("router", "443"),
        (str(CLUSTER), "ICMP"),
    }
    icmp = next(one for one in RULES if one.protocol == "icmp")
    assert (icmp.from_port, icmp.to_port) == (-1, -1), "0 would be the echo reply alone"


def test_a_host_reaches_aws_and_lustre_and_nothing_else() -> None:
    assert table(Group.GPU, "out") == AWS | {("fsx", "988"), ("fsx", "1018-1023")}


def test_lustre_is_reached_by_hosts_and_by_itself_and_opens_connections_to_itself_alone() -> None:
    assert table(Group.FSX, "in") == {
        ("gpu", "988"),
        ("gpu", "1018-1023"),
        ("fsx", "988"),
        ("fsx", "1018-1023"),
    }
    assert table(Group.FSX, "out") == {("fsx", "988"), ("fsx", "1018-1023")}


def test_a_router_is_reached_by_the_load_balancer_and_reaches_hosts_and_aws() -> None:
    assert table(Group.ROUTER, "in") == {("nlb", "443"), ("nlb", "8080")}
    assert table(Group.ROUTER, "out") == AWS | {("gpu", "443"), ("gpu", "8080")}


def test_the_load_balancer_is_reached_by_anybody_and_reaches_routers_alone() -> None:
    assert table(Group.NLB, "in") == {(str(ANYWHERE), "443"), (str(ANYWHERE), "8080")}
    assert table(Group.NLB, "out") == {("router", "443"), ("router", "8080")}


def test_endpoints_are_reached_by_hosts_routers_and_control_loops_and_open_nothing() -> None:
    assert table(Group.ENDPOINTS, "in") == {("gpu", "443"), ("router", "443"), ("control", "443")}
    assert table(Group.ENDPOINTS, "out") == set()


def test_control_loops_reach_aws_and_are_reached_by_nobody() -> None:
    assert table(Group.CONTROL, "out") == AWS
    assert table(Group.CONTROL, "in") == set()


def test_only_the_load_balancer_is_open_to_the_world_and_nobody_may_go_there() -> None:
    assert {one.group for one in RULES if one.direction == "in" and one.peer == ANYWHERE} == {Group.NLB}
    assert not [one for one in RULES if one.direction == "out" and not isinstance(one.peer, Group | PrefixList)]


def test_every_connection_between_groups_is_allowed_at_both_ends() -> None:
    def ends(direction: str) -> set[tuple[str, str, str]]:
        return {
            (str(one.group), str(one.peer), one.ports)
            if direction == "out"
            else (str(one.peer), str(one.group), one.ports)
            for one in RULES
            if one.direction == direction and isinstance(one.peer, Group)
        }

    assert ends("out") == ends("in"), "a rule at one end alone lets nothing through and looks as if it did"


def test_rules_have_different_names_and_texts_that_ec2_takes() -> None:
    assert len({one.key for one in RULES}) == len(RULES)
    for text in (*(one.why for one in RULES), *DESCRIPTIONS.values()):
        assert ALLOWED_TEXT.match(text), text
    assert set(DESCRIPTIONS) == set(Group)


def test_without_the_alternate_listener_nobody_outside_is_let_in_on_8080() -> None:
    fewer = rules(alternate_port=False)
    assert set(RULES) - set(fewer) == {one for one in RULES if one.peer == ANYWHERE and one.from_port == 8080}
    assert len(RULES) - len(fewer) == 1, "health checks on 8080 stay"
    names = {one.name for one in build(alternate_port=False)}
    assert "groups-us-east-1-nlb-in-anywhere-8080" not in names
    assert "groups-us-east-1-router-in-nlb-8080" in names


def test_each_group_is_made_without_inline_rules_in_the_vpc(made: Program, region: str) -> None:
    groups = {one.name: one for one in made.of("ec2/securityGroup:SecurityGroup")}
    assert set(groups) == {f"groups-{region}-{group}" for group in Group}
    for one in groups.values():
        assert one.inputs["vpcId"] == "vpc-1"
        assert "ingress" not in one.inputs, "inline rules and rule resources undo each other"
        assert "egress" not in one.inputs
        assert "name" not in one.inputs, "a replaced group needs another name than the old one"
        assert one.parent == made.one("mrgc:security_groups:SecurityGroups").urn
        assert made.region(one) == region
    assert made.outputs == {
        str(group): identity("aws:ec2/securityGroup:SecurityGroup", f"groups-{region}-{group}") for group in Group
    }


def test_each_row_becomes_one_resource_with_one_peer(made: Program, region: str) -> None:
    for rule in RULES:
        kind = "Ingress" if rule.direction == "in" else "Egress"
        resource = made.one(f"vpc/securityGroup{kind}Rule:SecurityGroup{kind}Rule", f"groups-{region}-{rule.key}")
        inputs = resource.inputs
        assert inputs["securityGroupId"] == made.outputs[str(rule.group)], rule.key
        assert inputs["ipProtocol"] == rule.protocol, rule.key
        assert (inputs["fromPort"], inputs["toPort"]) == (rule.from_port, rule.to_port), rule.key
        keys = ("referencedSecurityGroupId", "prefixListId", "cidrIpv4")
        assert {key: inputs[key] for key in keys if key in inputs} == expected_peer(rule, made), rule.key
        assert inputs["description"] == rule.why
        assert made.region(resource) == region


def expected_peer(rule: Rule, made: Program) -> dict[str, str]:
    if isinstance(rule.peer, Group):
        return {"referencedSecurityGroupId": made.outputs[str(rule.peer)]}
    if isinstance(rule.peer, PrefixList):
        return {"prefixListId": f"pl-{rule.peer}"}
    return {"cidrIpv4": str(rule.peer)}


def test_there_is_no_rule_beside_the_table(made: Program) -> None:
    made_rules = [one for one in made if "Rule:SecurityGroup" in one.type]
    assert len(made_rules) == len(RULES)


def test_the_page_for_people_has_every_row_of_the_table_and_no_other() -> None:
    written = {
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in _section(DOC, "Security groups").splitlines()
        if line.startswith("|") and "---" not in line and "| group |" not in line
    }
    assert written == {(str(one.group), one.direction, _peer(one), one.ports, one.why) for one in RULES}, (
        "docs/network.md and RULES differ"
    )


def _peer(rule: Rule) -> str:
    return {str(ANYWHERE): "anywhere", "s3": "S3 prefix list", "dynamodb": "DynamoDB prefix list"}.get(
        str(rule.peer), str(rule.peer)
    )


def _section(path: Path, title: str) -> str:
    text = path.read_text(encoding="utf-8")
    return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
