"""A region's log groups: one for each kind of process, encrypted with the region's logs key, kept for a set time.

Their names are fixed (`/mrgc/<environment>/<what>`, the same in every region), because the key's policy, roles and
collectors name them before they exist. VPC flow logs have a group of their own, with the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pulumi
import pulumi_aws as aws

from components.placement import Placement

WHAT: Final = ("router", "host", "control", "collector")
"""Who writes: the router's tasks, the GPU hosts' units, the control loops, the collectors beside them."""


@dataclass(frozen=True, kw_only=True)
class RegionLogsArgs:
    """`key_arn` is the region's logs key, `days` one of CloudWatch's retentions; `protect` keeps the groups."""

    placement: Placement
    key_arn: pulumi.Input[str]
    days: int
    protect: bool = False


class RegionLogs(pulumi.ComponentResource):
    """`names` are plain and known at preview; `groups` are the resources, for whoever has to wait for them."""

    names: dict[str, str]
    groups: dict[str, aws.cloudwatch.LogGroup]

    def __init__(self, name: str, args: RegionLogsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:log_groups:RegionLogs", name, {}, opts)
        self.names = {what: args.placement.path(what) for what in WHAT}
        self.groups = {
            what: aws.cloudwatch.LogGroup(
                f"{name}-{what}",
                name=self.names[what],
                kms_key_id=args.key_arn,
                retention_in_days=args.days,
                tags=args.placement.tags("log-groups", f"{args.placement.region}-{what}"),
                opts=pulumi.ResourceOptions(parent=self, protect=args.protect, retain_on_delete=args.protect),
            )
            for what in WHAT
        }
        self.register_outputs({"names": self.names})
