"""Whether what our roles may do gets through the endpoints: a policy that strangles them is found here, not by AWS.

For every role that is used inside the VPC (ECS tasks, their execution, GPU hosts) each allowed action is asked of its
service's endpoint in the same region, with the role as principal and the statement's own resource.

Not modelled: conditions on the role's side (an action that its role allows under a condition is asked as if it were
met); what a policy variable or a Deny would do (there are none in endpoint policies, which a test holds); a resource
with wildcards is taken to be covered by an endpoint's pattern that matches its text. What AWS does on its own side is
left out: KMS calls bound to `kms:ViaService` come from the service and not from the VPC, and so do Fargate's agent,
Application Auto Scaling and the load balancer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import pytest

from stacks.program import deploy
from stacks.settings import parse
from tests.support.pulumi_program import ACCOUNT, Program, Recorded, record
from tests.support.stacks import stack_values

INSIDE = ("ecs-tasks.amazonaws.com", "ec2.amazonaws.com")
"""Services that hand a role to something in the VPC; functions are outside it."""
ENDPOINTS = {
    "autoscaling": ("autoscaling",),
    "cloudwatch": ("monitoring",),
    "dynamodb": ("dynamodb",),
    "ec2": ("ec2",),
    "ecr": ("ecr.api", "ecr.dkr"),
    "kms": ("kms",),
    "logs": ("logs",),
    "s3": ("s3",),
    "ssm": ("ssm",),
    "ssmmessages": ("ssmmessages",),
    "xray": ("xray",),
}
"""Endpoints by the prefix of IAM's actions. A pull logs in at ecr.api and asks both for the image."""
LOG_IN = "ecr:GetAuthorizationToken"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One action of one role on one resource, as its endpoint sees it."""

    region: str
    principal: str
    action: str
    resource: str

    def __str__(self) -> str:
        return f"{self.principal} {self.action} {self.resource}"


@pytest.fixture(scope="module", params=[("dev", 4), ("prod", 3)], ids=str)
def program(request: pytest.FixtureRequest) -> Program:
    stack, count = request.param
    level_1 = stack == "dev"
    values = {**stack_values(stack, count), "control_loops": True, "session_manager": level_1}
    return record(lambda: deploy(parse(values)), stack=stack)


def roles_inside(program: Program) -> Iterator[Recorded]:
    for role in program.of("iam/role:Role"):
        trusted = [one["Principal"].get("Service") for one in statements(role.inputs["assumeRolePolicy"])]
        if set(trusted) & set(INSIDE):
            yield role


def calls(program: Program) -> Iterator[Call]:
    """Everything that roles inside may ask, of the region in which the role is used."""
    policies = program.of("iam/rolePolicy:RolePolicy")
    for role in roles_inside(program):
        region = program.region(role)
        assert region is not None
        for one in policies:
            if one.inputs["role"] != role.inputs["name"]:
                continue
            for statement in statements(one.inputs["policy"]):
                assert statement["Effect"] == "Allow", "a Deny is not modelled here"
                if "kms:ViaService" in json.dumps(statement.get("Condition", {})):
                    continue
                for action in listed(statement["Action"]):
                    for resource in listed(statement["Resource"]):
                        yield Call(
                            region=region,
                            principal=f"arn:aws:iam::{ACCOUNT}:role/{role.inputs['name']}",
                            action=action,
                            resource=resource,
                        )


def statements(document: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(document)["Statement"]
    return found


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def endpoint(program: Program, region: str, service: str) -> Recorded | None:
    name = f"com.amazonaws.{region}.{service}"
    found = [one for one in program.of("ec2/vpcEndpoint:VpcEndpoint") if one.inputs["serviceName"] == name]
    assert all(program.region(one) == region for one in found)
    return found[0] if found else None


def admits(policy: str, call: Call) -> bool:
    """Whether some statement of an endpoint's policy allows the call."""
    return any(
        any(fnmatchcase(call.action.lower(), one.lower()) for one in listed(statement["Action"]))
        and any(fnmatchcase(call.resource, one) for one in listed(statement["Resource"]))
        and met(statement.get("Condition", {}), call)
        for statement in statements(policy)
    )


def met(conditions: dict[str, dict[str, str]], call: Call) -> bool:
    """Endpoint policies use three keys; another one would have to be thought about here."""
    # A bucket's ARN names no account; a role's statement names only buckets of ours.
    account = call.resource.split(":")[4] if call.resource.count(":") > 4 else ""
    known = {
        "aws:PrincipalAccount": call.principal.split(":")[4],
        "aws:PrincipalArn": call.principal,
        "aws:ResourceAccount": account or ACCOUNT,
    }
    for operator, keys in conditions.items():
        assert operator in {"StringEquals", "ArnEquals"}, f"{operator} is not modelled"
        for key, wanted in keys.items():
            assert key in known, f"{key} is not modelled"
            if known[key] != wanted:
                return False
    return True


def reached_by(call: Call) -> tuple[str, ...]:
    prefix = call.action.split(":")[0]
    assert prefix in ENDPOINTS, f"{call}: no endpoint is known for {prefix}"
    return ("ecr.api",) if call.action == LOG_IN else ENDPOINTS[prefix]


def test_roles_of_routers_hosts_and_control_loops_are_among_those_asked(program: Program) -> None:
    found = {str(role.inputs["name"]).rsplit("-", 1)[-1] for role in roles_inside(program)}
    assert found == {"host", "task", "execution"}
    prefixes = {call.action.split(":")[0] for call in calls(program)}
    assert prefixes >= {"autoscaling", "cloudwatch", "dynamodb", "ecr", "kms", "logs", "ssm", "xray"}, (
        "a service of ours is not asked at all: the roles were not read"
    )


def test_every_action_of_a_role_in_the_vpc_gets_through_its_endpoint(program: Program) -> None:
    stopped = []
    for call in calls(program):
        for service in reached_by(call):
            found = endpoint(program, call.region, service)
            if found is None or not admits(found.inputs["policy"], call):
                stopped.append(f"{service} {'stops' if found else 'has no endpoint for'} {call}")
    assert not stopped, stopped


def test_no_role_in_the_vpc_counts_on_another_regions_service(program: Program) -> None:
    """The VPC has endpoints of its own region's services and no other way out."""
    elsewhere = [str(one) for one in calls(program) if _region(one.resource) not in ("", "*", one.region)]
    assert not elsewhere


def _region(resource: str) -> str:
    return resource.split(":")[3] if resource.startswith("arn:") else ""


def test_image_layers_come_through_the_s3_endpoint_by_urls_that_ecr_signed(program: Program) -> None:
    for region in {program.region(one) for one in program.of("ecs/service:Service")}:
        assert region is not None
        found = endpoint(program, region, "s3")
        assert found is not None
        layer = Call(
            region=region,
            principal="arn:aws:iam::999999999999:role/whoever-signed",
            action="s3:GetObject",
            resource=f"arn:aws:s3:::prod-{region}-starport-layer-bucket/some/layer",
        )
        assert admits(found.inputs["policy"], layer)


def test_a_stranger_in_the_vpc_gets_nothing_of_ours_through_any_endpoint(program: Program) -> None:
    """The same calls with another account's credentials: what the policies are there to stop."""
    asked = [replace(call, principal="arn:aws:iam::999999999999:role/thief") for call in calls(program)]
    through = [
        str(call)
        for call in asked
        for service in reached_by(call)
        if (found := endpoint(program, call.region, service)) and admits(found.inputs["policy"], call)
    ]
    assert asked
    assert not through


def test_only_the_hosts_role_decrypts_through_the_kms_endpoint(program: Program) -> None:
    host = next(call for call in calls(program) if call.action == "kms:Decrypt")
    found = endpoint(program, host.region, "kms")
    assert found is not None
    router = replace(host, principal=host.principal.replace("-host", "-router-task"))
    assert admits(found.inputs["policy"], host)
    assert not admits(found.inputs["policy"], router)


def test_endpoint_policies_only_allow(program: Program) -> None:
    for one in program.of("ec2/vpcEndpoint:VpcEndpoint"):
        assert {statement["Effect"] for statement in statements(one.inputs["policy"])} == {"Allow"}
