"""Interface endpoints and what may be asked through each endpoint, gateway endpoints among them."""

from __future__ import annotations

import json
from typing import Any

import pulumi
import pulumi_aws as aws
import pytest

from components.endpoint_policies import (
    GATEWAY_SERVICES,
    INTERFACE_SERVICES,
    SESSION_SERVICES,
    endpoint_policy,
)
from components.endpoints import RegionEndpoints, RegionEndpointsArgs, services
from components.host_role import host_role_arn
from components.placement import Placement
from tests.support.aws_outputs import identity
from tests.support.pulumi_program import ACCOUNT, ROOT, Program, record

PLACE = Placement(region="us-west-2", environment="prod", account=ACCOUNT)
EVERY = GATEWAY_SERVICES + INTERFACE_SERVICES + SESSION_SERVICES
MAX_CHARACTERS = 20_480
"""PrivateLink's limit on an endpoint policy."""
PREFIX = {
    "ecr.api": "ecr", "ecr.dkr": "ecr", "monitoring": "cloudwatch",
}  # fmt: skip
"""Services whose actions have another prefix than their endpoint."""
AWS_BUCKETS = {"ContainerLayers", "AmazonLinuxPackages"}


def build(region: str = "us-west-2", *, session_manager: bool = False) -> Program:
    """The recorded endpoints; `outputs` are their ids by service."""
    seen: dict[str, str] = {}

    def program() -> None:
        provider = aws.Provider(f"aws-{region}", region=region)
        made = RegionEndpoints(
            f"endpoints-{region}",
            RegionEndpointsArgs(
                placement=Placement(region=region, environment="prod", account=ACCOUNT),
                vpc_id="vpc-1",
                subnet_ids=["subnet-a", "subnet-b", "subnet-c"],
                security_group_id="sg-endpoints",
                session_manager=session_manager,
            ),
            opts=pulumi.ResourceOptions(provider=provider),
        )
        pulumi.Output.all(**made.endpoint_ids).apply(seen.update)

    recorded = record(program)
    recorded.outputs = seen
    return recorded


def statements(service: str, *, session_manager: bool = False) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(endpoint_policy(PLACE, service, session_manager=session_manager))[
        "Statement"
    ]
    return found


@pytest.mark.parametrize("region", ["us-east-1", "us-east-2", "us-west-2", "eu-west-1"])
def test_every_service_has_an_endpoint_in_every_zone_with_private_dns_and_a_policy(region: str) -> None:
    made = build(region)
    endpoints = {one.inputs["serviceName"]: one for one in made.of("ec2/vpcEndpoint:VpcEndpoint")}
    assert set(endpoints) == {f"com.amazonaws.{region}.{service}" for service in INTERFACE_SERVICES}
    place = Placement(region=region, environment="prod", account=ACCOUNT)
    for service in INTERFACE_SERVICES:
        one = endpoints[f"com.amazonaws.{region}.{service}"]
        assert one.inputs["vpcEndpointType"] == "Interface"
        assert one.inputs["vpcId"] == "vpc-1"
        assert one.inputs["subnetIds"] == ["subnet-a", "subnet-b", "subnet-c"]
        assert one.inputs["securityGroupIds"] == ["sg-endpoints"]
        assert one.inputs["privateDnsEnabled"] is True, "SDKs and the enclave's KMS client use the usual names"
        assert one.inputs["policy"] == endpoint_policy(place, service)
        assert one.inputs["tags"]["mrgc:component"] == "endpoints"
        assert one.parent == made.one("mrgc:endpoints:RegionEndpoints").urn
        assert made.region(one) == region
        assert made.outputs[service] == identity(one.type, one.name)
    assert set(made.outputs) == set(INTERFACE_SERVICES)


def test_the_services_that_the_platform_calls_are_all_there() -> None:
    assert {"kms", "sts", "ecr.api", "ecr.dkr", "logs", "monitoring", "ec2", "ssm"} <= set(INTERFACE_SERVICES)
    assert set(GATEWAY_SERVICES) == {"s3", "dynamodb"}


def test_session_managers_endpoints_are_there_only_when_asked_for() -> None:
    assert set(services(session_manager=True)) - set(services(session_manager=False)) == {"ssmmessages", "ec2messages"}
    made = build(session_manager=True)
    policy = made.one("ec2/vpcEndpoint:VpcEndpoint", "endpoints-us-west-2-ssm").inputs["policy"]
    assert policy == endpoint_policy(PLACE, "ssm", session_manager=True)
    assert len(made.of("ec2/vpcEndpoint:VpcEndpoint")) == len(INTERFACE_SERVICES) + 2


def test_without_session_manager_the_agent_cannot_register_a_host() -> None:
    plain = {action for one in statements("ssm") for action in one["Action"]}
    assert plain == {"ssm:GetParameter", "ssm:GetParameters", "ssm:GetParametersByPath"}
    with_agent = {action for one in statements("ssm", session_manager=True) for action in one["Action"]}
    assert "ssm:UpdateInstanceInformation" in with_agent


@pytest.mark.parametrize("service", EVERY)
def test_every_statement_allows_named_actions_of_its_own_service(service: str) -> None:
    for one in statements(service):
        assert one["Effect"] == "Allow"
        assert one["Action"]
        for action in one["Action"]:
            assert action.startswith(PREFIX.get(service, service) + ":")
            assert "*" not in action, "a wildcard would take in actions that nobody has thought of"


@pytest.mark.parametrize("service", EVERY)
def test_every_statement_is_bound_to_our_account_but_for_two_buckets_of_awss_own(service: str) -> None:
    for one in statements(service):
        if one["Sid"] in AWS_BUCKETS:
            assert service == "s3"
            assert one["Action"] == ["s3:GetObject"]
            assert one["Resource"] != "*"
        else:
            # AWS refuses wildcards with this key, and StringLike would be one.
            assert one["Condition"]["StringEquals"]["aws:PrincipalAccount"] == ACCOUNT


@pytest.mark.parametrize("service", EVERY)
def test_the_document_is_within_awss_limit_and_says_its_version(service: str) -> None:
    text = endpoint_policy(PLACE, service, session_manager=True)
    assert len(text) <= MAX_CHARACTERS
    assert json.loads(text)["Version"] == "2012-10-17"
    sids = [one["Sid"] for one in json.loads(text)["Statement"]]
    assert len(sids) == len(set(sids))


def test_kms_is_asked_for_one_thing_by_one_role() -> None:
    (statement,) = statements("kms")
    assert statement["Action"] == ["kms:Decrypt"]
    assert statement["Resource"] == "arn:aws:kms:us-west-2:*:key/*", "tenants' keys are in tenants' accounts"
    assert statement["Condition"]["ArnEquals"] == {"aws:PrincipalArn": host_role_arn(PLACE)}
    assert host_role_arn(PLACE) == f"arn:aws:iam::{ACCOUNT}:role/mrgc-prod-us-west-2-host"


def test_s3_gives_our_buckets_to_read_and_awss_layers_and_packages() -> None:
    by_sid = {one["Sid"]: one for one in statements("s3")}
    assert set(by_sid) == {"ReadOurBuckets", *AWS_BUCKETS}
    ours = by_sid["ReadOurBuckets"]
    assert ours["Condition"]["StringEquals"] == {
        "aws:PrincipalAccount": ACCOUNT,
        "aws:ResourceAccount": ACCOUNT,
    }
    assert not [action for action in ours["Action"] if "Put" in action or "Delete" in action]
    assert by_sid["ContainerLayers"]["Resource"] == ["arn:aws:s3:::prod-us-west-2-starport-layer-bucket/*"]
    assert by_sid["AmazonLinuxPackages"]["Resource"] == ["arn:aws:s3:::al2023-repos-us-west-2-de612dc2/*"]


def test_dynamodb_gives_this_environments_tables() -> None:
    (statement,) = statements("dynamodb")
    assert statement["Resource"] == f"arn:aws:dynamodb:us-west-2:{ACCOUNT}:table/mrgc-prod-*"
    assert not {"dynamodb:CreateTable", "dynamodb:DeleteTable", "dynamodb:UpdateTable"} & set(statement["Action"])


@pytest.mark.parametrize("service", GATEWAY_SERVICES)
def test_a_gateway_endpoints_principal_is_the_star_that_aws_asks_for(service: str) -> None:
    assert {one["Principal"] for one in statements(service)} == {"*"}


def test_logs_and_parameters_are_this_environments() -> None:
    (logs,) = statements("logs")
    assert logs["Resource"] == f"arn:aws:logs:us-west-2:{ACCOUNT}:log-group:/mrgc/prod/*"
    (parameters,) = statements("ssm")
    assert parameters["Resource"] == f"arn:aws:ssm:us-west-2:{ACCOUNT}:parameter/mrgc/prod/*"


def test_a_service_without_a_policy_is_an_error_not_an_open_endpoint() -> None:
    with pytest.raises(KeyError):
        endpoint_policy(PLACE, "sqs")


def test_the_page_for_people_names_every_service() -> None:
    text = (ROOT / "docs" / "network.md").read_text(encoding="utf-8").split("## Endpoints\n", 1)[1].split("\n## ", 1)[0]
    rows = {line.split("|")[1].strip().strip("`") for line in text.splitlines() if line.startswith("| `")}
    assert rows == set(EVERY)
