"""The flow log of one VPC: what was let through and what was refused, encrypted, kept 90 days or more."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

import pulumi
import pulumi_aws as aws

from components.placement import Placement

MIN_DAYS: Final = 90
AGGREGATION_S: Final = 60
"""The shorter of EC2's two choices, 60 and 600: a minute is soon enough to see an attack, ten are not."""
FORMAT: Final = " ".join(
    f"${{{field}}}"
    for field in (
        "version", "account-id", "interface-id", "srcaddr", "dstaddr", "srcport", "dstport", "protocol", "packets",
        "bytes", "start", "end", "action", "log-status", "vpc-id", "subnet-id", "az-id", "instance-id", "tcp-flags",
        "pkt-srcaddr", "pkt-dstaddr", "flow-direction", "traffic-path",
    )
)  # fmt: skip
"""The default's fields, then: where it was seen, who opened the connection, the addresses behind a load balancer or
gateway, and which way it left the VPC."""


@dataclass(frozen=True, kw_only=True)
class FlowLogsArgs:
    """`key_arn` is this region's key for logs; `days` the retention, at least 90. Raises ValueError below that.

    `protect` keeps the log when the stack goes.
    """

    placement: Placement
    vpc_id: pulumi.Input[str]
    key_arn: pulumi.Input[str]
    days: int
    protect: bool = False

    def __post_init__(self) -> None:
        if self.days < MIN_DAYS:
            raise ValueError(
                f"{self.placement.region}: flow logs are kept {self.days} days; keep them {MIN_DAYS} or more."
            )


def trust_policy(placement: Placement) -> str:
    """Who may take the role: the flow log service, and only on behalf of a flow log of this account and region.

    Without the conditions another account could have the service write with our role (the confused deputy).
    """
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"Service": "vpc-flow-logs.amazonaws.com"},
                    "Action": "sts:AssumeRole",
                    "Condition": {
                        "StringEquals": {"aws:SourceAccount": placement.account},
                        "ArnLike": {"aws:SourceArn": placement.arn("ec2", "vpc-flow-log/*")},
                    },
                }
            ],
        }
    )


def delivery_policy(placement: Placement, group_name: str) -> str:
    """Writing to this one log group. The group exists, so the role cannot make or list any."""
    group = placement.arn("logs", f"log-group:{group_name}")
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Action": ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"],
                    "Resource": [group, f"{group}:*"],
                }
            ],
        }
    )


class FlowLogs(pulumi.ComponentResource):
    """A VPC's flow log with its log group and role. `group_name` is `/mrgc/<environment>/flow-logs`."""

    group_name: str

    def __init__(self, name: str, args: FlowLogsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:flow_logs:FlowLogs", name, None, opts)
        placement = args.placement
        child = pulumi.ResourceOptions(parent=self)
        self.group_name = placement.path("flow-logs")
        group = aws.cloudwatch.LogGroup(
            f"{name}-group",
            name=self.group_name,
            retention_in_days=args.days,
            kms_key_id=args.key_arn,
            tags=placement.tags("flow-logs", "flow-logs"),
            opts=pulumi.ResourceOptions(parent=self, protect=args.protect, retain_on_delete=args.protect),
        )
        role = aws.iam.Role(
            f"{name}-role",
            description=f"Writes the flow log of {placement.region}",
            assume_role_policy=trust_policy(placement),
            tags=placement.tags("flow-logs", f"flow-logs-{placement.region}"),
            opts=child,
        )
        delivery = aws.iam.RolePolicy(
            f"{name}-delivery",
            role=role.name,
            policy=delivery_policy(placement, self.group_name),
            opts=child,
        )
        aws.ec2.FlowLog(
            f"{name}-log",
            vpc_id=args.vpc_id,
            traffic_type="ALL",
            log_destination_type="cloud-watch-logs",
            log_destination=group.arn,
            iam_role_arn=role.arn,
            log_format=FORMAT,
            max_aggregation_interval=AGGREGATION_S,
            tags=placement.tags("flow-logs", "flow-logs"),
            # Delivery fails from the start, and AWS marks the log so, while the role cannot write yet.
            opts=pulumi.ResourceOptions(parent=self, depends_on=[delivery]),
        )
        self.register_outputs({"group_name": self.group_name})
