"""The router's figures for Prometheus, in a registry of their own. No label names a tenant or a request."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' text format."""

_FIRST_BYTE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class RouterMetrics:
    """Counters and gauges; one object per router."""

    def __init__(self) -> None:
        """Register everything anew."""
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "mrgc_router_requests", "Inference requests by outcome: ok, a problem's code, aborted, tenant-gone",
            ["outcome"], registry=self.registry,
        )  # fmt: skip
        self.attempts = Counter(
            "mrgc_router_attempts", "Attempts on hosts by outcome: ok or a problem's code",
            ["outcome"], registry=self.registry,
        )  # fmt: skip
        self.retries_refused = Counter(
            "mrgc_router_retries_refused", "Retries not made, by reason: budget, attempts, body, no-host",
            ["reason"], registry=self.registry,
        )  # fmt: skip
        self.registry_failures = Counter(
            "mrgc_router_registry_failures", "Readings of the registry that failed", registry=self.registry
        )
        self.first_byte = Histogram(
            "mrgc_router_first_byte_seconds", "Time from a request's head to its answer's first byte",
            buckets=_FIRST_BYTE_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.in_flight = Gauge("mrgc_router_in_flight", "Inference requests in flight", registry=self.registry)
        self.connections = Gauge("mrgc_router_connections", "Tenants' connections open", registry=self.registry)
        self.hosts = Gauge("mrgc_router_routable_hosts", "Hosts that can take a request", registry=self.registry)
        self.replay_bytes = Gauge(
            "mrgc_router_replay_bytes", "Bytes of bodies kept for a retry", registry=self.registry
        )

    def render(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        return generate_latest(self.registry)
