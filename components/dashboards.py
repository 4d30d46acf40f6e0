"""CloudWatch dashboards of `observability.dashboards`: their names are fixed, for links must outlive a replacement.

Dashboards belong to no region, but somebody's API makes them: the home region's.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pulumi
import pulumi_aws as aws

from components.accelerator_alarms import last_part
from components.placement import PROJECT, Placement
from observability import dashboards
from observability.facts import ClusterFacts, RegionFacts


@dataclass(frozen=True, kw_only=True)
class RegionWatched:
    """One region's resources to chart: `RegionFacts` (but its region's name) before they are known."""

    load_balancer: pulumi.Input[str]
    target_group: pulumi.Input[str]
    file_system: pulumi.Input[str]
    transit_gateway: pulumi.Input[str]
    scaling_group: pulumi.Input[str]
    cluster: pulumi.Input[str]
    router_service: pulumi.Input[str]
    bucket: pulumi.Input[str]
    flow_log_group: pulumi.Input[str]


@dataclass(frozen=True, kw_only=True)
class DashboardsArgs:
    """What the dashboards show. `tables` and `eventual_tables` are physical names; `alarm_arns` of all regions."""

    placement: Placement
    accelerator_arn: pulumi.Input[str]
    listener_arn: pulumi.Input[str]
    regions: Mapping[str, RegionWatched]
    tables: Sequence[str]
    eventual_tables: Sequence[str]
    alarm_arns: Sequence[pulumi.Input[str]] = ()


class Dashboards(pulumi.ComponentResource):
    """Every dashboard of `observability.dashboards.bodies`; `names` and `links` (console URLs) have them by its keys.

    Both are plain values, known at preview.
    """

    names: dict[str, str]
    links: dict[str, str]

    def __init__(self, name: str, args: DashboardsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:dashboards:Dashboards", name, {}, opts)
        place = args.placement
        facts = pulumi.Output.all(
            accelerator=last_part(args.accelerator_arn),
            listener=last_part(args.listener_arn),
            alarms=list(args.alarm_arns),
            regions={
                region: {field.name: getattr(watched, field.name) for field in fields(watched)}
                for region, watched in args.regions.items()
            },
        ).apply(lambda known: _facts(args, known))
        self.names = {what: f"{PROJECT}-{place.environment}-{what}" for what in dashboards.names(tuple(args.regions))}
        self.links = {what: link(place.region, full) for what, full in self.names.items()}
        for what, full in self.names.items():
            aws.cloudwatch.Dashboard(
                f"{name}-{what}",
                dashboard_name=full,
                dashboard_body=facts.apply(functools.partial(_text, what)),
                opts=pulumi.ResourceOptions(parent=self),
            )
        self.register_outputs({"names": self.names, "links": self.links})


def link(region: str, dashboard: str) -> str:
    """The console's URL of a dashboard."""
    return f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}#dashboards/dashboard/{dashboard}"


def _text(what: str, facts: ClusterFacts) -> str:
    return json.dumps(dashboards.bodies(facts)[what])


def _facts(args: DashboardsArgs, known: dict[str, Any]) -> ClusterFacts:
    return ClusterFacts(
        environment=args.placement.environment,
        accelerator=known["accelerator"],
        listener=known["listener"],
        regions=tuple(RegionFacts(region=region, **known["regions"][region]) for region in args.regions),
        tables=tuple(args.tables),
        eventual_tables=tuple(args.eventual_tables),
        alarms=tuple(known["alarms"]),
    )
