"""What may be asked through each VPC endpoint: plain policy documents, complete before anything is planned.

An endpoint policy grants nothing. It is the most that anybody in the VPC can ask of a service, whatever credentials
they brought: with foreign credentials nothing can be sent out through an AWS API, and with our own only the calls named
here, on the environment's own things where the service has names for them. Roles grant less. A role that needs a
further action needs it here too.

Three rules of AWS's own shape the documents (AWS PrivateLink guide, "Control access to VPC endpoints using endpoint
policies"): a gateway endpoint's principal is always `*`, so conditions say who; `aws:PrincipalAccount` takes no
wildcard; the account in an ARN is a number or a wildcard, not a mixture.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from components.host_role import host_role_arn
from components.placement import PROJECT, Placement

GATEWAY_SERVICES: Final = ("s3", "dynamodb")
INTERFACE_SERVICES: Final = (
    "kms", "sts", "ecr.api", "ecr.dkr", "logs", "monitoring", "ec2", "ssm", "autoscaling", "xray",
)  # fmt: skip
SESSION_SERVICES: Final = ("ssmmessages", "ec2messages")
"""For Session Manager only: where a host can be logged into, and no level 2 is claimed."""

_ECR_PULL: Final = (
    "ecr:BatchCheckLayerAvailability",
    "ecr:BatchGetImage",
    "ecr:GetDownloadUrlForLayer",
)
_SESSION_AGENT: Final = (
    "ssm:DescribeAssociation",
    "ssm:DescribeDocument",
    "ssm:GetDeployablePatchSnapshotForInstance",
    "ssm:GetDocument",
    "ssm:GetManifest",
    "ssm:ListAssociations",
    "ssm:ListInstanceAssociations",
    "ssm:PutComplianceItems",
    "ssm:PutConfigurePackageResult",
    "ssm:PutInventory",
    "ssm:UpdateAssociationStatus",
    "ssm:UpdateInstanceAssociationStatus",
    "ssm:UpdateInstanceInformation",
)
"""What the SSM agent asks (the AWS managed policy AmazonSSMManagedInstanceCore), without reading parameters."""


def endpoint_policy(placement: Placement, service: str, *, session_manager: bool = False) -> str:
    """The policy of one service's endpoint as JSON. Raises KeyError for a service that has none here."""
    statements = _STATEMENTS[service](placement)
    if service == "ssm" and session_manager:
        statements = [*statements, _ours(placement, "SessionAgent", _SESSION_AGENT, "*")]
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def _ours(
    placement: Placement,
    sid: str,
    actions: Sequence[str],
    resources: str | Sequence[str],
    condition: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """Allow `actions` to principals of our own account; a further `condition` narrows it."""
    merged: dict[str, dict[str, str]] = {"StringEquals": {"aws:PrincipalAccount": placement.account}}
    for operator, keys in (condition or {}).items():
        merged[operator] = {**merged.get(operator, {}), **keys}
    return {
        "Sid": sid,
        "Effect": "Allow",
        "Principal": "*",
        "Action": list(actions),
        "Resource": resources if isinstance(resources, str) else list(resources),
        "Condition": merged,
    }


def _public_read(sid: str, bucket: str) -> dict[str, Any]:
    """Allow reading one bucket of AWS's own to anybody: its requests carry no principal of ours."""
    return {
        "Sid": sid,
        "Effect": "Allow",
        "Principal": "*",
        "Action": ["s3:GetObject"],
        "Resource": [f"arn:aws:s3:::{bucket}/*"],
    }


def _s3(placement: Placement) -> list[dict[str, Any]]:
    # Read only: models come in from outside and FSx exports from its own side, so nothing in the VPC writes objects,
    # and a host that is taken over cannot carry data out in them. Buckets have made names: `aws:ResourceAccount`
    # says "ours". Layers come by URLs that ECR signs, packages by unsigned requests; neither has a principal of ours.
    read = (
        "s3:GetBucketLocation",
        "s3:GetObject",
        "s3:GetObjectAttributes",
        "s3:GetObjectVersion",
        "s3:ListBucket",
    )
    own = {"StringEquals": {"aws:ResourceAccount": placement.account}}
    return [
        _ours(placement, "ReadOurBuckets", read, "arn:aws:s3:::*", own),
        _public_read("ContainerLayers", f"prod-{placement.region}-starport-layer-bucket"),
        _public_read("AmazonLinuxPackages", f"al2023-repos-{placement.region}-de612dc2"),
    ]


def _dynamodb(placement: Placement) -> list[dict[str, Any]]:
    actions = (
        "dynamodb:BatchGetItem",
        "dynamodb:BatchWriteItem",
        "dynamodb:ConditionCheckItem",
        "dynamodb:DeleteItem",
        "dynamodb:DescribeTable",
        "dynamodb:GetItem",
        "dynamodb:PutItem",
        "dynamodb:Query",
        "dynamodb:Scan",
        "dynamodb:UpdateItem",
    )
    tables = placement.arn("dynamodb", f"table/{PROJECT}-{placement.environment}-*")
    return [_ours(placement, "OurTables", actions, tables)]


def _kms(placement: Placement) -> list[dict[str, Any]]:
    # Tenants' keys are in tenants' accounts, hence any account; the host's role is the only one that they admit, and
    # only with an attestation document. Our own keys are used by AWS services on their side, never through here.
    host = {"ArnEquals": {"aws:PrincipalArn": host_role_arn(placement)}}
    keys = f"arn:aws:kms:{placement.region}:*:key/*"
    return [_ours(placement, "TenantKeysByTheHost", ["kms:Decrypt"], keys, host)]


def _sts(placement: Placement) -> list[dict[str, Any]]:
    # Roles come from instance and task metadata; nothing in the VPC assumes another.
    return [_ours(placement, "WhoAmI", ["sts:GetCallerIdentity"], "*")]


def _ecr(placement: Placement) -> list[dict[str, Any]]:
    # GetAuthorizationToken knows no resource. Images are pushed from outside.
    return [
        _ours(placement, "Token", ["ecr:GetAuthorizationToken"], "*"),
        _ours(placement, "PullOurImages", _ECR_PULL, placement.arn("ecr", "repository/*")),
    ]


def _logs(placement: Placement) -> list[dict[str, Any]]:
    actions = ("logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents")
    return [_ours(placement, "WriteOurLogs", actions, placement.arn("logs", f"log-group:{placement.path('*')}"))]


def _monitoring(placement: Placement) -> list[dict[str, Any]]:
    actions = (
        "cloudwatch:DescribeAlarms",
        "cloudwatch:GetMetricData",
        "cloudwatch:GetMetricStatistics",
        "cloudwatch:ListMetrics",
        "cloudwatch:PutMetricData",
    )
    return [_ours(placement, "Metrics", actions, "*")]


def _ec2(placement: Placement) -> list[dict[str, Any]]:
    actions = (
        "ec2:DescribeInstanceStatus",
        "ec2:DescribeInstanceTypes",
        "ec2:DescribeInstances",
        "ec2:DescribeTags",
    )
    return [_ours(placement, "LookAtHosts", actions, "*")]


def _ssm(placement: Placement) -> list[dict[str, Any]]:
    actions = ("ssm:GetParameter", "ssm:GetParameters", "ssm:GetParametersByPath")
    return [_ours(placement, "ReadOurParameters", actions, placement.arn("ssm", f"parameter{placement.path('*')}"))]


def _autoscaling(placement: Placement) -> list[dict[str, Any]]:
    look = (
        "autoscaling:DescribeAutoScalingGroups",
        "autoscaling:DescribeAutoScalingInstances",
        "autoscaling:DescribeLifecycleHooks",
    )
    act = (
        "autoscaling:CompleteLifecycleAction",
        "autoscaling:RecordLifecycleActionHeartbeat",
        "autoscaling:SetDesiredCapacity",
        "autoscaling:SetInstanceHealth",
        "autoscaling:SetInstanceProtection",
        "autoscaling:TerminateInstanceInAutoScalingGroup",
    )
    groups = placement.arn("autoscaling", "autoScalingGroup:*:autoScalingGroupName/*")
    # The Describe actions know no resource.
    return [_ours(placement, "LookAtFleets", look, "*"), _ours(placement, "MoveOurFleets", act, groups)]


def _xray(placement: Placement) -> list[dict[str, Any]]:
    actions = (
        "xray:GetSamplingRules",
        "xray:GetSamplingStatisticSummaries",
        "xray:GetSamplingTargets",
        "xray:PutSpans",
        "xray:PutTelemetryRecords",
        "xray:PutTraceSegments",
    )
    return [_ours(placement, "WriteTraces", actions, "*")]


def _ssmmessages(placement: Placement) -> list[dict[str, Any]]:
    actions = (
        "ssmmessages:CreateControlChannel",
        "ssmmessages:CreateDataChannel",
        "ssmmessages:OpenControlChannel",
        "ssmmessages:OpenDataChannel",
    )
    return [_ours(placement, "SessionChannels", actions, "*")]


def _ec2messages(placement: Placement) -> list[dict[str, Any]]:
    actions = (
        "ec2messages:AcknowledgeMessage",
        "ec2messages:DeleteMessage",
        "ec2messages:FailMessage",
        "ec2messages:GetEndpoint",
        "ec2messages:GetMessages",
        "ec2messages:SendReply",
    )
    return [_ours(placement, "AgentMessages", actions, "*")]


_STATEMENTS: Final = {
    "s3": _s3,
    "dynamodb": _dynamodb,
    "kms": _kms,
    "sts": _sts,
    "ecr.api": _ecr,
    "ecr.dkr": _ecr,
    "logs": _logs,
    "monitoring": _monitoring,
    "ec2": _ec2,
    "ssm": _ssm,
    "autoscaling": _autoscaling,
    "xray": _xray,
    "ssmmessages": _ssmmessages,
    "ec2messages": _ec2messages,
}
