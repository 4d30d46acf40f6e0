"""A region's alarm topics, one for each severity: encrypted, and open to this account's alarms of this region only.

An alarm publishes to a topic of its own region, so every region has its topics. The key is the region's logs key, whose
policy lets CloudWatch use it: with a key that does not, alarms change their state and their messages are lost.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws

from components.placement import Placement
from observability.alerts import Severity


@dataclass(frozen=True, kw_only=True)
class AlarmTopicsArgs:
    """`key_arn` is a key that `cloudwatch.amazonaws.com` may use; `email` gets every message, once it has confirmed."""

    placement: Placement
    key_arn: pulumi.Input[str]
    email: str | None = None


def topic_policy(placement: Placement, topic_arn: str) -> dict[str, Any]:
    """Who may publish: CloudWatch, for alarms of this account and region, and nobody without TLS."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "Alarms",
                "Effect": "Allow",
                "Principal": {"Service": "cloudwatch.amazonaws.com"},
                "Action": "sns:Publish",
                "Resource": topic_arn,
                "Condition": {
                    "StringEquals": {"aws:SourceAccount": placement.account},
                    "ArnLike": {"aws:SourceArn": placement.arn("cloudwatch", "alarm:*")},
                },
            },
            {
                "Sid": "TlsOnly",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "sns:Publish",
                "Resource": topic_arn,
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            },
        ],
    }


class AlarmTopics(pulumi.ComponentResource):
    """`arns` has the topic of each severity (`critical`, `warning`)."""

    arns: dict[str, pulumi.Output[str]]

    def __init__(self, name: str, args: AlarmTopicsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:topic:AlarmTopics", name, {}, opts)
        self.arns = {severity.value: self._topic(f"{name}-{severity}", severity, args) for severity in Severity}
        self.register_outputs({"arns": self.arns})

    def _topic(self, name: str, severity: Severity, args: AlarmTopicsArgs) -> pulumi.Output[str]:
        place = args.placement
        topic = aws.sns.Topic(
            name,
            display_name=f"MRGC {place.environment} {place.region} {severity}",
            kms_master_key_id=args.key_arn,
            tags=place.tags("topic", f"{place.region}-{severity}"),
            opts=pulumi.ResourceOptions(parent=self),
        )
        aws.sns.TopicPolicy(
            f"{name}-policy",
            arn=topic.arn,
            policy=topic.arn.apply(lambda arn: json.dumps(topic_policy(place, arn))),
            opts=pulumi.ResourceOptions(parent=self),
        )
        if args.email is not None:
            aws.sns.TopicSubscription(
                f"{name}-email",
                topic=topic.arn,
                protocol="email",
                endpoint=args.email,
                opts=pulumi.ResourceOptions(parent=self),
            )
        return topic.arn
