"""Replication of models from the home region's bucket to every other region's.

One way: models are uploaded at home. Deletions are not replicated, so that a slip at home does not empty the others;
they are removed region by region (`mrgc models remove`). S3's own promise (Replication Time Control) is 15 minutes
for 99.99 % of objects, no less; a metric and an event tell of those that took longer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pulumi
import pulumi_aws as aws

from components.model_bucket import ModelBucket
from components.placement import Placement

REPLICATION_MINUTES: Final = 15
"""The one threshold that S3 takes."""


@dataclass(frozen=True, kw_only=True)
class ModelReplicationArgs:
    """Buckets, keys and placements of every region, `home` among them; the component's provider is home's."""

    placements: Mapping[str, Placement]
    home: str
    buckets: Mapping[str, ModelBucket]
    key_arns: Mapping[str, pulumi.Input[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One region's bucket and the key of its objects, as ARNs."""

    region: str
    bucket_arn: str
    key_arn: str


def role_policy(home: Place, others: list[Place]) -> dict[str, Any]:
    """What S3 needs to read versions at home and write them elsewhere, and keys only through S3 and for these buckets.

    With bucket keys the encryption context is the bucket's ARN, not the object's.
    """

    def keys(sid: str, actions: list[str], place: Place) -> dict[str, Any]:
        return {
            "Sid": sid,
            "Effect": "Allow",
            "Action": actions,
            "Resource": place.key_arn,
            "Condition": {
                "StringEquals": {
                    "kms:ViaService": f"s3.{place.region}.amazonaws.com",
                    "kms:EncryptionContext:aws:s3:arn": place.bucket_arn,
                }
            },
        }

    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "ReadConfiguration",
                "Effect": "Allow",
                "Action": ["s3:GetReplicationConfiguration", "s3:ListBucket"],
                "Resource": home.bucket_arn,
            },
            {
                "Sid": "ReadVersions",
                "Effect": "Allow",
                "Action": [
                    "s3:GetObjectVersionForReplication",
                    "s3:GetObjectVersionAcl",
                    "s3:GetObjectVersionTagging",
                ],
                "Resource": f"{home.bucket_arn}/*",
            },
            {
                "Sid": "WriteReplicas",
                "Effect": "Allow",
                "Action": ["s3:ReplicateObject", "s3:ReplicateTags"],
                "Resource": [f"{other.bucket_arn}/*" for other in others],
            },
            keys("DecryptAtHome", ["kms:Decrypt"], home),
            *(
                keys(f"EncryptElsewhere{number}", ["kms:Encrypt", "kms:GenerateDataKey"], other)
                for number, other in enumerate(others)
            ),
        ],
    }


class ModelReplication(pulumi.ComponentResource):
    """`role_arn` of the role that S3 replicates with."""

    role_arn: pulumi.Output[str]

    def __init__(self, name: str, args: ModelReplicationArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:model_replication:ModelReplication", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        home = args.placements[args.home]
        others = [region for region in args.placements if region != args.home]
        role = aws.iam.Role(
            f"{name}-role",
            description=f"S3 replicates models of {home.environment} from {home.region}",
            assume_role_policy=json.dumps(
                {
                    "Version": "2012-10-17",
                    "Statement": [
                        {
                            "Effect": "Allow",
                            "Principal": {"Service": "s3.amazonaws.com"},
                            "Action": "sts:AssumeRole",
                        }
                    ],
                }
            ),
            tags=home.tags("model-replication", "model-replication"),
            opts=child,
        )
        self.role_arn = role.arn
        places = pulumi.Output.all(
            *(
                pulumi.Output.all(args.buckets[region].bucket_arn, args.key_arns[region], region)
                for region in (args.home, *others)
            )
        ).apply(lambda found: [Place(bucket_arn=bucket, key_arn=key, region=region) for bucket, key, region in found])
        granted = aws.iam.RolePolicy(
            f"{name}-policy",
            role=role.name,
            policy=pulumi.Output.json_dumps(places.apply(lambda found: role_policy(found[0], found[1:]))),
            opts=child,
        )
        aws.s3.BucketReplicationConfig(
            f"{name}-rules",
            bucket=args.buckets[args.home].bucket_name,
            role=role.arn,
            rules=[self._rule(number, region, args) for number, region in enumerate(others, start=1)],
            # S3 refuses rules until both ends have versions, and tries the role at once.
            opts=pulumi.ResourceOptions(parent=self, depends_on=[granted, *args.buckets.values()]),
        )
        self.register_outputs({"role_arn": self.role_arn})

    @staticmethod
    def _rule(priority: int, region: str, args: ModelReplicationArgs) -> aws.s3.BucketReplicationConfigRuleArgs:
        return aws.s3.BucketReplicationConfigRuleArgs(
            id=f"to-{region}",
            status="Enabled",
            priority=priority,
            filter=aws.s3.BucketReplicationConfigRuleFilterArgs(prefix=""),
            delete_marker_replication=aws.s3.BucketReplicationConfigRuleDeleteMarkerReplicationArgs(status="Disabled"),
            source_selection_criteria=aws.s3.BucketReplicationConfigRuleSourceSelectionCriteriaArgs(
                sse_kms_encrypted_objects=(
                    aws.s3.BucketReplicationConfigRuleSourceSelectionCriteriaSseKmsEncryptedObjectsArgs(
                        status="Enabled"
                    )
                )
            ),
            destination=aws.s3.BucketReplicationConfigRuleDestinationArgs(
                bucket=args.buckets[region].bucket_arn,
                encryption_configuration=aws.s3.BucketReplicationConfigRuleDestinationEncryptionConfigurationArgs(
                    replica_kms_key_id=args.key_arns[region]
                ),
                metrics=aws.s3.BucketReplicationConfigRuleDestinationMetricsArgs(
                    status="Enabled",
                    event_threshold=aws.s3.BucketReplicationConfigRuleDestinationMetricsEventThresholdArgs(
                        minutes=REPLICATION_MINUTES
                    ),
                ),
                replication_time=aws.s3.BucketReplicationConfigRuleDestinationReplicationTimeArgs(
                    status="Enabled",
                    time=aws.s3.BucketReplicationConfigRuleDestinationReplicationTimeTimeArgs(
                        minutes=REPLICATION_MINUTES
                    ),
                ),
            ),
        )
