"""The five global tables: what hosts, routers and control loops of all regions know of each other.

Two are strongly consistent over three regions (MRSC): what leases and failover rest on. Three are eventually consistent
(MREC) over all regions, and every item in them has one writing region. Keys, and why, are in docs/global-state.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import pulumi
import pulumi_aws as aws

from components.placement import PROJECT, Placement

STRONG_REPLICAS: Final = 3
REGION_SETS: Final = (
    frozenset({"us-east-1", "us-east-2", "us-west-2"}),
    frozenset({"eu-west-1", "eu-west-2", "eu-west-3", "eu-central-1"}),
    frozenset({"ap-northeast-1", "ap-northeast-2", "ap-northeast-3"}),
)
"""Where MRSC is to be had; a table's replicas are all of one set (DynamoDB developer guide, "Consistency modes")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """One table: its keys, whether it is strongly consistent, and the attribute (seconds since 1970) that ends an item.

    A strongly consistent table has no expiry: MRSC has no TTL, and no local indexes or transactions either.
    """

    name: str
    partition: str
    sort: str
    sort_type: Literal["S", "N"] = "S"
    strong: bool = False
    expiry: str | None = None


TABLES: Final = (
    TableSpec(name="gpu_instances", partition="region", sort="instance_id", expiry="expires"),
    TableSpec(name="routing_state", partition="subject", sort="entry", strong=True),
    TableSpec(name="autoscaling_state", partition="subject", sort="entry", strong=True),
    TableSpec(name="cleanup_validation", partition="instance_id", sort="wash_id", expiry="expires"),
    TableSpec(name="metrics", partition="series", sort="time_s", sort_type="N", expiry="expires"),
)


class GlobalStateError(ValueError):
    """Regions that make no global tables; the sentence says which and what was expected."""


@dataclass(frozen=True, kw_only=True)
class GlobalStateArgs:
    """Where tables stand. `placement` is home's, where they are created; `key_arns` has a key of every region.

    `deletion_protection` is on in every environment; who takes a stack down for good turns it off first.
    """

    placement: Placement
    regions: Sequence[str]
    strong_regions: Sequence[str]
    key_arns: Mapping[str, pulumi.Input[str]]
    protect: bool
    deletion_protection: bool = True


def table_name(environment: str, table: str) -> str:
    """A table's name, the same in all regions."""
    return f"{PROJECT}-{environment}-{table}"


def check_regions(home: str, regions: Sequence[str], strong_regions: Sequence[str]) -> None:
    """Raise GlobalStateError unless tables can be created from `home` over these regions."""
    if home not in regions:
        raise GlobalStateError(f"The home region {home} is not one of the regions {', '.join(regions)}.")
    if len(set(strong_regions)) != STRONG_REPLICAS or not set(strong_regions) <= set(regions):
        raise GlobalStateError(
            f"Strongly consistent tables need three of the regions {', '.join(regions)}, "
            f"and {', '.join(strong_regions) or 'none'} were given."
        )
    if home not in strong_regions:
        raise GlobalStateError(
            f"The home region {home} is not one of the strongly consistent ones {', '.join(strong_regions)}; "
            "tables are created there, so name it among them."
        )
    if not any(set(strong_regions) <= one for one in REGION_SETS):
        raise GlobalStateError(
            f"{', '.join(strong_regions)} are not all of one region set; strongly consistent tables stay within one of "
            f"{'; '.join(', '.join(sorted(one)) for one in REGION_SETS)}."
        )


class GlobalState(pulumi.ComponentResource):
    """`table_names` and `table_arns` (home's) by short name."""

    table_names: dict[str, str]
    table_arns: dict[str, pulumi.Output[str]]

    def __init__(self, name: str, args: GlobalStateArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:global_state:GlobalState", name, None, opts)
        check_regions(args.placement.region, args.regions, args.strong_regions)
        self.table_names = {spec.name: table_name(args.placement.environment, spec.name) for spec in TABLES}
        tables = {spec.name: self._table(f"{name}-{spec.name}", spec, args) for spec in TABLES}
        self.table_arns = {short: table.arn for short, table in tables.items()}
        self.register_outputs({"table_names": self.table_names, "table_arns": self.table_arns})

    def _table(self, name: str, spec: TableSpec, args: GlobalStateArgs) -> aws.dynamodb.Table:
        home = args.placement.region
        others = [region for region in (args.strong_regions if spec.strong else args.regions) if region != home]
        return aws.dynamodb.Table(
            name,
            name=self.table_names[spec.name],
            billing_mode="PAY_PER_REQUEST",
            hash_key=spec.partition,
            range_key=spec.sort,
            attributes=[
                aws.dynamodb.TableAttributeArgs(name=spec.partition, type="S"),
                aws.dynamodb.TableAttributeArgs(name=spec.sort, type=spec.sort_type),
            ],
            ttl=None if spec.expiry is None else aws.dynamodb.TableTtlArgs(attribute_name=spec.expiry, enabled=True),
            # MREC replicates by streams and turns them on by itself: said here, or every update would try to turn them
            # off. MRSC replicates without; nothing reads a stream of those tables.
            stream_enabled=None if spec.strong else True,
            stream_view_type=None if spec.strong else "NEW_AND_OLD_IMAGES",
            server_side_encryption=aws.dynamodb.TableServerSideEncryptionArgs(
                enabled=True, kms_key_arn=args.key_arns[home]
            ),
            point_in_time_recovery=aws.dynamodb.TablePointInTimeRecoveryArgs(enabled=True),
            deletion_protection_enabled=args.deletion_protection,
            replicas=[
                aws.dynamodb.TableReplicaArgs(
                    region_name=region,
                    consistency_mode="STRONG" if spec.strong else "EVENTUAL",
                    kms_key_arn=args.key_arns[region],
                    point_in_time_recovery=True,
                    deletion_protection_enabled=args.deletion_protection,
                    propagate_tags=True,
                )
                for region in others
            ],
            tags=args.placement.tags("global-state", spec.name),
            opts=pulumi.ResourceOptions(parent=self, protect=args.protect, retain_on_delete=args.protect),
        )
