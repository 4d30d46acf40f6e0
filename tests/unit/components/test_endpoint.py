from __future__ import annotations

from dataclasses import replace
from typing import Any

import pulumi
import pulumi_aws as aws
import pytest

from components import endpoint as endpoint_figures
from components import router_service
from components.endpoint import RegionEndpoint, RegionEndpointArgs
from components.placement import Placement
from tests.support.pulumi_program import ACCOUNT, Program, record

PULUMI_SUFFIX = 8
LONGEST_NAME = 32
TENANT = "arn:aws:iam::210987654321:root"


def endpoint(
    *,
    region: str = "us-east-1",
    alternate_port: bool = True,
    principals: tuple[str, ...] = (TENANT,),
    private_dns_name: str | None = None,
) -> Program:
    outputs: dict[str, Any] = {}

    def program() -> None:
        made = RegionEndpoint(
            f"endpoint-{region}",
            RegionEndpointArgs(
                placement=Placement(region=region, environment="dev", account=ACCOUNT),
                vpc_id="vpc-1",
                subnet_ids=["subnet-a", "subnet-b", "subnet-c"],
                security_group_id="sg-nlb",
                alternate_port=alternate_port,
                allowed_principals=principals,
                private_dns_name=private_dns_name,
            ),
            opts=pulumi.ResourceOptions(provider=aws.Provider(f"aws-{region}", region=region)),
        )
        pulumi.Output.all(
            load_balancer_arn=made.load_balancer_arn,
            load_balancer_dns_name=made.load_balancer_dns_name,
            load_balancer_arn_suffix=made.load_balancer_arn_suffix,
            target_group_arns=made.target_group_arns,
            target_group_arn_suffix=made.target_group_arn_suffix,
            service_name=made.service_name,
        ).apply(outputs.update)

    return replace(record(program), outputs=outputs)


@pytest.fixture(scope="module")
def made() -> Program:
    return endpoint()


def test_the_load_balancer_is_internal_in_three_zones_with_its_group_from_the_start(made: Program) -> None:
    balancer = made.one("lb/loadBalancer:LoadBalancer").inputs
    assert balancer["loadBalancerType"] == "network"
    assert balancer["internal"] is True
    assert balancer["subnets"] == ["subnet-a", "subnet-b", "subnet-c"]
    assert balancer["securityGroups"] == ["sg-nlb"], "a first group added later replaces the load balancer"
    assert balancer["enforceSecurityGroupInboundRulesOnPrivateLinkTraffic"] == "on"
    assert balancer["enableCrossZoneLoadBalancing"] is True


def test_a_dead_region_is_noticed_within_the_failover_budget(made: Program) -> None:
    check = made.one("lb/targetGroup:TargetGroup").inputs["healthCheck"]
    assert (check["protocol"], check["port"], check["path"], check["matcher"]) == ("HTTP", "8080", "/health", "200")
    assert check["interval"] <= 10
    assert check["healthyThreshold"] == check["unhealthyThreshold"] == 2
    assert check["timeout"] < check["interval"]
    assert check["interval"] * check["unhealthyThreshold"] + check["timeout"] <= 25


def test_targets_are_routers_by_address_on_their_tls_port_behind_the_load_balancers_addresses(made: Program) -> None:
    group = made.one("lb/targetGroup:TargetGroup").inputs
    assert (group["targetType"], group["port"], group["protocol"]) == ("ip", 443, "TCP")
    assert group["preserveClientIp"] == "false", "the private tier admits nobody from outside the cluster"
    assert group["proxyProtocolV2"] is False, "the router does not read it"
    assert group["vpcId"] == "vpc-1"


def test_streams_of_a_draining_router_are_not_cut(made: Program) -> None:
    group = made.one("lb/targetGroup:TargetGroup").inputs
    assert group["targetHealthStates"] == [
        {"enableUnhealthyConnectionTermination": False, "unhealthyDrainingInterval": 105}
    ]
    assert group["deregistrationDelay"] == 105


def test_the_load_balancers_figures_are_those_that_the_routers_drain_is_made_for() -> None:
    noticed = endpoint_figures.HEALTH_INTERVAL_S * endpoint_figures.HEALTH_THRESHOLD + endpoint_figures.HEALTH_TIMEOUT_S
    assert noticed <= router_service.DRAIN_DELAY_S, "the router would close its port while it still gets connections"
    assert endpoint_figures.DRAIN_S == router_service.DEREGISTRATION_S
    assert endpoint_figures.TLS_PORT == router_service.TENANT_PORT
    assert endpoint_figures.HEALTH_PORT == router_service.ADMIN_PORT


@pytest.mark.parametrize(("alternate_port", "ports"), [(True, [443, 8080]), (False, [443])])
def test_every_listener_passes_tcp_to_the_same_routers_tls(alternate_port: bool, ports: list[int]) -> None:  # noqa: FBT001 - a case
    made = endpoint(alternate_port=alternate_port)
    listeners = [one.inputs for one in made.of("lb/listener:Listener")]
    assert sorted(one["port"] for one in listeners) == ports
    for one in listeners:
        assert one["protocol"] == "TCP"
        assert one["loadBalancerArn"] == made.outputs["load_balancer_arn"]
        assert [(action["type"], action["targetGroupArn"]) for action in one["defaultActions"]] == [
            ("forward", made.outputs["target_group_arns"][0])
        ]
        assert one["tcpIdleTimeoutSeconds"] >= 340, "below the accelerator's 340 s it would cut what that still holds"


def test_every_privatelink_connection_is_accepted_by_hand_and_asked_for_by_the_named_only(made: Program) -> None:
    service = made.one("ec2/vpcEndpointService:VpcEndpointService").inputs
    assert service["acceptanceRequired"] is True
    assert service["allowedPrincipals"] == [TENANT]
    assert service["networkLoadBalancerArns"] == [made.outputs["load_balancer_arn"]]
    assert "privateDnsName" not in service


def test_without_principals_nobody_may_ask_and_a_private_name_is_taken_as_given() -> None:
    service = endpoint(principals=(), private_dns_name="llm.example.com").one(
        "ec2/vpcEndpointService:VpcEndpointService"
    )
    assert service.inputs.get("allowedPrincipals", []) == []
    assert service.inputs["privateDnsName"] == "llm.example.com"


@pytest.mark.parametrize("region", ["us-east-1", "ap-southeast-1", "ap-northeast-1"])
def test_names_leave_room_for_what_pulumi_adds(region: str) -> None:
    made = endpoint(region=region)
    for kind in ("lb/loadBalancer:LoadBalancer", "lb/targetGroup:TargetGroup"):
        one = made.one(kind)
        assert "name" not in one.inputs, "AWS replaces both by name, and a fixed one would collide with itself"
        assert len(one.name) + PULUMI_SUFFIX <= LONGEST_NAME


def test_outputs_are_the_resources_own(made: Program) -> None:
    assert made.outputs["load_balancer_arn"].startswith("arn:aws:lb:")
    assert made.outputs["load_balancer_dns_name"].startswith("dnsName-nlb-us-east-1")
    assert made.outputs["load_balancer_arn_suffix"].startswith("arnSuffix-nlb-us-east-1")
    assert len(made.outputs["target_group_arns"]) == 1
    assert made.outputs["target_group_arn_suffix"].startswith("arnSuffix-tls-us-east-1")
    assert made.outputs["service_name"].startswith("serviceName-endpoint-us-east-1-service")


def test_everything_is_the_components_child_tagged_and_in_its_region(made: Program) -> None:
    component = made.one("mrgc:endpoint:RegionEndpoint")
    children = [one for one in made if one.custom and not one.type.startswith("pulumi:providers:")]
    assert len(children) == 5
    for one in children:
        assert one.parent == component.urn, one.name
        assert made.region(one) == "us-east-1", one.name
        assert "region" not in one.inputs
        assert one.inputs["tags"]["mrgc:component"] == "endpoint"
