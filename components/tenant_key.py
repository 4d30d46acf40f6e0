"""A tenant's key, in the tenant's own account: the only key that opens what the tenant sends.

A multi-region KMS key whose policy lets the platform's hosts decrypt only inside an enclave that shows the published
measurements. KMS copies no policy from a primary to its replicas and gives a replica without one its default, which
would let the account's IAM decide: so every replica repeats the whole policy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from components.keys import DELETION_WINDOW_DAYS, KEY_TAG
from components.placement import Placement
from dataplane.protocol.attestation.key_policy import tenant_key_policy


@dataclass(frozen=True, kw_only=True)
class TenantKeyArgs:
    """Who manages and uses the key, which images may decrypt, and where it stands.

    `admin_arn` and `user_arn` are the tenant's; `platform_role_arns` the hosts' roles, one a region. `measurements` are
    plain values, PCR index to 96 hex digits, one mapping an image: several during a roll-out. `home` holds the primary;
    placements and providers name the tenant's account, for `home` and every replica region.
    """

    admin_arn: str
    user_arn: str
    platform_role_arns: Sequence[str]
    tenant_id: str
    measurements: Sequence[Mapping[int, str]]
    home: str
    replica_regions: Sequence[str]
    providers: Mapping[str, aws.Provider]
    placements: Mapping[str, Placement]
    protect: bool = True


class TenantKey(pulumi.ComponentResource):
    """`key_arn` of the primary and `key_arns` of all by region. Raises KeyPolicyError for what makes no safe policy."""

    key_arn: pulumi.Output[str]
    key_arns: dict[str, pulumi.Output[str]]

    def __init__(self, name: str, args: TenantKeyArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:tenant_key:TenantKey", name, None, opts)
        policy = json.dumps(
            tenant_key_policy(
                args.admin_arn,
                args.user_arn,
                args.platform_role_arns,
                args.measurements,
                tenant_id=args.tenant_id,
            )
        )
        description = f"MRGC {args.placements[args.home].environment}: sessions of {args.tenant_id}"

        def tags(region: str) -> dict[str, str]:
            return {
                **args.placements[region].tags("tenant-key", f"tenant-{args.tenant_id}-{region}"),
                KEY_TAG: "tenant",
                "mrgc:tenant": args.tenant_id,
            }

        def options(region: str) -> pulumi.ResourceOptions:
            return pulumi.ResourceOptions(
                parent=self, provider=args.providers[region], protect=args.protect, retain_on_delete=args.protect
            )

        primary = aws.kms.Key(
            f"{name}-{args.home}",
            description=description,
            policy=policy,
            multi_region=True,
            enable_key_rotation=True,
            deletion_window_in_days=DELETION_WINDOW_DAYS,
            tags=tags(args.home),
            opts=options(args.home),
        )
        self.key_arn = primary.arn
        self.key_arns = {args.home: primary.arn}
        for region in args.replica_regions:
            replica = aws.kms.ReplicaKey(
                f"{name}-{region}",
                description=description,
                primary_key_arn=primary.arn,
                policy=policy,
                deletion_window_in_days=DELETION_WINDOW_DAYS,
                tags=tags(region),
                opts=options(region),
            )
            self.key_arns[region] = replica.arn
        self.register_outputs({"key_arn": self.key_arn, "key_arns": self.key_arns})
