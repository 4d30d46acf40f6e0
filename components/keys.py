"""The platform's own keys: one for logs and one for storage in every region, and one multi-region key for the tables.

Logs and storage keys stay regional: CloudWatch, EBS, FSx and S3 treat a multi-region key as a regional one, and what is
replicated (S3) is encrypted anew where it arrives. The tables' key is multi-region so that one key, with one policy,
stands behind all replicas of a table. None of these opens a tenant's data: that is `components/tenant_key.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pulumi
import pulumi_aws as aws

from components.key_policies import logs_key_policy, storage_key_policy, tables_key_policy
from components.placement import Placement

DELETION_WINDOW_DAYS: Final = 30
"""The longest that KMS waits, so that a mistake can be undone."""
KEY_TAG: Final = "mrgc:key"
"""Whose key it is: `platform` or `tenant`."""


@dataclass(frozen=True, kw_only=True)
class PlatformKeysArgs:
    """Where keys stand: a placement and a provider for every region; `home` is where the tables' primary key is."""

    placements: Mapping[str, Placement]
    home: str
    providers: Mapping[str, aws.Provider]
    protect: bool


class PlatformKeys(pulumi.ComponentResource):
    """Key ARNs by region: `logs`, `storage`, `tables`."""

    logs: dict[str, pulumi.Output[str]]
    storage: dict[str, pulumi.Output[str]]
    tables: dict[str, pulumi.Output[str]]

    def __init__(self, name: str, args: PlatformKeysArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:keys:PlatformKeys", name, None, opts)
        self._args = args
        self.logs = {
            region: self._regional(f"{name}-logs-{region}", place, "logs", logs_key_policy(place))
            for region, place in args.placements.items()
        }
        self.storage = {
            region: self._regional(f"{name}-storage-{region}", place, "storage", storage_key_policy(place))
            for region, place in args.placements.items()
        }
        self.tables = self._shared(f"{name}-tables")
        self.register_outputs({"logs": self.logs, "storage": self.storage, "tables": self.tables})

    def _regional(self, name: str, placement: Placement, what: str, policy: Mapping[str, Any]) -> pulumi.Output[str]:
        key = aws.kms.Key(
            name,
            description=f"MRGC {placement.environment}: {what} in {placement.region}",
            policy=json.dumps(policy),
            enable_key_rotation=True,
            deletion_window_in_days=DELETION_WINDOW_DAYS,
            tags=self._tags(placement, what),
            opts=self._options(placement.region),
        )
        return key.arn

    def _shared(self, name: str) -> dict[str, pulumi.Output[str]]:
        """The tables' key in every region, each with the whole policy: KMS copies none from the primary."""
        places = self._args.placements
        home = places[self._args.home]
        policy = json.dumps(tables_key_policy(home.account, tuple(places)))
        primary = aws.kms.Key(
            f"{name}-{home.region}",
            description=f"MRGC {home.environment}: global tables",
            policy=policy,
            multi_region=True,
            enable_key_rotation=True,
            deletion_window_in_days=DELETION_WINDOW_DAYS,
            tags=self._tags(home, "tables"),
            opts=self._options(home.region),
        )
        arns = {home.region: primary.arn}
        for region, place in places.items():
            if region != home.region:
                replica = aws.kms.ReplicaKey(
                    f"{name}-{region}",
                    description=f"MRGC {place.environment}: global tables",
                    primary_key_arn=primary.arn,
                    policy=policy,
                    deletion_window_in_days=DELETION_WINDOW_DAYS,
                    tags=self._tags(place, "tables"),
                    opts=self._options(region),
                )
                arns[region] = replica.arn
        return {region: arns[region] for region in places}

    def _tags(self, placement: Placement, what: str) -> dict[str, str]:
        return {**placement.tags("keys", f"{what}-{placement.region}"), KEY_TAG: "platform"}

    def _options(self, region: str) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(
            parent=self,
            provider=self._args.providers[region],
            protect=self._args.protect,
            retain_on_delete=self._args.protect,
        )
