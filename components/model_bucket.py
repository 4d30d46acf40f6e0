"""A region's bucket of models: versioned, encrypted, private, and reached by TLS only.

Its versions are the store's backups: FSx takes none of a file system that is linked to a bucket, because the bucket is
the durable copy (FSx API reference, CreateBackup).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import pulumi
import pulumi_aws as aws

from components.placement import Placement

UPLOAD_DAYS: Final = 7
"""A multipart upload that is not finished by then never will be."""


@dataclass(frozen=True, kw_only=True)
class ModelBucketArgs:
    """`backup_days` is how long a version lives on after it was replaced or deleted; S3's shortest is one day."""

    placement: Placement
    key_arn: pulumi.Input[str]
    protect: bool
    backup_days: int = 7


def bucket_policy(bucket_arn: str, key_arn: str) -> dict[str, Any]:
    """Deny what is not TLS, and every upload that asks for another encryption than the bucket's own.

    An upload that asks for none gets the bucket's; replication is no PutObject and names the key by itself.
    """
    objects = f"{bucket_arn}/*"
    denied = {"Effect": "Deny", "Principal": "*"}
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                **denied,
                "Sid": "OnlyTls",
                "Action": "s3:*",
                "Resource": [bucket_arn, objects],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            },
            {
                **denied,
                "Sid": "OnlyKms",
                "Action": "s3:PutObject",
                "Resource": objects,
                "Condition": {"StringNotEqualsIfExists": {"s3:x-amz-server-side-encryption": "aws:kms"}},
            },
            {
                **denied,
                "Sid": "OnlyThisKey",
                "Action": "s3:PutObject",
                "Resource": objects,
                "Condition": {"StringNotEqualsIfExists": {"s3:x-amz-server-side-encryption-aws-kms-key-id": key_arn}},
            },
        ],
    }


class ModelBucket(pulumi.ComponentResource):
    """`bucket_name` and `bucket_arn`."""

    bucket_name: pulumi.Output[str]
    bucket_arn: pulumi.Output[str]

    def __init__(self, name: str, args: ModelBucketArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:model_bucket:ModelBucket", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        bucket = aws.s3.Bucket(
            f"{name}-bucket",
            force_destroy=not args.protect,
            tags=args.placement.tags("model-bucket", "models"),
            opts=pulumi.ResourceOptions(parent=self, protect=args.protect, retain_on_delete=args.protect),
        )
        self.bucket_name = bucket.id
        self.bucket_arn = bucket.arn
        aws.s3.BucketPublicAccessBlock(
            f"{name}-private",
            bucket=bucket.id,
            block_public_acls=True,
            block_public_policy=True,
            ignore_public_acls=True,
            restrict_public_buckets=True,
            opts=child,
        )
        aws.s3.BucketOwnershipControls(
            f"{name}-ownership",
            bucket=bucket.id,
            rule=aws.s3.BucketOwnershipControlsRuleArgs(object_ownership="BucketOwnerEnforced"),
            opts=child,
        )
        versioning = aws.s3.BucketVersioning(
            f"{name}-versions",
            bucket=bucket.id,
            versioning_configuration=aws.s3.BucketVersioningVersioningConfigurationArgs(status="Enabled"),
            opts=child,
        )
        aws.s3.BucketServerSideEncryptionConfiguration(
            f"{name}-encryption",
            bucket=bucket.id,
            rules=[
                aws.s3.BucketServerSideEncryptionConfigurationRuleArgs(
                    apply_server_side_encryption_by_default=(
                        aws.s3.BucketServerSideEncryptionConfigurationRuleApplyServerSideEncryptionByDefaultArgs(
                            sse_algorithm="aws:kms", kms_master_key_id=args.key_arn
                        )
                    ),
                    bucket_key_enabled=True,
                )
            ],
            opts=child,
        )
        aws.s3.BucketLifecycleConfiguration(
            f"{name}-lifecycle",
            bucket=bucket.id,
            rules=[
                aws.s3.BucketLifecycleConfigurationRuleArgs(
                    id="old-versions",
                    status="Enabled",
                    filter=aws.s3.BucketLifecycleConfigurationRuleFilterArgs(prefix=""),
                    noncurrent_version_expiration=(
                        aws.s3.BucketLifecycleConfigurationRuleNoncurrentVersionExpirationArgs(
                            noncurrent_days=max(1, args.backup_days)
                        )
                    ),
                    abort_incomplete_multipart_upload=(
                        aws.s3.BucketLifecycleConfigurationRuleAbortIncompleteMultipartUploadArgs(
                            days_after_initiation=UPLOAD_DAYS
                        )
                    ),
                )
            ],
            # S3 takes a rule about old versions only where there are versions.
            opts=pulumi.ResourceOptions(parent=self, depends_on=[versioning]),
        )
        aws.s3.BucketPolicy(
            f"{name}-policy",
            bucket=bucket.id,
            policy=pulumi.Output.json_dumps(
                pulumi.Output.all(bucket.arn, args.key_arn).apply(lambda arns: bucket_policy(*arns))
            ),
            opts=child,
        )
        self.register_outputs({"bucket_name": self.bucket_name, "bucket_arn": self.bucket_arn})
