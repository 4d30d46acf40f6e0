"""`python -m dataplane.parent`: the host's network-facing process, which holds ciphertext only."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import time
from typing import NoReturn

from aiohttp import web

from dataplane.mesh.address import AddressError
from dataplane.mesh.admission import Admission
from dataplane.mesh.health import Health
from dataplane.mesh.lifecycle import Stop, run_sidecar
from dataplane.mesh.tls import server_context
from dataplane.parent.app import ParentPages
from dataplane.parent.calls import HostCalls, opener
from dataplane.parent.credentials import ChainCredentials, CredentialSource
from dataplane.parent.exposition import ParentMetrics
from dataplane.parent.keeper import Keeper
from dataplane.parent.relay import Relay
from dataplane.parent.report import PARTS
from dataplane.parent.settings import ParentSettings
from dataplane.parent.view import HostView
from dataplane.registry.dynamodb import DynamoRegistry, dynamodb_client
from dataplane.registry.registry import Registry
from observability.forward import SpanForwarder, traces_endpoint
from observability.tracing import Telemetry

MAX_REPORT_AGE_S = 4.0
"""One look that times out (3 s) and one second: older than that and a poll, a part counts as failed."""
ABORT_GRACE_S = 1.0
"""For handlers to notice that they are cancelled when the drain's time is up."""
KEEPALIVE_S = 75.0
"""Idle connections of routers are kept this long, longer than a router keeps them, so that the router closes first."""
METADATA_ADDRESS = ("169.254.169.254", 80)
"""Any address beyond the first hop shows which of ours is used to reach it; nothing is sent to it."""
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound

logger = logging.getLogger(__name__)


def command() -> NoReturn:
    """Run the parent: takes sealed requests over HTTP and relays them between router, enclave and GPU worker."""
    run_sidecar(ParentSettings, main, service="parent")


async def main(settings: ParentSettings, stop: Stop) -> None:
    """Serve until asked to stop."""
    telemetry = Telemetry.from_environment(
        "parent", region=settings.mrgc_region, instance_id=settings.instance_id, environ=os.environ
    )
    registry: Registry | None = None
    if settings.registry == "dynamodb":
        registry = DynamoRegistry(
            dynamodb_client(settings.mrgc_region), table=settings.registry_table, clock_ms=_clock_ms
        )
    try:
        await serve(
            settings,
            stop,
            telemetry=telemetry,
            spans=SpanForwarder(traces_endpoint(os.environ)),
            registry=registry,
            credentials=ChainCredentials(clock_ms=_clock_ms),
        )
    finally:
        await asyncio.to_thread(telemetry.shutdown)


async def serve(
    settings: ParentSettings,
    stop: Stop,
    *,
    telemetry: Telemetry,
    spans: SpanForwarder,
    registry: Registry | None,
    credentials: CredentialSource,
) -> None:
    """Put the parts together, serve, and drain when `stop` is requested.

    Raises AddressError when the port cannot be bound, SettingsError for a TLS file that cannot be used.
    """
    tls = _tls(settings)
    view = HostView()
    health = Health(PARTS, monotonic=time.monotonic, max_age_s=MAX_REPORT_AGE_S + settings.poll_s)
    admission = Admission(max_in_flight=settings.max_in_flight, max_queue=settings.max_queue)
    open_enclave, open_worker = opener(settings.enclave_address), opener(settings.worker_address)
    calls = HostCalls(open_enclave=open_enclave, open_worker=open_worker)
    pages = ParentPages(
        settings=settings,
        relay=Relay(
            open_enclave=open_enclave,
            open_worker=open_worker,
            forward_spans=spans.submit,
            idle_timeout_s=settings.idle_timeout_s,
        ),
        calls=calls,
        view=view,
        health=health,
        admission=admission,
        metrics=ParentMetrics(
            view,
            health,
            admission,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            spans_dropped=lambda: spans.dropped,
        ),
        telemetry=telemetry,
    )
    keeper = Keeper(
        settings,
        calls=calls,
        view=view,
        health=health,
        admission=admission,
        credentials=credentials,
        registry=registry,
        address=settings.advertised_url
        or f"{settings.scheme}://{_own_address(settings.http_host)}:{settings.http_port}",
        clock_ms=_clock_ms,
    )
    runner = web.AppRunner(
        pages.application(),
        access_log=None,
        handler_cancellation=True,  # a client that goes takes its request with it
        keepalive_timeout=KEEPALIVE_S,
        shutdown_timeout=ABORT_GRACE_S,
        lingering_time=1.0,
        auto_decompress=False,  # the body is ciphertext; a Content-Encoding is not ours to undo
    )
    await runner.setup()
    try:
        await _listen(runner, settings, tls)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(spans.run(), name="spans"),
                group.create_task(keeper.run(), name="keeper"),
            ]
            logger.info("serving on %s:%d", settings.http_host, settings.http_port)
            await stop.wait()
            keeper.drain()
            logger.info("draining %d requests", admission.in_flight + admission.waiting)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.drain_timeout_s):
                    await admission.idle()
            await runner.cleanup()  # what is still in flight now is aborted
            for task in tasks:
                task.cancel()
    finally:
        await runner.cleanup()
    await keeper.farewell()


def _tls(settings: ParentSettings) -> ssl.SSLContext | None:
    """The listener's TLS: only routers get in, by certificates of an authority that is for nothing else."""
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    return server_context(settings.tls_cert_file, settings.tls_key_file, client_authority=settings.tls_client_ca_file)


async def _listen(runner: web.AppRunner, settings: ParentSettings, tls: ssl.SSLContext | None) -> None:
    try:
        await web.TCPSite(runner, settings.http_host, settings.http_port, ssl_context=tls).start()
    except OSError as error:
        raise AddressError(
            f"Could not listen at {settings.http_host}:{settings.http_port} ({error.strerror or error}); "
            "stop what uses that port or set HTTP_HOST and HTTP_PORT."
        ) from error


def _own_address(host: str) -> str:
    """The address that others reach this machine by, for a listener on `host`."""
    if host not in WILDCARDS:
        return f"[{host}]" if ":" in host else host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(METADATA_ADDRESS)
        except OSError:
            return "127.0.0.1"
        name: tuple[str, int] = probe.getsockname()
        return name[0]


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    command()
