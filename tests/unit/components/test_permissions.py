from __future__ import annotations

import json

import pytest

from components.permissions import (
    keep_state,
    policy,
    put_metrics,
    read_hosts,
    report_host,
    role_name,
    trust,
    write_logs,
)
from components.placement import Placement

PLACE = Placement(region="us-west-2", environment="prod", account="123456789012")
TABLE = "arn:aws:dynamodb:us-west-2:123456789012:table/mrgc-prod-gpu_instances"


def test_a_role_is_named_by_environment_region_and_purpose() -> None:
    assert role_name(PLACE, "host") == "mrgc-prod-us-west-2-host"


def test_a_role_name_that_iam_would_refuse_is_refused_here() -> None:
    with pytest.raises(ValueError, match="65 characters; IAM takes 64"):
        role_name(PLACE, "x" * (65 - len("mrgc-prod-us-west-2-")))


def test_hosts_are_read_of_the_own_region_only() -> None:
    statement = read_hosts(PLACE, "mrgc-prod-gpu_instances")
    assert statement["Action"] == "dynamodb:Query"
    assert statement["Resource"] == TABLE
    assert statement["Condition"]["ForAllValues:StringEquals"] == {"dynamodb:LeadingKeys": ["us-west-2"]}
    assert statement["Condition"]["Null"] == {"dynamodb:LeadingKeys": "false"}, "ForAllValues holds for no key at all"


def test_the_failover_reads_every_regions_hosts() -> None:
    assert "Condition" not in read_hosts(PLACE, "mrgc-prod-gpu_instances", own_region_only=False)


def test_a_host_writes_records_and_reads_none() -> None:
    statement = report_host(PLACE, "mrgc-prod-gpu_instances")
    assert statement["Action"] == ["dynamodb:PutItem", "dynamodb:DeleteItem"]
    assert statement["Condition"]["ForAllValues:StringEquals"] == {"dynamodb:LeadingKeys": ["us-west-2"]}


def test_state_is_kept_in_the_region_that_has_a_replica() -> None:
    assert keep_state(PLACE, "mrgc-prod-routing_state", region="us-east-1")["Resource"] == (
        "arn:aws:dynamodb:us-east-1:123456789012:table/mrgc-prod-routing_state"
    )


def test_logs_go_to_groups_that_exist() -> None:
    statement = write_logs(PLACE, ["/mrgc/prod/host"])
    assert statement["Resource"] == ["arn:aws:logs:us-west-2:123456789012:log-group:/mrgc/prod/host:*"]
    assert "logs:CreateLogGroup" not in statement["Action"]


def test_metrics_go_into_one_namespace() -> None:
    assert put_metrics("MRGC")["Condition"] == {"StringEquals": {"cloudwatch:namespace": "MRGC"}}


def test_a_trust_policy_can_be_held_to_one_account() -> None:
    document = json.loads(trust("ecs-tasks.amazonaws.com", account="123456789012"))
    assert document["Statement"][0]["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}
    assert "Condition" not in json.loads(trust("ec2.amazonaws.com"))["Statement"][0]


def test_a_policy_is_json_of_its_statements() -> None:
    assert json.loads(policy({"Sid": "A"}, {"Sid": "B"})) == {
        "Version": "2012-10-17",
        "Statement": [{"Sid": "A"}, {"Sid": "B"}],
    }
