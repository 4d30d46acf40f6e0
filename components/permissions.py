"""What roles may do, as plain statements: the few grants that tasks, functions and hosts have in common.

ARNs are built of plain values, so that a policy is known at preview and a policy pack can read it; the one grant on a
key whose ARN only AWS knows (`use_table_key`) is a policy of its own for that reason.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import pulumi

from components.placement import PROJECT, Placement

Statement = dict[str, Any]

MAX_ROLE_NAME: Final = 64
"""IAM's limit on a role's name, in characters."""


def role_name(placement: Placement, what: str) -> str:
    """A role's fixed name, `mrgc-<environment>-<region>-<what>`.

    Fixed, because other policies name roles: tenants' key policies the hosts', endpoint policies the others. IAM
    replaces a role only when its name or path changes, so no replacement meets the old name.
    """
    name = f"{PROJECT}-{placement.environment}-{placement.region}-{what}"
    if len(name) > MAX_ROLE_NAME:
        raise ValueError(f"The role name {name!r} has {len(name)} characters; IAM takes {MAX_ROLE_NAME}.")
    return name


def policy(*statements: Statement) -> str:
    """A policy document of plain statements, as JSON."""
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def trust(service: str, *, account: str | None = None) -> str:
    """A trust policy for one AWS service; with `account`, only on behalf of that account's resources."""
    statement: Statement = {
        "Effect": "Allow",
        "Principal": {"Service": service},
        "Action": "sts:AssumeRole",
    }
    if account is not None:
        statement["Condition"] = {"StringEquals": {"aws:SourceAccount": account}}
    return policy(statement)


def table_arn(placement: Placement, table: str, *, region: str | None = None) -> str:
    """A table's ARN; a replica of a global table has the same name in its own region."""
    return placement.arn("dynamodb", f"table/{table}", region=region)


def read_hosts(placement: Placement, table: str, *, own_region_only: bool = True) -> Statement:
    """Query the registry of hosts; its partition key is the region, and with `own_region_only` no other is read."""
    statement: Statement = {
        "Sid": "ReadHosts",
        "Effect": "Allow",
        "Action": "dynamodb:Query",
        "Resource": table_arn(placement, table),
    }
    return _own_partition(placement, statement) if own_region_only else statement


def report_host(placement: Placement, table: str) -> Statement:
    """Write and remove hosts' records of the own region, and read none."""
    return _own_partition(
        placement,
        {
            "Sid": "ReportHost",
            "Effect": "Allow",
            "Action": ["dynamodb:PutItem", "dynamodb:DeleteItem"],
            "Resource": table_arn(placement, table),
        },
    )


def keep_state(placement: Placement, table: str, *, region: str) -> Statement:
    """Read and write the items of a state table (leases with fencing tokens) where `region` has a replica."""
    return {
        "Sid": "KeepState",
        "Effect": "Allow",
        "Action": ["dynamodb:GetItem", "dynamodb:Query", "dynamodb:PutItem", "dynamodb:UpdateItem"],
        "Resource": table_arn(placement, table, region=region),
    }


def use_table_key(key_arns: Sequence[pulumi.Input[str]], regions: Sequence[str]) -> pulumi.Output[str]:
    """A policy to open tables under a customer managed key, through DynamoDB alone and without grants.

    DynamoDB asks KMS with the caller's own permissions (DynamoDB developer guide, "How DynamoDB uses AWS KMS").
    """
    return pulumi.Output.json_dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "OpenTables",
                    "Effect": "Allow",
                    "Action": ["kms:Decrypt", "kms:DescribeKey"],
                    "Resource": list(key_arns),
                    "Condition": {
                        "StringEquals": {"kms:ViaService": [f"dynamodb.{one}.amazonaws.com" for one in regions]}
                    },
                }
            ],
        }
    )


def open_secrets(placement: Placement, key_arn: pulumi.Input[str]) -> pulumi.Output[str]:
    """A policy to open SecureString parameters under a customer managed key, through Parameter Store alone.

    Under the account's `aws/ssm` none is needed: that key's own policy admits who may read the parameter.
    """
    return pulumi.Output.json_dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "OpenSecrets",
                    "Effect": "Allow",
                    "Action": "kms:Decrypt",
                    "Resource": key_arn,
                    "Condition": {"StringEquals": {"kms:ViaService": f"ssm.{placement.region}.amazonaws.com"}},
                }
            ],
        }
    )


def read_parameters(placement: Placement, names: Sequence[str]) -> Statement:
    """Read parameters by their names, which begin with a slash."""
    return {
        "Sid": "ReadParameters",
        "Effect": "Allow",
        "Action": ["ssm:GetParameter", "ssm:GetParameters"],
        "Resource": [parameter_arn(placement, name) for name in names],
    }


def parameter_arn(placement: Placement, name: str) -> str:
    """The ARN of a parameter whose name begins with a slash."""
    return placement.arn("ssm", f"parameter{name}")


def write_logs(placement: Placement, groups: Sequence[str], *, sid: str = "WriteLogs") -> Statement:
    """Add streams and events to log groups that exist; creating groups is the program's."""
    return {
        "Sid": sid,
        "Effect": "Allow",
        "Action": ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"],
        "Resource": [placement.arn("logs", f"log-group:{group}:*") for group in groups],
    }


def send_traces() -> Statement:
    """Send spans to X-Ray, whose two write calls know no resources."""
    return {
        "Sid": "SendTraces",
        "Effect": "Allow",
        "Action": ["xray:PutTraceSegments", "xray:PutTelemetryRecords"],
        "Resource": "*",
    }


def put_metrics(namespace: str) -> Statement:
    """Put metrics of one namespace; the call knows no resources."""
    return {
        "Sid": "PutMetrics",
        "Effect": "Allow",
        "Action": "cloudwatch:PutMetricData",
        "Resource": "*",
        "Condition": {"StringEquals": {"cloudwatch:namespace": namespace}},
    }


def _own_partition(placement: Placement, statement: Statement) -> Statement:
    """Hold a statement to the items whose partition key is the own region."""
    condition = {
        "ForAllValues:StringEquals": {"dynamodb:LeadingKeys": [placement.region]},
        # ForAllValues holds for a call that names no key at all; this refuses such a call.
        "Null": {"dynamodb:LeadingKeys": "false"},
    }
    return {**statement, "Condition": condition}
