"""The cluster's two static addresses: Global Accelerator in front of every region's load balancer.

Endpoint groups carry no health check settings: in front of load balancers Global Accelerator ignores its own and takes
the load balancers' (docs/endpoint.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pulumi
import pulumi_aws as aws

from components.placement import Placement

API_REGION: Final = "us-west-2"
"""The one region of Global Accelerator's API and of its logs; the component's provider is of this region."""
TLS_PORT: Final = 443
ALTERNATE_PORT: Final = 8080
FULL_DIAL: Final = 100
"""Percent of the traffic nearest to a region that its group takes, where no dial is given."""
DEFAULT_WEIGHT: Final = 128
"""Of 0 to 255; Global Accelerator's own default. 0 takes nothing until it fails open."""
LOG_DAYS: Final = 90
LOG_PREFIX: Final = "accelerator"


@dataclass(frozen=True, kw_only=True)
class AcceleratorArgs:
    """What the accelerator leads to.

    `load_balancers` maps each region to its load balancer's ARN. `dials` (percent) and `weights` (0 to 255) by region
    are for regions that differ from 100 and 128. `alternate_port` adds 8080, where the load balancers must listen too.
    `protect` keeps the flow logs' bucket from being deleted; without it, it goes with what is in it.
    """

    placement: Placement
    load_balancers: Mapping[str, pulumi.Input[str]]
    dials: Mapping[str, int]
    weights: Mapping[str, int]
    alternate_port: bool
    protect: bool


class Accelerator(pulumi.ComponentResource):
    """The accelerator, its listener, an endpoint group a region, and its flow logs.

    `arn`, `listener_arn`, `dns_name`, `hosted_zone_id` (for alias records), `addresses` (two IPv4) and
    `log_bucket_name` are outputs.
    """

    arn: pulumi.Output[str]
    listener_arn: pulumi.Output[str]
    dns_name: pulumi.Output[str]
    hosted_zone_id: pulumi.Output[str]
    addresses: pulumi.Output[Sequence[str]]
    log_bucket_name: pulumi.Output[str]

    def __init__(self, name: str, args: AcceleratorArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:accelerator:Accelerator", name, {}, opts)
        here = replace(args.placement, region=API_REGION)
        bucket, ready = self._log_bucket(name, here, protect=args.protect)
        accelerator = aws.globalaccelerator.Accelerator(
            f"{name}-anycast",
            enabled=True,
            ip_address_type="IPV4",
            attributes=aws.globalaccelerator.AcceleratorAttributesArgs(
                flow_logs_enabled=True, flow_logs_s3_bucket=bucket.id, flow_logs_s3_prefix=LOG_PREFIX
            ),
            tags=here.tags("accelerator", "accelerator"),
            # The bucket's policy must let the logs in before they are turned on.
            opts=pulumi.ResourceOptions(parent=self, depends_on=[ready]),
        )
        ports = (TLS_PORT, ALTERNATE_PORT) if args.alternate_port else (TLS_PORT,)
        # One listener for all ports: with one each, a region would have a dial and a weight for each of them.
        listener = aws.globalaccelerator.Listener(
            f"{name}-listener",
            accelerator_arn=accelerator.arn,
            protocol="TCP",
            # Any router serves any connection.
            client_affinity="NONE",
            port_ranges=[aws.globalaccelerator.ListenerPortRangeArgs(from_port=port, to_port=port) for port in ports],
            opts=pulumi.ResourceOptions(parent=self),
        )
        for region, load_balancer in args.load_balancers.items():
            aws.globalaccelerator.EndpointGroup(
                f"{name}-group-{region}",
                listener_arn=listener.arn,
                endpoint_group_region=region,
                traffic_dial_percentage=args.dials.get(region, FULL_DIAL),
                endpoint_configurations=[
                    aws.globalaccelerator.EndpointGroupEndpointConfigurationArgs(
                        endpoint_id=load_balancer,
                        weight=args.weights.get(region, DEFAULT_WEIGHT),
                        # Internal load balancers are endpoints only with it.
                        client_ip_preservation_enabled=True,
                    )
                ],
                opts=pulumi.ResourceOptions(parent=self),
            )
        self.arn = accelerator.arn
        self.listener_arn = listener.arn
        self.dns_name = accelerator.dns_name
        self.hosted_zone_id = accelerator.hosted_zone_id
        self.addresses = accelerator.ip_sets.apply(_addresses)
        self.log_bucket_name = bucket.id
        self.register_outputs(
            {
                "arn": self.arn,
                "listener_arn": self.listener_arn,
                "dns_name": self.dns_name,
                "hosted_zone_id": self.hosted_zone_id,
                "addresses": self.addresses,
                "log_bucket_name": self.log_bucket_name,
            }
        )

    def _log_bucket(self, name: str, here: Placement, *, protect: bool) -> tuple[aws.s3.Bucket, aws.s3.BucketPolicy]:
        """The flow logs' bucket, and its policy, after which logs can be delivered."""
        child = pulumi.ResourceOptions(parent=self)
        bucket = aws.s3.Bucket(
            f"{name}-flow-logs",
            force_destroy=not protect,
            tags=here.tags("accelerator", "accelerator-flow-logs"),
            opts=pulumi.ResourceOptions(parent=self, protect=protect, retain_on_delete=protect),
        )
        closed = aws.s3.BucketPublicAccessBlock(
            f"{name}-flow-logs-private",
            bucket=bucket.id,
            block_public_acls=True,
            block_public_policy=True,
            ignore_public_acls=True,
            restrict_public_buckets=True,
            opts=child,
        )
        aws.s3.BucketOwnershipControls(
            f"{name}-flow-logs-owner",
            bucket=bucket.id,
            rule=aws.s3.BucketOwnershipControlsRuleArgs(object_ownership="BucketOwnerEnforced"),
            opts=child,
        )
        aws.s3.BucketServerSideEncryptionConfiguration(
            f"{name}-flow-logs-encryption",
            bucket=bucket.id,
            rules=[
                aws.s3.BucketServerSideEncryptionConfigurationRuleArgs(
                    apply_server_side_encryption_by_default=aws.s3.BucketServerSideEncryptionConfigurationRuleApplyServerSideEncryptionByDefaultArgs(
                        sse_algorithm="AES256"
                    )
                )
            ],
            opts=child,
        )
        aws.s3.BucketLifecycleConfiguration(
            f"{name}-flow-logs-lifecycle",
            bucket=bucket.id,
            rules=[
                aws.s3.BucketLifecycleConfigurationRuleArgs(
                    id=f"expire-after-{LOG_DAYS}-days",
                    status="Enabled",
                    filter=aws.s3.BucketLifecycleConfigurationRuleFilterArgs(prefix=""),
                    expiration=aws.s3.BucketLifecycleConfigurationRuleExpirationArgs(days=LOG_DAYS),
                    abort_incomplete_multipart_upload=(
                        aws.s3.BucketLifecycleConfigurationRuleAbortIncompleteMultipartUploadArgs(
                            days_after_initiation=1
                        )
                    ),
                )
            ],
            opts=child,
        )
        policy = aws.s3.BucketPolicy(
            f"{name}-flow-logs-policy",
            bucket=bucket.id,
            policy=pulumi.Output.json_dumps(bucket.arn.apply(lambda arn: log_policy(arn, here.account))),
            # S3 refuses two changes of a bucket's access at once.
            opts=pulumi.ResourceOptions(parent=self, depends_on=[closed]),
        )
        return bucket, policy


def log_policy(bucket_arn: str, account: str) -> dict[str, Any]:
    """The flow logs' bucket policy: the delivery service writes for this account, and nobody speaks without TLS.

    Statements as in "Logs sent to Amazon S3" of the CloudWatch Logs user guide. Their source is named by account; its
    region is left open, because AWS does not say from which one an accelerator's logs are delivered.
    """
    source: dict[str, Any] = {
        "StringEquals": {"aws:SourceAccount": account},
        "ArnLike": {"aws:SourceArn": f"arn:aws:logs:*:{account}:*"},
    }
    delivery = {"Service": "delivery.logs.amazonaws.com"}
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "AWSLogDeliveryAclCheck",
                "Effect": "Allow",
                "Principal": delivery,
                "Action": ["s3:GetBucketAcl", "s3:ListBucket"],
                "Resource": bucket_arn,
                "Condition": source,
            },
            {
                "Sid": "AWSLogDeliveryWrite",
                "Effect": "Allow",
                "Principal": delivery,
                "Action": "s3:PutObject",
                "Resource": f"{bucket_arn}/{LOG_PREFIX}/AWSLogs/{account}/*",
                "Condition": {
                    **source,
                    "StringEquals": {**source["StringEquals"], "s3:x-amz-acl": "bucket-owner-full-control"},
                },
            },
            {
                "Sid": "TlsOnly",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": [bucket_arn, f"{bucket_arn}/*"],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            },
        ],
    }


def _addresses(sets: Sequence[aws.globalaccelerator.outputs.AcceleratorIpSet]) -> list[str]:
    return [address for one in sets for address in one.ip_addresses or ()]
