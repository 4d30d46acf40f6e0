from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pulumi
import pulumi_aws as aws
import pytest

from components.control_loops import (
    FUNCTION_TIMEOUT_S,
    ControlLoops,
    ControlLoopsArgs,
    loop_containers,
    loop_environment,
    loop_statements,
)
from components.placement import Placement
from tests.support.pulumi_program import ACCOUNT, Program, record

STRONG = ("us-east-1", "us-east-2", "us-west-2")
REGIONS = (*STRONG, "eu-west-1")
ACCELERATOR = f"arn:aws:globalaccelerator::{ACCOUNT}:accelerator/1234"


def args(region: str = "us-east-1", **changes: Any) -> ControlLoopsArgs:
    state = region if region in STRONG else "us-east-1"
    registry = f"{ACCOUNT}.dkr.ecr.{region}.amazonaws.com"
    plain = ControlLoopsArgs(
        placement=Placement(region=region, environment="dev", account=ACCOUNT),
        cluster_arn="arn:cluster",
        subnet_ids=["subnet-a", "subnet-b", "subnet-c"],
        security_group_id="sg-control",
        image=f"{registry}/mrgc/control@sha256:{'a' * 64}",
        collector_image=f"{registry}/mrgc/collector@sha256:{'b' * 64}",
        log_group_name="/mrgc/dev/control",
        collector_log_group_name="/mrgc/dev/collector",
        table_names={name: f"mrgc-dev-{name}" for name in ("gpu_instances", "routing_state", "autoscaling_state")},
        tables_key_arns={one: f"arn:aws:kms:{one}:{ACCOUNT}:key/mrk-1" for one in REGIONS},
        state_region=state,
        fleet_group_name="mrgc-dev-gpu",
        accelerator_arn=ACCELERATOR,
        enabled=True,
    )
    return replace(plain, **changes)


def loops(*all_args: ControlLoopsArgs) -> Program:
    def run() -> None:
        for one in all_args:
            region = one.placement.region
            provider = aws.Provider(f"aws-{region}", region=region)
            made = ControlLoops(f"control-{region}", one, pulumi.ResourceOptions(provider=provider))
            pulumi.export(f"services-{region}", made.service_names)
            pulumi.export(f"functions-{region}", made.function_names)
            pulumi.export(f"queue-{region}", made.failure_queue_name)

    return record(run)


@pytest.fixture(scope="module")
def program() -> Program:
    return loops(args())


@pytest.fixture(scope="module")
def fourth() -> Program:
    return loops(args("eu-west-1"))


def statements(program: Program, role: str) -> dict[str, dict[str, Any]]:
    return {
        statement.get("Sid", "Failures"): statement
        for one in program.of("iam/rolePolicy:RolePolicy")
        if one.inputs["role"] == role
        for statement in json.loads(one.inputs["policy"])["Statement"]
    }


def test_health_and_the_autoscaler_are_services_and_the_failover_is_a_function(program: Program) -> None:
    assert set(program.outputs["services-us-east-1"]) == {"health", "autoscaler"}
    assert set(program.outputs["functions-us-east-1"]) == {"failover"}


def test_where_leases_are_out_of_a_vpcs_reach_the_autoscaler_is_a_function(fourth: Program) -> None:
    assert set(fourth.outputs["services-eu-west-1"]) == {"health"}
    assert set(fourth.outputs["functions-eu-west-1"]) == {"failover", "autoscaler"}
    role = statements(fourth, "mrgc-dev-eu-west-1-autoscaler-function")
    assert role["KeepState"]["Resource"] == f"arn:aws:dynamodb:us-east-1:{ACCOUNT}:table/mrgc-dev-autoscaling_state"
    assert set(role["OpenTables"]["Resource"]) == {
        f"arn:aws:kms:{region}:{ACCOUNT}:key/mrk-1" for region in ("eu-west-1", "us-east-1")
    }


def test_the_function_is_outside_the_vpc_and_runs_one_at_a_time(program: Program) -> None:
    made = program.one("lambda/function:Function").inputs
    assert "vpcConfig" not in made, "from the VPC there is no way to Global Accelerator's API"
    assert made["reservedConcurrentExecutions"] == 1
    assert made["timeout"] == FUNCTION_TIMEOUT_S < 60, "a run ends before the next one begins"


def test_the_function_knows_where_global_accelerators_api_is(program: Program) -> None:
    variables = program.one("lambda/function:Function").inputs["environment"]["variables"]
    assert variables["ACCELERATOR_REGION"] == "us-west-2"
    assert variables["ACCELERATOR_ARN"] == ACCELERATOR
    assert variables["STATE_TABLE"] == "mrgc-dev-routing_state"


def test_a_failed_run_is_kept_and_not_tried_again(program: Program) -> None:
    queue = program.one("sqs/queue:Queue").inputs
    assert queue["sqsManagedSseEnabled"] is True
    assert program.one("lambda/function:Function").inputs["deadLetterConfig"]["targetArn"]
    once = program.one("lambda/functionEventInvokeConfig:FunctionEventInvokeConfig").inputs
    assert once["maximumRetryAttempts"] == 0
    sends = statements(program, "mrgc-dev-us-east-1-failover-function")["Failures"]
    assert sends["Action"] == "sqs:SendMessage"
    assert "*" not in sends["Resource"]


def test_only_its_own_schedule_may_start_the_function(program: Program) -> None:
    permission = program.one("lambda/permission:Permission").inputs
    assert permission["principal"] == "events.amazonaws.com"
    assert permission["sourceArn"], "without it any rule of any account could"
    assert program.one("cloudwatch/eventRule:EventRule").inputs["scheduleExpression"] == "rate(1 minute)"


def test_nothing_runs_until_the_programs_exist() -> None:
    made = loops(args(enabled=False))
    assert {one.inputs["desiredCount"] for one in made.of("ecs/service:Service")} == {0}
    assert not made.of("lambda/function:Function"), "Lambda refuses to create one whose image is not pushed yet"
    assert not made.of("cloudwatch/eventRule:EventRule")


def test_enabled_loops_run_once_each(program: Program) -> None:
    assert {one.inputs["desiredCount"] for one in program.of("ecs/service:Service")} == {1}
    assert program.one("cloudwatch/eventRule:EventRule").inputs["state"] == "ENABLED"


def test_a_service_runs_its_loops_command() -> None:
    program_container = loop_containers(args(), "autoscaler")[0]
    assert program_container["entryPoint"] + program_container["command"] == ["mrgc", "control", "autoscaler"]


def test_the_failover_moves_one_accelerator_and_creates_nothing(program: Program) -> None:
    found = statements(program, "mrgc-dev-us-east-1-failover-function")["MoveTraffic"]
    assert found["Resource"] == [ACCELERATOR, f"{ACCELERATOR}/*"]
    writes = [one for one in found["Action"] if not one.split(":")[1].startswith(("Describe", "List"))]
    assert writes == ["globalaccelerator:UpdateEndpointGroup"]


def test_the_health_loop_marks_hosts_of_its_fleet_and_keeps_no_state(program: Program) -> None:
    found = statements(program, "mrgc-dev-us-east-1-health-task")
    assert found["MarkHosts"]["Action"] == ["autoscaling:SetInstanceHealth"]
    assert found["MarkHosts"]["Resource"].endswith(":autoScalingGroupName/mrgc-dev-gpu")
    assert "KeepState" not in found


def test_the_autoscaler_sizes_its_fleet_under_a_lease(program: Program) -> None:
    found = statements(program, "mrgc-dev-us-east-1-autoscaler-task")
    assert set(found["SizeFleet"]["Action"]) == {
        "autoscaling:SetDesiredCapacity",
        "autoscaling:TerminateInstanceInAutoScalingGroup",
    }
    assert found["KeepState"]["Resource"].endswith("table/mrgc-dev-autoscaling_state")
    assert "dynamodb:DeleteItem" not in found["KeepState"]["Action"], "a fencing token is never forgotten"


@pytest.mark.parametrize("loop", ["health", "autoscaler", "failover"])
def test_no_loop_may_do_more_than_its_work(loop: Any) -> None:
    without_resources = {"LookAtFleet", "ReadMetrics", "PutMetrics"}
    for one in loop_statements(args(), loop):
        actions = [one["Action"]] if isinstance(one["Action"], str) else one["Action"]
        assert not [action for action in actions if "*" in action or action.startswith(("iam:", "kms:", "sts:"))]
        assert one["Resource"] != "*" or one["Sid"] in without_resources, one["Sid"]


def test_each_loop_is_told_its_region_and_tables() -> None:
    assert loop_environment(args(), "health") == {
        "MRGC_REGION": "us-east-1",
        "MRGC_ENVIRONMENT": "dev",
        "REGISTRY_TABLE": "mrgc-dev-gpu_instances",
        "FLEET_GROUP": "mrgc-dev-gpu",
    }
    assert loop_environment(args("eu-west-1"), "autoscaler")["STATE_REGION"] == "us-east-1"


def test_tasks_have_no_public_address_and_no_way_in_for_commands(program: Program) -> None:
    for one in program.of("ecs/service:Service"):
        assert one.inputs["networkConfiguration"]["assignPublicIp"] is False
        assert one.inputs["enableExecuteCommand"] is False
        assert one.inputs["deploymentCircuitBreaker"] == {"enable": True, "rollback": True}


@pytest.mark.parametrize("count", [3, 4])
def test_every_region_has_its_own_loops(count: int) -> None:
    made = loops(*(args(region) for region in REGIONS[:count]))
    assert {made.region(one) for one in made.of("sqs/queue:Queue")} == set(REGIONS[:count])
    names = [one.inputs["name"] for one in made.of("iam/role:Role")]
    assert len(names) == len(set(names)), "IAM's names are the account's"
    assert sorted(one.name for one in made.of("lambda/function:Function") if "failover" in one.name) == sorted(
        f"control-{region}-failover-function" for region in REGIONS[:count]
    )


def test_everything_is_the_components_child_in_its_region(program: Program) -> None:
    component = program.one("mrgc:control_loops:ControlLoops")
    children = [one for one in program if one.custom and one.type.startswith("aws:")]
    assert {one.parent for one in children} == {component.urn}
    assert {program.region(one) for one in children} == {"us-east-1"}
