"""Prometheus metrics of the parent, in a registry of its own and collected when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from dataplane.mesh.admission import Admission
from dataplane.mesh.health import Health
from dataplane.parent.report import ENCLAVE, WORKER
from dataplane.parent.view import HostView, figure

FIRST_BYTE_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: from a warm prefix cache to a queue that a tenant has given up on."""
DURATION_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds: up to the longest deadline."""
MEGABYTE = 1_000_000
RELEASED = (
    ("released_requests", "requests", "Requests that the released totals are of."),
    ("prompt_tokens", "prompt_tokens", "Prompt tokens, as released."),
    ("completion_tokens", "completion_tokens", "Tokens made, as released."),
    ("cached_tokens", "cached_tokens", "Prompt tokens found in the prefix cache, as released."),
    ("prefill_seconds", "prefill_s", "Time to first pieces, as released."),
    ("decode_seconds", "decode_s", "Time from first to last pieces, as released."),
)
"""Totals that the worker lets go over many requests: metric, member of `released`, what it says."""


class ParentMetrics:
    """Histograms that requests observe, and everything else read from the view when scraped."""

    def __init__(
        self,
        view: HostView,
        health: Health,
        admission: Admission,
        *,
        gpu_memory_utilization: float,
        spans_dropped: Callable[[], int],
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_ViewCollector(view, health, admission, gpu_memory_utilization, spans_dropped))
        self.first_byte_s = Histogram(
            "mrgc_parent_first_byte_seconds",
            "Time from a request's head to the first byte of its response.",
            buckets=FIRST_BYTE_BUCKETS,
            registry=self._registry,
        )
        self.duration_s = Histogram(
            "mrgc_parent_request_duration_seconds",
            "Time from a request's head to its end, however it ended.",
            buckets=DURATION_BUCKETS,
            registry=self._registry,
        )

    def text(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type: OpenMetrics or the text format, as `accept` asks."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type


class _ViewCollector(Collector):
    def __init__(
        self,
        view: HostView,
        health: Health,
        admission: Admission,
        gpu_memory_utilization: float,
        spans_dropped: Callable[[], int],
    ) -> None:
        self._view = view
        self._health = health
        self._admission = admission
        self._gpu_memory_utilization = gpu_memory_utilization
        self._spans_dropped = spans_dropped

    def collect(self) -> Iterator[Metric]:
        """Every family, from the view as it is now."""
        view, health = self._view, self._health
        outcomes = CounterMetricFamily("mrgc_parent_requests", "Requests that have ended, by how.", labels=["outcome"])
        for outcome, count in sorted(view.outcomes.items()):
            outcomes.add_metric([outcome], count)
        yield outcomes
        counters = {
            "mrgc_parent_refused": ("Requests refused because the host was full.", self._admission.refused),
            "mrgc_parent_spans_dropped": ("Batches of spans that no collector took.", self._spans_dropped()),
            "mrgc_parent_registry_failures": ("Reports that the registry did not take.", view.failed_reports),
            "mrgc_parent_worker_binds": ("Times that the enclave has accepted a worker key.", view.bound_epochs),
            "mrgc_parent_credential_handovers": ("Times that the enclave was given credentials.", view.handovers),
        }
        for name, (text, count) in counters.items():
            yield CounterMetricFamily(name, text, value=count)
        if (worker := view.worker) is not None:
            for name, member, text in RELEASED:
                yield CounterMetricFamily(f"mrgc_worker_{name}", text, value=figure(worker.released, member))
        for name, (text, value) in self._gauges(view, health).items():
            yield GaugeMetricFamily(name, text, value=value)

    def _gauges(self, view: HostView, health: Health) -> dict[str, tuple[str, float]]:
        gauges: dict[str, tuple[str, float]] = {
            "mrgc_parent_in_flight": ("Requests in flight.", self._admission.in_flight),
            "mrgc_parent_waiting": ("Requests that wait for a slot.", self._admission.waiting),
            "mrgc_parent_ready": ("1 when the host takes requests.", health.ready),
            "mrgc_parent_enclave_healthy": ("1 when the enclave is well.", health.ok(ENCLAVE)),
            "mrgc_parent_gpu_healthy": ("1 when the GPU worker is well.", health.ok(WORKER)),
            "mrgc_gpu_memory_utilization_limit": (
                "Share of GPU memory that the worker may use.",
                self._gpu_memory_utilization,
            ),
        }
        if (worker := view.worker) is not None:
            gauges |= {
                "mrgc_worker_waiting": ("Requests in flight beyond what the engines run at once.", worker.waiting),
                "mrgc_worker_running": ("Requests in flight up to what the engines run at once.", worker.running),
                "mrgc_worker_kv_cache_usage_ratio": (
                    "Mean share of the KV cache in use, released in sixteenths.",
                    worker.kv_cache_usage,
                ),
                "mrgc_gpu_memory_total_bytes": ("GPU memory.", figure(worker.gpu, "total_mb") * MEGABYTE),
                "mrgc_gpu_memory_used_bytes": ("GPU memory in use.", figure(worker.gpu, "used_mb") * MEGABYTE),
            }
        if (enclave := view.enclave) is not None:
            gauges["mrgc_enclave_assurance"] = ("The assurance level that responses state.", enclave.assurance)
            for name, value in enclave.figures.items():
                gauges[f"mrgc_enclave_{name}"] = (f"The enclave's {name} as it reports it.", value)
        return gauges
