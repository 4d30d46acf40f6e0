"""Put a worker together from its settings and an engine; the local stack gives another engine, nothing else."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping

from dataplane.mesh.lifecycle import Stop
from dataplane.worker.configuration import config_digest, configuration
from dataplane.worker.engine import EngineFactory
from dataplane.worker.identity import WorkerIdentity
from dataplane.worker.inference import Inference
from dataplane.worker.modelcopy import ModelCache
from dataplane.worker.pool import PoolDirectory
from dataplane.worker.pools import Pools
from dataplane.worker.server import WorkerServer
from dataplane.worker.settings import WorkerSettings
from dataplane.worker.tally import Tally
from dataplane.worker.tpm import Tpm
from observability.tracing import Telemetry

logger = logging.getLogger(__name__)


def wall_clock_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


async def run_worker(
    settings: WorkerSettings,
    stop: Stop,
    *,
    factory: EngineFactory,
    tpm: Tpm | None,
    clock_ms: Callable[[], int] = wall_clock_ms,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Run a worker until `stop`; raises `MrgcError` when it can't serve (any more)."""
    server = make_worker(settings, factory=factory, tpm=tpm, clock_ms=clock_ms, monotonic=monotonic)
    await server.run(settings.worker_listen_address, stop)


def make_worker(
    settings: WorkerSettings,
    *,
    factory: EngineFactory,
    tpm: Tpm | None,
    clock_ms: Callable[[], int],
    monotonic: Callable[[], float],
    environ: Mapping[str, str] = os.environ,
) -> WorkerServer:
    """Make the server and everything behind it; nothing runs yet. Call it in the event loop.

    `environ` is what the engine will run in, a part of the configuration.
    """
    digest = config_digest(configuration(settings, factory, environ))
    logger.info("this worker's configuration is %s", digest.hex())
    identity = WorkerIdentity(
        config_digest=digest,
        clock_ms=clock_ms,
        monotonic=monotonic,
        tpm=tpm,
    )
    pools = Pools(
        directory=PoolDirectory(
            settings.fsx_mount_point,
            cache=ModelCache(settings.model_cache_dir, max_bytes=settings.model_cache_max_bytes),
            required=settings.model_digests,
        ),
        factory=factory,
        max_loaded=settings.max_loaded_pools,
        stall_s=settings.engine_stall_s,
        monotonic=monotonic,
    )
    inference = Inference(
        identity=identity,
        pools=pools,
        telemetry=Telemetry.relayed("worker", region=settings.mrgc_region, instance_id=settings.instance_id),
        tally=Tally(),
        engine_kind=factory.kind,
        max_queue=settings.max_queue,
        monotonic=monotonic,
    )
    return WorkerServer(
        identity=identity,
        pools=pools,
        factory=factory,
        inference=inference,
        default_pool=settings.default_model_pool,
        drain_timeout_s=settings.drain_timeout_s,
        monotonic=monotonic,
    )
