"""Key policies of the platform's own keys. Pure.

The account's root may administer each key, so that a key is never orphaned, and may not use it: a delegation to IAM
covers only the actions that its statement names. Use is by AWS services: named as principals where they call KMS
as themselves, and by `kms:ViaService` where they call on behalf of whoever called them. In the second case the
principal is "*" bound to this account by `kms:CallerAccount`, as in AWS's own managed keys: who may read an object or
an item is then decided by the permissions on that object or item, and nobody uses the key by itself.

Sources: KMS developer guide, "Key policies", "kms:ViaService", "kms:GrantIsForAWSResource"; CloudWatch Logs user guide,
"Encrypt log data in CloudWatch Logs using AWS KMS"; EC2 Auto Scaling user guide, "Required AWS KMS key policy for use
with encrypted volumes"; DynamoDB developer guide, "DynamoDB encryption at rest".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from components.placement import PROJECT, Placement

ADMIN_ACTIONS: Final = (
    "kms:DescribeKey",
    "kms:GetKeyPolicy",
    "kms:PutKeyPolicy",
    "kms:ListKeyPolicies",
    "kms:ListGrants",
    "kms:RevokeGrant",
    "kms:ListResourceTags",
    "kms:TagResource",
    "kms:UntagResource",
    "kms:UpdateKeyDescription",
    "kms:EnableKey",
    "kms:DisableKey",
    "kms:GetKeyRotationStatus",
    "kms:EnableKeyRotation",
    "kms:DisableKeyRotation",
    "kms:ReplicateKey",
    "kms:UpdatePrimaryRegion",
    "kms:ScheduleKeyDeletion",
    "kms:CancelKeyDeletion",
)
"""What an owner needs: nothing that encrypts or decrypts, and no grant."""

USE_ACTIONS: Final = ("kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey")

STORAGE_SERVICES: Final = ("ec2", "s3", "fsx", "ecr")
"""Services that keep files and disks under the storage key; EBS calls KMS through EC2."""

INSIGHTS: Final = "/aws/ecs/containerinsights"
"""Where CloudWatch's container insights keeps its groups, `<cluster>/performance` (CloudWatch user guide)."""

LAUNCHING_ROLES: Final = (
    "role/aws-service-role/autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling",
    "role/aws-service-role/spot.amazonaws.com/AWSServiceRoleForEC2Spot",
)
"""Service-linked roles that start hosts with encrypted root volumes, on demand and spot."""

Policy = dict[str, Any]


def logs_key_policy(placement: Placement) -> Policy:
    """The policy of a region's logs key: log groups of /mrgc/<environment>/ and of clusters, topics of alarms."""
    groups = [
        placement.arn("logs", f"log-group:/{PROJECT}/{placement.environment}/*"),
        placement.arn("logs", f"log-group:{INSIGHTS}/*/performance"),
    ]
    own = {"StringEquals": {"aws:SourceAccount": placement.account}}
    return _policy(
        "logs",
        _administers(placement.account),
        _service(
            "LogGroups",
            f"logs.{placement.region}.amazonaws.com",
            USE_ACTIONS,
            {"ArnLike": {"kms:EncryptionContext:aws:logs:arn": groups}},
        ),
        _service("Alarms", "cloudwatch.amazonaws.com", ("kms:Decrypt", "kms:GenerateDataKey*"), own),
    )


def storage_key_policy(placement: Placement) -> Policy:
    """The policy of a region's storage key: volumes, model files, model objects, images."""
    account = placement.account
    launching = {"ArnEquals": {"aws:PrincipalArn": [placement.arn("iam", r, region="") for r in LAUNCHING_ROLES]}}
    return _policy(
        "storage",
        _administers(account),
        *_via(account, [f"{service}.{placement.region}.amazonaws.com" for service in STORAGE_SERVICES]),
        # Named by a condition and not as principals: KMS refuses a policy that names a role which does not exist yet,
        # and an account has these two only after its first group and its first spot request.
        _allow("LaunchesHosts", {"AWS": "*"}, USE_ACTIONS, _merged(_caller(account), launching)),
        _allow(
            "LaunchesHostsGrants",
            {"AWS": "*"},
            ("kms:CreateGrant",),
            _merged(_caller(account), launching, _FOR_AWS),
        ),
    )


def tables_key_policy(account: str, regions: Sequence[str]) -> Policy:
    """The policy of the tables' multi-region key, the same on its primary and on every replica.

    `regions` is every region with a replica of the key; each one's DynamoDB uses the key that stands there.
    """
    return _policy(
        "tables",
        _administers(account),
        *_via(account, [f"dynamodb.{region}.amazonaws.com" for region in regions]),
        # So that DynamoDB notices when the key is disabled; it reads what the key is, and nothing under it.
        _service("TablesWatchTheKey", "dynamodb.amazonaws.com", ("kms:DescribeKey",), {}),
    )


_FOR_AWS: Final[Policy] = {"Bool": {"kms:GrantIsForAWSResource": "true"}}


def _policy(key: str, *statements: Policy) -> Policy:
    return {"Version": "2012-10-17", "Id": f"{PROJECT}-{key}-key", "Statement": list(statements)}


def _allow(sid: str, principal: Policy, actions: Iterable[str], condition: Policy) -> Policy:
    statement = {"Sid": sid, "Effect": "Allow", "Principal": principal, "Action": list(actions), "Resource": "*"}
    return {**statement, "Condition": condition} if condition else statement


def _service(sid: str, service: str, actions: Iterable[str], condition: Policy) -> Policy:
    return _allow(sid, {"Service": service}, actions, condition)


def _administers(account: str) -> Policy:
    return _allow("AccountAdministers", {"AWS": f"arn:aws:iam::{account}:root"}, ADMIN_ACTIONS, {})


def _via(account: str, services: Sequence[str]) -> tuple[Policy, Policy]:
    """Use through the named services, and the grants that they hand to themselves."""
    bound = _merged(_caller(account), {"StringEquals": {"kms:ViaService": list(services)}})
    return (
        _allow("UseThroughServices", {"AWS": "*"}, USE_ACTIONS, bound),
        _allow("GrantThroughServices", {"AWS": "*"}, ("kms:CreateGrant",), _merged(bound, _FOR_AWS)),
    )


def _caller(account: str) -> Policy:
    return {"StringEquals": {"kms:CallerAccount": account}}


def _merged(*conditions: Policy) -> Policy:
    """All conditions together; within one operator the keys are joined."""
    merged: Policy = {}
    for condition in conditions:
        for operator, keys in condition.items():
            merged[operator] = {**merged.get(operator, {}), **keys}
    return merged
