"""The alarms as data: what is watched, when it is wrong, what silence means, and what a person does about it.

An `Alert` names metrics of `observability.metrics` and nothing of any cloud resource: `components/alarms.py` fills in
the values of the dimensions and makes CloudWatch alarms of it. Times below are CloudWatch's: an alarm is evaluated once
a minute, a period of 60 s is judged when it is over, so an alarm of `n` datapoints fires `60 n` to `60 n + 60` seconds
after the first bad sample.

`missing` is what a period without data counts as: `breaching` where silence is itself the failure, `notBreaching` where
there is only data when something happens, `ignore` where the last known state is the best guess, `missing` where
"insufficient data" should show. `because` says why.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from observability import metrics
from observability.metrics import Metric

GIB: Final = 2**30

MAX_SERIES: Final = 10
"""Metrics that one alarm's expression may read (CloudWatch's limit)."""


class Severity(enum.StrEnum):
    """Whom an alarm wakes: `critical` a person now, `warning` somebody in working hours."""

    CRITICAL = "critical"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One metric read by an alarm. `fixed` gives dimensions whose values the alert itself knows."""

    id: str
    metric: Metric
    statistic: Literal["Average", "Sum", "Minimum", "Maximum"]
    fixed: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alarm. `threshold` is in the unit of the metric, or of the expression where there is one.

    It fires when `datapoints` of the last `periods` periods of `period_s` seconds are beyond the threshold.
    `summary` says what is wrong and `runbook` what to do, a sentence each.
    """

    name: str
    severity: Severity
    series: tuple[Series, ...]
    comparison: Literal["LessThanThreshold", "GreaterThanThreshold"]
    threshold: float
    period_s: int
    datapoints: int
    periods: int
    missing: Literal["breaching", "notBreaching", "ignore", "missing"]
    because: str
    summary: str
    runbook: str
    expression: str | None = None

    @property
    def description(self) -> str:
        """What a person reads in the notification: at most 1,024 characters (CloudWatch's limit)."""
        return f"{self.summary} {self.runbook}"

    @property
    def fires_within_s(self) -> int:
        """Longest time from the first bad sample until the alarm fires, in seconds."""
        return self.period_s * self.datapoints + 60


# Failover budget. The load balancer asks each router every 10 s and gives up after 2 failures: 20 s. The accelerator
# takes its health from the load balancer, and moves new connections then, without waiting for any alarm. This alarm
# only tells a person: 20 s, then one period of 60 s in which no sample saw a healthy router, then at most 60 s until
# it is judged: 140 s after the last host went. One datapoint suffices: Maximum < 1 is a whole minute without a router.
REGION_UNHEALTHY: Final = Alert(
    name="region-unhealthy",
    severity=Severity.CRITICAL,
    series=(Series(id="healthy", metric=metrics.HEALTHY_ROUTERS, statistic="Maximum"),),
    comparison="LessThanThreshold",
    threshold=1,
    period_s=60,
    datapoints=1,
    periods=1,
    missing="breaching",
    because="a load balancer with routers behind it reports every minute; silence means that there are none",
    summary="No GPU host of this region takes requests: every router fails its health check.",
    runbook="See whether the accelerator has moved new connections to the other regions, then look at "
    "mrgc_router_routable_hosts, the scaling group's activity and the routers' log, in this order.",
)

# Health checks never replace a router (`components.router_service.GRACE_S`), so somebody must hear of one that hangs. A
# router that drains fails them for 105 s and a new one until it has started: 10 of 10 minutes is neither.
ROUTER_STUCK: Final = Alert(
    name="router-stuck",
    severity=Severity.WARNING,
    series=(Series(id="unhealthy", metric=metrics.UNHEALTHY_ROUTERS, statistic="Maximum"),),
    comparison="GreaterThanThreshold",
    threshold=0,
    period_s=60,
    datapoints=10,
    periods=10,
    missing="notBreaching",
    because="without routers there is nothing to be unhealthy, and region-unhealthy fires",
    summary="A router of this region has failed its health checks for ten minutes: no traffic, and no successor.",
    runbook="If region-unhealthy fires too, no host is routable and the router is right; if not, look at the task's "
    "log and stop it, and ECS starts another.",
)


def replication_lag(tables: Sequence[str]) -> Alert:
    """Lag of the eventually consistent tables towards one receiving region: the worst of `tables`, by physical name.

    Raises ValueError for no table, and for more than CloudWatch lets one alarm read.
    """
    if not 0 < len(tables) <= MAX_SERIES:
        raise ValueError(f"an alarm reads 1 to {MAX_SERIES} tables, and these are {len(tables)}; split them")
    # Replication takes a second or less when all is well, so an average of 5,000 ms over a minute is no outlier. 3 of
    # 5 minutes: a single slow minute heals by itself, and the registry's records stay usable for longer than that.
    return Alert(
        name="replication-lag",
        severity=Severity.CRITICAL,
        series=tuple(
            Series(
                id=f"table{index}",
                metric=metrics.REPLICATION_LATENCY,
                statistic="Average",
                fixed=MappingProxyType({"TableName": table}),
            )
            for index, table in enumerate(tables)
        ),
        expression="MAX([" + ", ".join(f"table{index}" for index in range(len(tables))) + "])",
        comparison="GreaterThanThreshold",
        threshold=5000,
        period_s=60,
        datapoints=3,
        periods=5,
        missing="notBreaching",
        because="DynamoDB reports a lag only for what was written; without writes nothing lags",
        summary="What this region writes reaches the receiving region more than 5 s late.",
        runbook="Look at AWS Health for DynamoDB in both regions, and treat the other region's view of hosts as stale: "
        "do not fail over by hand on what its tables say.",
    )


# With load balancers as endpoints the accelerator takes their health: 20 s (above), then one period of 60 s without a
# healthy endpoint, then at most 60 s until it is judged. A region that is drained on purpose fires too, which is right:
# its traffic is elsewhere.
ACCELERATOR_FAILOVER: Final = Alert(
    name="accelerator-failover",
    severity=Severity.CRITICAL,
    series=(Series(id="endpoints", metric=metrics.HEALTHY_ENDPOINTS, statistic="Maximum"),),
    comparison="LessThanThreshold",
    threshold=1,
    period_s=60,
    datapoints=1,
    periods=1,
    missing="ignore",
    because="the accelerator's metrics may pause where no requests flow, as after a failover: keep the state",
    summary="The accelerator sends this region's new connections to other regions: its endpoint group has no healthy "
    "endpoint.",
    runbook="Check that the others carry the load (P95, waiting requests) and raise their groups if not; once all "
    "groups are down it fails open, so find out why the load balancer's check fails before the next region follows.",
)


def fsx_free(capacity_gib: int) -> Alert:
    """Free space of a file system of `capacity_gib` GiB, in per cent of its nominal capacity.

    CloudWatch has no metric of a Lustre file system's capacity in bytes, so it comes from the configuration. Usable
    space is somewhat below nominal, so the alarm errs on the early side.
    """
    # Every storage target reports its free bytes once a minute, and Sum adds the samples: over 60 s that is the file
    # system, over 300 s it would be five times as much. Hence a period of 60 s, and 5 of 5 of them, for an import is
    # fast: 15 % of 1,200 GiB is 193 GB, which at 250 MB/s for each of 1.17 TiB takes eleven minutes to fill.
    return Alert(
        name="fsx-free",
        severity=Severity.CRITICAL,
        series=(Series(id="free", metric=metrics.FREE_STORAGE, statistic="Sum"),),
        expression=f"100 * free / {capacity_gib * GIB}",
        comparison="LessThanThreshold",
        threshold=15,
        period_s=60,
        datapoints=5,
        periods=5,
        missing="breaching",
        because="a file system that is up reports every minute; silence means that hosts can't read models either",
        summary="Less than 15 % of the model store's Lustre file system is free.",
        runbook="Release files that S3 has (lfs hsm_release) or remove model versions that no pool serves; capacity "
        "can be raised in steps of 2,400 GiB and never lowered.",
    )


# Washes are rare (between two tenants on one host), so the share is taken over 5 minutes, twice in three such periods.
# With fewer than 20 washes a single failure is above 5 %: that is meant, for a failed wash is a host out of service.
CLEANUP_FAILURES: Final = Alert(
    name="cleanup-failures",
    severity=Severity.CRITICAL,
    series=(
        Series(id="failed", metric=metrics.CLEANUP_FAILURES, statistic="Sum"),
        Series(id="washes", metric=metrics.CLEANUPS, statistic="Sum"),
    ),
    expression="IF(washes > 0, 100 * failed / washes, 0)",
    comparison="GreaterThanThreshold",
    threshold=5,
    period_s=300,
    datapoints=2,
    periods=3,
    missing="notBreaching",
    because="no washes, no failures; a host whose wash fails stays out of service whether or not this fires",
    summary="More than 5 % of car washes between tenants failed validation.",
    runbook="Leave the hosts out of service; read the table cleanup_validation for what was found, and replace a host "
    "that fails twice rather than washing it again.",
)

_LOOP_MISSING: Final = (
    "the health loop sends this every minute once it exists; until then and when it stops, "
    "'insufficient data' is the honest state"
)

# A host's score is 100 times its moving share of successes, 0 when it is not ready; below 50 every second request
# failed lately. 3 of 3 minutes: a host that restarts is at 0 for about a minute.
HEALTH_SCORE: Final = Alert(
    name="health-score",
    severity=Severity.WARNING,
    series=(Series(id="score", metric=metrics.HEALTH_SCORE, statistic="Minimum"),),
    comparison="LessThanThreshold",
    threshold=50,
    period_s=60,
    datapoints=3,
    periods=3,
    missing="missing",
    because=_LOOP_MISSING,
    summary="The worst host of this region has a health score below 50.",
    runbook="Ask a router's admin port for /hosts to see which host it is, and drain it if its log names no "
    "passing cause.",
)

# Five minutes above 80 degrees are no burst: a GPU that can't shed its heat slows itself down before it fails.
GPU_HOT: Final = Alert(
    name="gpu-temperature",
    severity=Severity.WARNING,
    series=(Series(id="degrees", metric=metrics.GPU_TEMPERATURE, statistic="Maximum"),),
    comparison="GreaterThanThreshold",
    threshold=80,
    period_s=60,
    datapoints=5,
    periods=5,
    missing="missing",
    because=_LOOP_MISSING,
    summary="A GPU of this region is hotter than 80 degrees Celsius.",
    runbook="Drain the host and let the group replace it if it stays hot when idle: cooling is AWS's to mend.",
)

# One slow load is worth a look, and loads are rare, so one datapoint of 5 minutes.
MODEL_LOAD: Final = Alert(
    name="model-load",
    severity=Severity.WARNING,
    series=(Series(id="load", metric=metrics.MODEL_LOAD, statistic="Maximum"),),
    comparison="GreaterThanThreshold",
    threshold=60,
    period_s=300,
    datapoints=1,
    periods=1,
    missing="missing",
    because=_LOOP_MISSING,
    summary="Models take longer than 60 s to load on a host of this region.",
    runbook="Compare with the file system's read throughput: near its limit means too many hosts loading at once, far "
    "below means a model that is still in S3, which one read of its files imports.",
)

# P95 of each minute, 3 of 5: a burst of long prompts passes in less. One second is the objective for a first byte.
FIRST_BYTE_P95: Final = Alert(
    name="first-byte-p95",
    severity=Severity.WARNING,
    series=(Series(id="p95", metric=metrics.FIRST_BYTE_P95, statistic="Maximum"),),
    comparison="GreaterThanThreshold",
    threshold=1,
    period_s=60,
    datapoints=3,
    periods=5,
    missing="missing",
    because=_LOOP_MISSING,
    summary="One in twenty requests of this region waits longer than 1 s for its first byte.",
    runbook="If mrgc_worker_waiting grows, raise the scaling group; if not, look at traces for the slow span.",
)

# A failed run is not tried again, and the next begins a minute later: one alone is worth a look, and no more, since
# traffic leaves a failed region by health checks, without any loop.
FAILED_RUNS: Final = Alert(
    name="control-run-failed",
    severity=Severity.WARNING,
    series=(Series(id="failed", metric=metrics.FAILED_RUNS, statistic="Maximum"),),
    comparison="GreaterThanThreshold",
    threshold=0,
    period_s=60,
    datapoints=1,
    periods=1,
    missing="notBreaching",
    because="SQS falls silent for a queue that was empty and unused for hours, and no message is no failure",
    summary="A run of a control function (failover, or the autoscaler of a region without leases) failed.",
    runbook="Read the messages in the region's queue of failures and the control log of that minute; the alarm ends "
    "when the queue is emptied, or after 14 days.",
)


def region_alerts(capacity_gib: int) -> tuple[Alert, ...]:
    """What every region watches at home; `capacity_gib` is its file system's. Replication has one alert a receiver."""
    return (
        REGION_UNHEALTHY,
        ROUTER_STUCK,
        fsx_free(capacity_gib),
        CLEANUP_FAILURES,
        HEALTH_SCORE,
        GPU_HOT,
        MODEL_LOAD,
        FIRST_BYTE_P95,
        FAILED_RUNS,
    )
