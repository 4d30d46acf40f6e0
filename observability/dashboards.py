"""The dashboards as pure functions of what they show: each returns a CloudWatch dashboard body.

They chart only what is emitted today: metrics of AWS services and of the dataplane (`observability.metrics`). What a
control loop will emit one day is listed in words on the global dashboard, so that nobody waits for an empty chart.
Widgets and their places are made in `observability/widgets.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from observability import metrics
from observability.facts import (
    ClusterFacts,
    RegionFacts,
    Values,
    balancer,
    bucket,
    files,
    gateway,
    group,
    place,
    service,
)
from observability.metrics import Metric
from observability.widgets import PERIOD_S, Body, Widget, body, chart, line, text

DAY_S: Final = 86_400
ACCELERATOR_REGION: Final = "us-west-2"
"""Where the accelerator's metrics are, wherever its endpoints are."""

REFUSALS: Final = ("unauthenticated", "key-not-registered", "kms-denied", "assurance-too-low", "replayed", "expired")
"""Problem codes of requests that were refused for the sake of security; outcomes of `mrgc_router_requests_total`."""


def bodies(cluster: ClusterFacts) -> dict[str, Body]:
    """Every dashboard's body by its name within the environment: `global`, `region-<region>`, `networking` ..."""
    return {
        "global": global_dashboard(cluster),
        **{f"region-{facts.region}": region_dashboard(cluster, facts) for facts in cluster.regions},
        "networking": networking_dashboard(cluster),
        "storage": storage_dashboard(cluster),
        "security": security_dashboard(cluster),
    }


def names(regions: Sequence[str]) -> tuple[str, ...]:
    """The names that `bodies` has for these regions, in its order."""
    return ("global", *(f"region-{region}" for region in regions), "networking", "storage", "security")


def global_dashboard(cluster: ClusterFacts) -> Body:
    """All regions at a glance: who is healthy, where traffic goes, how it ends."""
    regions = cluster.regions
    planned = ", ".join(f"`{metric.name}`" for metric in metrics.CONTROL_METRICS)
    rows: list[tuple[int, list[Widget]]] = []
    if cluster.alarms:
        rows.append((4, [{"type": "alarm", "properties": {"title": "Alarms", "alarms": list(cluster.alarms)}}]))
    return body(
        [
            *rows,
            (
                6,
                [
                    _lines("Healthy routers", regions, balancer, metrics.HEALTHY_ROUTERS, "Maximum"),
                    _lines("Routable GPU hosts", regions, place(cluster), metrics.ROUTABLE_HOSTS, "Maximum"),
                    _accelerated(
                        "Healthy endpoints, as the accelerator sees", cluster, metrics.HEALTHY_ENDPOINTS, "Minimum"
                    ),
                ],
            ),
            (
                6,
                [
                    _accelerated("New connections", cluster, metrics.ACCELERATED_FLOWS, "Sum"),
                    _lines(
                        "Requests answered",
                        regions,
                        place(cluster, outcome="ok"),
                        metrics.ROUTER_REQUESTS,
                        "Sum",
                    ),
                    _lines(
                        "Requests in flight of a router", regions, place(cluster), metrics.ROUTER_IN_FLIGHT, "Maximum"
                    ),
                ],
            ),
            (6, [_lag(cluster, facts) for facts in regions]),
            (
                3,
                [
                    text(
                        "Not charted, because the control loops that will emit them do not exist yet: "
                        f"{planned}. Their alarms show *insufficient data* until then."
                    )
                ],
            ),
        ]
    )


def region_dashboard(cluster: ClusterFacts, facts: RegionFacts) -> Body:
    """One region from the load balancer to the GPU."""
    ours = place(cluster)(facts)
    home = facts.region
    outcomes = ("ok", "aborted", "tenant-gone", "overloaded", "no-capacity", "host-failed")
    return body(
        [
            (
                6,
                [
                    chart(
                        "Routers: healthy and not",
                        home,
                        [
                            line(metrics.HEALTHY_ROUTERS, balancer(facts), "Maximum", "healthy"),
                            line(metrics.UNHEALTHY_ROUTERS, balancer(facts), "Maximum", "unhealthy"),
                        ],
                    ),
                    chart(
                        "GPU hosts",
                        home,
                        [
                            line(metrics.ROUTABLE_HOSTS, ours, "Maximum", "routable"),
                            line(metrics.HOSTS_IN_SERVICE, group(facts), "Maximum", "in service"),
                        ],
                    ),
                    chart(
                        "Router tasks, per cent",
                        home,
                        [
                            line(metrics.ROUTER_CPU, service(facts), "Average", "CPU"),
                            line(metrics.ROUTER_MEMORY, service(facts), "Average", "memory"),
                        ],
                    ),
                ],
            ),
            (
                6,
                [
                    chart(
                        "Requests by how they ended",
                        home,
                        [line(metrics.ROUTER_REQUESTS, {**ours, "outcome": end}, "Sum", end) for end in outcomes],
                    ),
                    chart(
                        "Work on a host",
                        home,
                        [
                            line(metrics.PARENT_IN_FLIGHT, ours, "Maximum", "in flight"),
                            line(metrics.PARENT_WAITING, ours, "Maximum", "waits for a slot"),
                            line(metrics.WORKER_RUNNING, ours, "Maximum", "runs in the engine"),
                            line(metrics.WORKER_WAITING, ours, "Maximum", "waits in the engine"),
                        ],
                    ),
                    chart("KV cache in use", home, [line(metrics.KV_CACHE, ours, "Maximum", "fullest host")]),
                ],
            ),
            (
                6,
                [
                    chart(
                        "Parts that are well (share of hosts)",
                        home,
                        [
                            line(metrics.PARENT_READY, ours, "Average", "ready"),
                            line(metrics.ENCLAVE_HEALTHY, ours, "Average", "enclave"),
                            line(metrics.GPU_HEALTHY, ours, "Average", "GPU worker"),
                        ],
                    ),
                    chart(
                        "GPU memory",
                        home,
                        [
                            line(metrics.GPU_MEMORY_USED, ours, "Maximum", "used, fullest host"),
                            line(metrics.GPU_MEMORY, ours, "Minimum", "total, smallest host"),
                        ],
                    ),
                    chart(
                        "Registry trouble",
                        home,
                        [
                            line(metrics.ROUTER_REGISTRY_FAILURES, ours, "Sum", "routers' readings"),
                            line(metrics.PARENT_REGISTRY_FAILURES, ours, "Sum", "hosts' reports"),
                        ],
                    ),
                ],
            ),
        ]
    )


def networking_dashboard(cluster: ClusterFacts) -> Body:
    """What moves between tenants and regions, and between regions, and what is dropped on the way."""
    regions = cluster.regions
    return body(
        [
            (
                6,
                [
                    _accelerated("Bytes from tenants", cluster, metrics.ACCELERATED_IN, "Sum"),
                    _accelerated("Bytes to tenants", cluster, metrics.ACCELERATED_OUT, "Sum"),
                    _lines("Connections open", regions, balancer, metrics.ACTIVE_FLOWS, "Average"),
                ],
            ),
            (
                6,
                [
                    _lines("Bytes through the load balancers", regions, balancer, metrics.PROCESSED_BYTES, "Sum"),
                    _lines("New connections at the load balancers", regions, balancer, metrics.NEW_FLOWS, "Sum"),
                    _lines("Resets by routers", regions, balancer, metrics.TARGET_RESETS, "Sum"),
                ],
            ),
            (
                6,
                [
                    _lines("Into the transit gateways", regions, gateway, metrics.GATEWAY_IN, "Sum"),
                    _lines("Out of the transit gateways", regions, gateway, metrics.GATEWAY_OUT, "Sum"),
                    _lines("Packets into a blackhole", regions, gateway, metrics.BLACKHOLED, "Sum"),
                    _lines("Packets without a route", regions, gateway, metrics.UNROUTED, "Sum"),
                ],
            ),
        ]
    )


def storage_dashboard(cluster: ClusterFacts) -> Body:
    """Model store and tables."""
    regions = cluster.regions
    return body(
        [
            (
                6,
                [
                    # Sum over 60 s and no other period: see observability.alerts.fsx_free.
                    _lines("Free on Lustre", regions, files, metrics.FREE_STORAGE, "Sum"),
                    _lines("Read from Lustre", regions, files, metrics.STORAGE_READ, "Sum"),
                    _lines("Written to Lustre", regions, files, metrics.STORAGE_WRITTEN, "Sum"),
                    _lines("Model buckets", regions, bucket, metrics.BUCKET_BYTES, "Average", period_s=DAY_S),
                ],
            ),
            (6, [_lag(cluster, facts) for facts in regions]),
            *(
                (
                    6,
                    [
                        chart(
                            f"{what} in {facts.region}",
                            facts.region,
                            [line(metric, {"TableName": table}, "Sum", table) for table in cluster.tables],
                        )
                        for what, metric in (("Reads", metrics.READ_UNITS), ("Writes", metrics.WRITE_UNITS))
                    ],
                )
                for facts in regions
            ),
        ]
    )


def security_dashboard(cluster: ClusterFacts) -> Body:
    """What attestation says, who was refused, and what the network rejected."""
    regions = cluster.regions
    ours = place(cluster)
    return body(
        [
            (
                6,
                [
                    _lines("Lowest assurance level", regions, ours, metrics.ASSURANCE, "Minimum"),
                    _lines("Worker keys accepted", regions, ours, metrics.WORKER_BINDS, "Sum"),
                    _lines("Credentials handed to enclaves", regions, ours, metrics.CREDENTIAL_HANDOVERS, "Sum"),
                    _lines("KMS calls of one enclave", regions, ours, metrics.ENCLAVE_KMS_CALLS, "Maximum"),
                ],
            ),
            (
                6,
                [
                    chart(
                        f"Refused in {facts.region}",
                        facts.region,
                        [
                            line(metrics.ROUTER_REQUESTS, {**ours(facts), "outcome": code}, "Sum", code)
                            for code in REFUSALS
                        ],
                    )
                    for facts in regions
                ],
            ),
            (
                6,
                [
                    {
                        "type": "log",
                        "properties": {
                            "title": f"Packets that {facts.region} rejected",
                            "region": facts.region,
                            "view": "timeSeries",
                            "query": f"SOURCE '{facts.flow_log_group}' | filter action = 'REJECT' "
                            "| stats count(*) as rejected by bin(5m)",
                        },
                    }
                    for facts in regions
                ],
            ),
        ]
    )


def _lines(
    title: str,
    regions: Sequence[RegionFacts],
    values: Values,
    metric: Metric,
    statistic: str,
    *,
    period_s: int = PERIOD_S,
) -> Widget:
    """One line a region, each read in its own."""
    lines = [line(metric, values(facts), statistic, facts.region, facts.region) for facts in regions]
    return chart(title, regions[0].region, lines, period_s=period_s)


def _accelerated(title: str, cluster: ClusterFacts, metric: Metric, statistic: str) -> Widget:
    """One line an endpoint group."""
    lines = [
        line(
            metric,
            {"Accelerator": cluster.accelerator, "Listener": cluster.listener, "EndpointGroup": facts.region},
            statistic,
            facts.region,
        )
        for facts in cluster.regions
    ]
    return chart(title, ACCELERATOR_REGION, lines)


def _lag(cluster: ClusterFacts, facts: RegionFacts) -> Widget:
    """How late what `facts.region` writes arrives in each other region, by table."""
    lines = [
        line(
            metrics.REPLICATION_LATENCY,
            {"TableName": table, "ReceivingRegion": other.region},
            "Average",
            f"{table} to {other.region}",
        )
        for table in cluster.eventual_tables
        for other in cluster.regions
        if other.region != facts.region
    ]
    return chart(f"Replication from {facts.region}, ms", facts.region, lines)
