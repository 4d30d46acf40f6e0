"""Every CloudWatch metric that the platform alarms on or charts: its unit, its dimensions and who emits it.

Three kinds of emitter, and the difference matters: a metric of an AWS service is there as soon as the resource is; one
of the dataplane is the sample that the router or the parent shows at `GET /metrics` today, which the collector scrapes
and sends under the same name (`emf_declarations`); one of a control loop is **emitted by nobody yet**, because the
loops do not exist yet. Alarms on the last kind show "insufficient data" until they do. Dashboards never chart them.

Histograms are listed and never charted: the collector's CloudWatch exporter sends a Prometheus histogram as count, sum,
minimum and maximum (`awsemfexporter`, `datapoint.go`), of which CloudWatch can't compute a percentile. That is why
`FIRST_BYTE_P95` is a metric of its own, to be computed from the router's buckets by the health loop.
"""

from __future__ import annotations

import enum
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

NAMESPACE: Final = "MRGC"
"""Of everything that is ours."""

PLACE: Final = ("Environment", "Region")
"""Dimensions of every metric of ours: `dev`, `staging` or `prod`, and an AWS region."""


class Emitter(enum.StrEnum):
    """Who sends a metric to CloudWatch."""

    AWS = "an AWS service, by itself"
    DATAPLANE = "router or parent today, by way of the collector"
    CONTROL = "a control loop that does not exist yet"


class Kind(enum.StrEnum):
    """What a number is, as Prometheus has it; AWS's own metrics are gauges here."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric as CloudWatch identifies it: namespace, name and the names of its dimensions, in CloudWatch's order.

    `unit` is one of CloudWatch's (`StandardUnit`); what it lacks, such as degrees, is "None". `says` is what one
    sample is and where it comes from.
    """

    namespace: str
    name: str
    unit: str
    dimensions: tuple[str, ...]
    emitter: Emitter
    says: str
    kind: Kind = Kind.GAUGE


def _aws(namespace: str, name: str, unit: str, dimensions: tuple[str, ...], says: str) -> Metric:
    return Metric(
        namespace=f"AWS/{namespace}", name=name, unit=unit, dimensions=dimensions, emitter=Emitter.AWS, says=says
    )


_TARGETS: Final = ("TargetGroup", "LoadBalancer")
_LOAD_BALANCER: Final = ("LoadBalancer",)
_ENDPOINT_GROUP: Final = ("Accelerator", "Listener", "EndpointGroup")
_FILE_SYSTEM: Final = ("FileSystemId",)
_GATEWAY: Final = ("TransitGateway",)
_TABLE: Final = ("TableName",)
_SERVICE: Final = ("ClusterName", "ServiceName")

# AWS's own. The accelerator's are in us-west-2, wherever its endpoints are.
HEALTHY_ROUTERS: Final = _aws(
    "NetworkELB", "HealthyHostCount", "Count", _TARGETS,
    "routers that pass the load balancer's check; none passes where no GPU host is routable",
)  # fmt: skip
UNHEALTHY_ROUTERS: Final = _aws("NetworkELB", "UnHealthyHostCount", "Count", _TARGETS, "routers that fail the check")
ACTIVE_FLOWS: Final = _aws("NetworkELB", "ActiveFlowCount", "Count", _LOAD_BALANCER, "connections open")
NEW_FLOWS: Final = _aws("NetworkELB", "NewFlowCount", "Count", _LOAD_BALANCER, "connections opened in the period")
PROCESSED_BYTES: Final = _aws("NetworkELB", "ProcessedBytes", "Bytes", _LOAD_BALANCER, "bytes through the balancer")
TARGET_RESETS: Final = _aws("NetworkELB", "TCP_Target_Reset_Count", "Count", _LOAD_BALANCER, "resets by a router")
HEALTHY_ENDPOINTS: Final = _aws(
    "GlobalAccelerator", "HealthyEndpointCount", "Count", _ENDPOINT_GROUP,
    "load balancers of an endpoint group that the accelerator believes healthy; EndpointGroup is the region's name",
)  # fmt: skip
ACCELERATED_FLOWS: Final = _aws("GlobalAccelerator", "NewFlowCount", "Count", _ENDPOINT_GROUP, "connections opened")
ACCELERATED_IN: Final = _aws("GlobalAccelerator", "ProcessedBytesIn", "Bytes", _ENDPOINT_GROUP, "bytes from tenants")
ACCELERATED_OUT: Final = _aws("GlobalAccelerator", "ProcessedBytesOut", "Bytes", _ENDPOINT_GROUP, "bytes to tenants")
REPLICATION_LATENCY: Final = _aws(
    "DynamoDB", "ReplicationLatency", "Milliseconds", ("TableName", "ReceivingRegion"),
    "time from a write here until the item is in the receiving region; only of tables with eventual consistency",
)  # fmt: skip
READ_UNITS: Final = _aws("DynamoDB", "ConsumedReadCapacityUnits", "Count", _TABLE, "read units used")
WRITE_UNITS: Final = _aws("DynamoDB", "ConsumedWriteCapacityUnits", "Count", _TABLE, "write units used")
FREE_STORAGE: Final = _aws(
    "FSx", "FreeDataStorageCapacity", "Bytes", _FILE_SYSTEM,
    "free bytes, one sample a minute from every storage target: their Sum over one minute is the file system's",
)  # fmt: skip
STORAGE_READ: Final = _aws("FSx", "DataReadBytes", "Bytes", _FILE_SYSTEM, "bytes that hosts read")
STORAGE_WRITTEN: Final = _aws("FSx", "DataWriteBytes", "Bytes", _FILE_SYSTEM, "bytes that hosts or imports wrote")
BUCKET_BYTES: Final = _aws(
    "S3", "BucketSizeBytes", "Bytes", ("BucketName", "StorageType"), "bytes in the model bucket, once a day"
)
GATEWAY_IN: Final = _aws("TransitGateway", "BytesIn", "Bytes", _GATEWAY, "bytes into the region's transit gateway")
GATEWAY_OUT: Final = _aws("TransitGateway", "BytesOut", "Bytes", _GATEWAY, "bytes out of it")
BLACKHOLED: Final = _aws(
    "TransitGateway", "PacketDropCountBlackhole", "Count", _GATEWAY, "packets that met a blackhole route"
)
UNROUTED: Final = _aws("TransitGateway", "PacketDropCountNoRoute", "Count", _GATEWAY, "packets that no route matched")
HOSTS_IN_SERVICE: Final = _aws(
    "AutoScaling", "GroupInServiceInstances", "Count", ("AutoScalingGroupName",),
    "GPU hosts in service; the group must have its metrics collected",
)  # fmt: skip
ROUTER_CPU: Final = _aws("ECS", "CPUUtilization", "Percent", _SERVICE, "CPU that the router's tasks use")
FAILED_RUNS: Final = _aws(
    "SQS", "ApproximateNumberOfMessagesVisible", "Count", ("QueueName",),
    "runs of control functions that failed and that nobody has taken out of their queue yet",
)  # fmt: skip
ROUTER_MEMORY: Final = _aws("ECS", "MemoryUtilization", "Percent", _SERVICE, "memory that the router's tasks use")

AWS_METRICS: Final = (
    HEALTHY_ROUTERS, UNHEALTHY_ROUTERS, ACTIVE_FLOWS, NEW_FLOWS, PROCESSED_BYTES, TARGET_RESETS, HEALTHY_ENDPOINTS,
    ACCELERATED_FLOWS, ACCELERATED_IN, ACCELERATED_OUT, REPLICATION_LATENCY, READ_UNITS, WRITE_UNITS, FREE_STORAGE,
    STORAGE_READ, STORAGE_WRITTEN, BUCKET_BYTES, GATEWAY_IN, GATEWAY_OUT, BLACKHOLED, UNROUTED, HOSTS_IN_SERVICE,
    ROUTER_CPU, ROUTER_MEMORY, FAILED_RUNS,
)  # fmt: skip


def _ours(name: str, kind: Kind, says: str, *labels: str, unit: str = "Count") -> Metric:
    return Metric(
        namespace=NAMESPACE,
        name=name,
        unit=unit,
        dimensions=(*PLACE, *labels),
        emitter=Emitter.DATAPLANE,
        says=says,
        kind=kind,
    )


# The dataplane's, named as Prometheus shows them; tests compare them with what router and parent really show.
ROUTER_REQUESTS: Final = _ours("mrgc_router_requests_total", Kind.COUNTER, "requests by how they ended", "outcome")
ROUTER_ATTEMPTS: Final = _ours("mrgc_router_attempts_total", Kind.COUNTER, "attempts on hosts", "outcome")
RETRIES_REFUSED: Final = _ours("mrgc_router_retries_refused_total", Kind.COUNTER, "retries not made", "reason")
ROUTER_REGISTRY_FAILURES: Final = _ours(
    "mrgc_router_registry_failures_total", Kind.COUNTER, "readings of the registry that failed"
)
ROUTER_FIRST_BYTE: Final = _ours(
    "mrgc_router_first_byte_seconds", Kind.HISTOGRAM, "time to the first byte", unit="Seconds"
)
ROUTER_IN_FLIGHT: Final = _ours("mrgc_router_in_flight", Kind.GAUGE, "requests in flight of one router")
ROUTER_CONNECTIONS: Final = _ours("mrgc_router_connections", Kind.GAUGE, "tenants' connections of one router")
ROUTABLE_HOSTS: Final = _ours("mrgc_router_routable_hosts", Kind.GAUGE, "hosts that a router can send to")
REPLAY_BYTES: Final = _ours("mrgc_router_replay_bytes", Kind.GAUGE, "bytes kept for a retry", unit="Bytes")
PARENT_REQUESTS: Final = _ours("mrgc_parent_requests_total", Kind.COUNTER, "a host's requests by their end", "outcome")
PARENT_REFUSED: Final = _ours("mrgc_parent_refused_total", Kind.COUNTER, "requests that a full host refused")
SPANS_DROPPED: Final = _ours("mrgc_parent_spans_dropped_total", Kind.COUNTER, "batches of spans lost")
PARENT_REGISTRY_FAILURES: Final = _ours(
    "mrgc_parent_registry_failures_total", Kind.COUNTER, "a host's reports that the registry did not take"
)
WORKER_BINDS: Final = _ours("mrgc_parent_worker_binds_total", Kind.COUNTER, "worker keys that enclaves accepted")
CREDENTIAL_HANDOVERS: Final = _ours(
    "mrgc_parent_credential_handovers_total", Kind.COUNTER, "times that enclaves were given credentials"
)
PARENT_IN_FLIGHT: Final = _ours("mrgc_parent_in_flight", Kind.GAUGE, "requests in flight of one host")
PARENT_WAITING: Final = _ours("mrgc_parent_waiting", Kind.GAUGE, "requests that wait for a slot of one host")
PARENT_READY: Final = _ours("mrgc_parent_ready", Kind.GAUGE, "1 when a host takes requests")
ENCLAVE_HEALTHY: Final = _ours("mrgc_parent_enclave_healthy", Kind.GAUGE, "1 when a host's enclave is well")
GPU_HEALTHY: Final = _ours("mrgc_parent_gpu_healthy", Kind.GAUGE, "1 when a host's GPU worker is well")
PARENT_FIRST_BYTE: Final = _ours(
    "mrgc_parent_first_byte_seconds", Kind.HISTOGRAM, "a host's time to the first byte", unit="Seconds"
)
PARENT_DURATION: Final = _ours(
    "mrgc_parent_request_duration_seconds", Kind.HISTOGRAM, "a host's time to a request's end", unit="Seconds"
)
GPU_MEMORY_LIMIT: Final = _ours(
    "mrgc_gpu_memory_utilization_limit", Kind.GAUGE, "share of GPU memory that a worker may use", unit="None"
)
WORKER_WAITING: Final = _ours(
    "mrgc_worker_waiting", Kind.GAUGE, "requests in flight beyond what a worker's engines run at once"
)
WORKER_RUNNING: Final = _ours(
    "mrgc_worker_running", Kind.GAUGE, "requests in flight up to what a worker's engines run at once"
)
KV_CACHE: Final = _ours(
    "mrgc_worker_kv_cache_usage_ratio", Kind.GAUGE, "mean share of the KV cache in use, released in sixteenths",
    unit="None",
)  # fmt: skip
RELEASED_REQUESTS: Final = _ours(
    "mrgc_worker_released_requests_total", Kind.COUNTER, "requests that the released totals are of"
)
PROMPT_TOKENS: Final = _ours("mrgc_worker_prompt_tokens_total", Kind.COUNTER, "prompt tokens, as released")
COMPLETION_TOKENS: Final = _ours("mrgc_worker_completion_tokens_total", Kind.COUNTER, "tokens made, as released")
CACHED_TOKENS: Final = _ours(
    "mrgc_worker_cached_tokens_total", Kind.COUNTER, "prompt tokens found in the prefix cache, as released"
)
PREFILL_SECONDS: Final = _ours(
    "mrgc_worker_prefill_seconds_total", Kind.COUNTER, "time to first pieces, as released", unit="Seconds"
)
DECODE_SECONDS: Final = _ours(
    "mrgc_worker_decode_seconds_total", Kind.COUNTER, "time from first to last pieces, as released", unit="Seconds"
)
GPU_MEMORY: Final = _ours("mrgc_gpu_memory_total_bytes", Kind.GAUGE, "GPU memory of one host", unit="Bytes")
GPU_MEMORY_USED: Final = _ours("mrgc_gpu_memory_used_bytes", Kind.GAUGE, "GPU memory in use", unit="Bytes")
ASSURANCE: Final = _ours("mrgc_enclave_assurance", Kind.GAUGE, "assurance level that a host's enclave states")
ENCLAVE_DATA_KEYS: Final = _ours("mrgc_enclave_data_keys", Kind.GAUGE, "data keys that an enclave holds")
ENCLAVE_REPLAY: Final = _ours("mrgc_enclave_replay_entries", Kind.GAUGE, "requests that an enclave remembers")
ENCLAVE_KMS_CALLS: Final = _ours("mrgc_enclave_kms_calls", Kind.GAUGE, "an enclave's calls of KMS since it started")
ENCLAVE_REQUESTS: Final = _ours("mrgc_enclave_requests", Kind.GAUGE, "an enclave's requests since it started")

DATAPLANE_METRICS: Final = (
    ROUTER_REQUESTS, ROUTER_ATTEMPTS, RETRIES_REFUSED, ROUTER_REGISTRY_FAILURES, ROUTER_FIRST_BYTE, ROUTER_IN_FLIGHT,
    ROUTER_CONNECTIONS, ROUTABLE_HOSTS, REPLAY_BYTES, PARENT_REQUESTS, PARENT_REFUSED, SPANS_DROPPED,
    PARENT_REGISTRY_FAILURES, WORKER_BINDS, CREDENTIAL_HANDOVERS, PARENT_IN_FLIGHT, PARENT_WAITING, PARENT_READY,
    ENCLAVE_HEALTHY, GPU_HEALTHY, PARENT_FIRST_BYTE, PARENT_DURATION, GPU_MEMORY_LIMIT, WORKER_WAITING, WORKER_RUNNING,
    KV_CACHE, RELEASED_REQUESTS, PROMPT_TOKENS, COMPLETION_TOKENS, CACHED_TOKENS, PREFILL_SECONDS, DECODE_SECONDS,
    GPU_MEMORY, GPU_MEMORY_USED, ASSURANCE, ENCLAVE_DATA_KEYS, ENCLAVE_REPLAY, ENCLAVE_KMS_CALLS,
    ENCLAVE_REQUESTS,
)  # fmt: skip


def _planned(name: str, unit: str, says: str, kind: Kind = Kind.GAUGE) -> Metric:
    return Metric(
        namespace=NAMESPACE,
        name=name,
        unit=unit,
        dimensions=PLACE,
        emitter=Emitter.CONTROL,
        says=says,
        kind=kind,
    )


# The control loops', to be sent with `PutMetricData`. Nobody emits them yet.
HEALTH_SCORE: Final = _planned(
    "InstanceHealthScore", "None", "health loop: `health`, 0 to 100, of each host's record in the registry"
)
GPU_TEMPERATURE: Final = _planned(
    "GpuTemperature", "None", "health loop: degrees Celsius of each host's GPU; no worker reports it yet"
)
MODEL_LOAD: Final = _planned(
    "ModelLoadTime", "Seconds", "health loop: `avg_load_time_seconds` of each parent's JSON metrics"
)
FIRST_BYTE_P95: Final = _planned(
    "FirstByteP95", "Seconds", "health loop: 95th percentile of mrgc_router_first_byte_seconds over a region's routers"
)
CLEANUPS: Final = _planned("Cleanups", "Count", "car wash: washes that ended in the period", Kind.COUNTER)
CLEANUP_FAILURES: Final = _planned(
    "CleanupFailures", "Count", "car wash: those of them that failed validation", Kind.COUNTER
)

CONTROL_METRICS: Final = (HEALTH_SCORE, GPU_TEMPERATURE, MODEL_LOAD, FIRST_BYTE_P95, CLEANUPS, CLEANUP_FAILURES)

CATALOGUE: Final = (*AWS_METRICS, *DATAPLANE_METRICS, *CONTROL_METRICS)
"""Every metric that an alarm or a dashboard may name."""


def emf_declarations() -> list[dict[str, Any]]:
    """`metric_declarations` of the collector's CloudWatch exporter: the dataplane's metrics by their dimensions.

    Each is `{"dimensions": [[...]], "metric_name_selectors": ["^name$", ...]}`. The collector has to add the labels
    `Environment` and `Region` to what it scrapes. Histograms are left out: see the module's head.
    """

    def dimensions(metric: Metric) -> tuple[str, ...]:
        return metric.dimensions

    return [
        {"dimensions": [list(names)], "metric_name_selectors": [f"^{re.escape(metric.name)}$" for metric in group]}
        for names, group in _grouped(dimensions)
    ]


def _grouped(key: Any) -> Iterator[tuple[tuple[str, ...], Iterator[Metric]]]:
    exported = [metric for metric in DATAPLANE_METRICS if metric.kind is not Kind.HISTOGRAM]
    return itertools.groupby(sorted(exported, key=key), key=key)
