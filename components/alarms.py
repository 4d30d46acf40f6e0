"""A region's CloudWatch alarms of `observability.alerts`, and how any of its alerts becomes an alarm.

What is watched and why is there; here are only the values of the metrics' dimensions and the topics that hear of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from components.placement import Placement
from observability import alerts
from observability.alerts import Alert, Series

Values = Mapping[str, pulumi.Input[str]]
"""From a dimension's name to its value."""


@dataclass(frozen=True, kw_only=True)
class RegionAlarmsArgs:
    """What a region's alarms watch.

    `topics` has the topic's ARN of each severity, of this region. The suffixes are ARN suffixes of the load balancer
    and of its target group for 443. `capacity_gib` is the file system's. `failure_queue_name` is where failed runs of
    control functions land. `eventual_tables` are the physical names of
    the tables with eventual consistency (the strong ones report no lag), `peers` the other regions that have replicas.
    """

    placement: Placement
    topics: Mapping[str, pulumi.Input[str]]
    load_balancer_arn_suffix: pulumi.Input[str]
    target_group_arn_suffix: pulumi.Input[str]
    file_system_id: pulumi.Input[str]
    capacity_gib: int
    failure_queue_name: pulumi.Input[str]
    eventual_tables: Sequence[str]
    peers: Sequence[str]


class RegionAlarms(pulumi.ComponentResource):
    """`arns` has every alarm's ARN by its alert's name; replication lag once a receiving region."""

    arns: dict[str, pulumi.Output[str]]

    def __init__(self, name: str, args: RegionAlarmsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mrgc:alarms:RegionAlarms", name, {}, opts)
        values: Values = {
            "Environment": args.placement.environment,
            "Region": args.placement.region,
            "LoadBalancer": args.load_balancer_arn_suffix,
            "TargetGroup": args.target_group_arn_suffix,
            "FileSystemId": args.file_system_id,
            "QueueName": args.failure_queue_name,
        }
        wanted = [(alert.name, alert, values) for alert in alerts.region_alerts(args.capacity_gib)]
        lag = alerts.replication_lag(args.eventual_tables)
        wanted += [(f"{lag.name}-{peer}", lag, {**values, "ReceivingRegion": peer}) for peer in args.peers]
        self.arns = {
            key: metric_alarm(f"{name}-{key}", alert, here, args.placement, args.topics, self)
            for key, alert, here in wanted
        }
        self.register_outputs({"arns": self.arns})


def metric_alarm(
    name: str,
    alert: Alert,
    values: Values,
    placement: Placement,
    topics: Mapping[str, pulumi.Input[str]],
    parent: pulumi.Resource,
) -> pulumi.Output[str]:
    """The ARN of an alert's alarm, made where `parent` stands; `values` has every dimension that its metrics name."""
    topic = topics[alert.severity.value]
    plain = alert.series[0] if alert.expression is None else None
    alarm = aws.cloudwatch.MetricAlarm(
        name,
        alarm_description=alert.description,
        comparison_operator=alert.comparison,
        threshold=alert.threshold,
        datapoints_to_alarm=alert.datapoints,
        evaluation_periods=alert.periods,
        treat_missing_data=alert.missing,
        # Both ways, so that who was woken hears when it is over.
        alarm_actions=[topic],
        ok_actions=[topic],
        namespace=plain.metric.namespace if plain else None,
        metric_name=plain.metric.name if plain else None,
        statistic=plain.statistic if plain else None,
        period=alert.period_s if plain else None,
        dimensions=_dimensions(plain, values) if plain else None,
        metric_queries=None if plain else _queries(alert, values),
        tags=placement.tags("alarms", f"{placement.region}-{alert.name}"),
        opts=pulumi.ResourceOptions(parent=parent),
    )
    return alarm.arn


def _dimensions(series: Series, values: Values) -> dict[str, pulumi.Input[str]]:
    return {one: series.fixed.get(one) or values[one] for one in series.metric.dimensions}


def _queries(alert: Alert, values: Values) -> list[aws.cloudwatch.MetricAlarmMetricQueryArgs]:
    """The expression, whose result is judged, and what it reads."""
    read = [
        aws.cloudwatch.MetricAlarmMetricQueryArgs(
            id=series.id,
            return_data=False,
            metric=aws.cloudwatch.MetricAlarmMetricQueryMetricArgs(
                namespace=series.metric.namespace,
                metric_name=series.metric.name,
                stat=series.statistic,
                period=alert.period_s,
                dimensions=_dimensions(series, values),
            ),
        )
        for series in alert.series
    ]
    judged = aws.cloudwatch.MetricAlarmMetricQueryArgs(
        id="judged", expression=alert.expression, label=alert.name, return_data=True
    )
    return [judged, *read]
