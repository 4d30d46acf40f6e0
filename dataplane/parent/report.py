"""What the parent tells the registry and its own /health and /metrics, from what it knows: pure functions."""

from __future__ import annotations

from typing import Any

from dataplane.mesh.health import Health
from dataplane.parent.view import HostView, figure
from dataplane.registry.host import HostRecord, HostState

ENCLAVE = "enclave"
WORKER = "worker"
PARTS = (ENCLAVE, WORKER)
"""The parts that must be well for the host to take requests."""

UNKNOWN_ENGINE = "unknown"
"""Said until the worker has answered once; such a host is never `ready`."""


def host_record(
    view: HostView,
    health: Health,
    *,
    instance_id: str,
    region: str,
    address: str,
    capacity: int,
    in_flight: int,
    waiting: int,
    now_ms: int,
) -> HostRecord:
    """The record of this moment. Work is the larger of what the worker says and what this parent has in hand."""
    worker, enclave = view.worker, view.enclave
    if health.draining:
        state = HostState.DRAINING
    elif health.ready:
        state = HostState.READY
    else:
        state = HostState.UNHEALTHY
    return HostRecord(
        instance_id=instance_id,
        region=region,
        address=address,
        pools=worker.available if worker is not None else (),
        state=state,
        queue_depth=waiting + (worker.waiting if worker is not None else 0),
        running=max(in_flight, worker.running if worker is not None else 0),
        capacity=capacity,
        latency_ms=view.first_byte_ms,
        health=round(100 * view.success) if state is HostState.READY else 0,
        assurance=enclave.assurance if enclave is not None else 0,
        engine=worker.engine if worker is not None else UNKNOWN_ENGINE,
        reported_ms=now_ms,
    )


def health_page(view: HostView, health: Health) -> dict[str, Any]:
    """The body of `GET /health`, exactly these five members."""
    return {
        "status": health.status.value,
        "ready": health.ready,
        "enclave_healthy": health.ok(ENCLAVE),
        "gpu_healthy": health.ok(WORKER),
        "models_loaded": list(view.worker.loaded) if view.worker is not None else [],
    }


def metrics_page(view: HostView, health: Health) -> dict[str, Any]:
    """The JSON body of `GET /metrics`. Memory in MB, `gpu_memory_usage_pct` 0 to 100, `success_rate` 0 to 1."""
    worker = view.worker
    gpu = worker.gpu if worker is not None else {}
    models = worker.models if worker is not None else {}
    requests = worker.requests if worker is not None else {}
    total_mb, used_mb = figure(gpu, "total_mb"), figure(gpu, "used_mb")
    total, failed = figure(requests, "total"), figure(requests, "failed")
    return {
        "gpu_stats": {
            "gpu_available": gpu.get("available") is True,
            "gpu_memory_total_mb": total_mb,
            "gpu_memory_used_mb": used_mb,
            "gpu_memory_usage_pct": round(100 * used_mb / total_mb, 2) if total_mb else 0.0,
            "total_requests": total,
            "failed_requests": failed,
            "success_rate": max(0.0, 1 - failed / total) if total else 1.0,
            "avg_inference_time_seconds": figure(requests, "avg_s"),
        },
        "model_stats": {
            "fsx_available": view.fsx_available,
            "loaded_models": list(worker.loaded) if worker is not None else [],
            "available_models": list(worker.available) if worker is not None else [],
            "total_loads": figure(models, "total_loads"),
            "failed_loads": figure(models, "failed_loads"),
            "avg_load_time_seconds": figure(models, "avg_load_s"),
            "models": _details(models.get("details")),
        },
        "enclave_connected": health.ok(ENCLAVE),
    }


def _details(details: Any) -> dict[str, dict[str, Any]]:
    """Facts of each model that JSON can say; bytes are shown in hex."""
    if not isinstance(details, dict):
        return {}
    return {
        str(name): {
            str(key): value.hex() if isinstance(value, bytes) else value
            for key, value in facts.items()
            if isinstance(value, str | int | float | bool | bytes)
        }
        for name, facts in details.items()
        if isinstance(facts, dict)
    }
