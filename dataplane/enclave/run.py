"""Puts one enclave together and serves until it is asked to stop; which NSM it has is the caller's business."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from cryptography import x509

from dataplane.enclave.bridge import LoopbackBridge
from dataplane.enclave.credentials import RelayedCredentials
from dataplane.enclave.hostclock import WatchedNsm
from dataplane.enclave.hostrules import HostRules, read_host_rules
from dataplane.enclave.identity import read_identity
from dataplane.enclave.kms import BotoKms
from dataplane.enclave.nsm import Nsm
from dataplane.enclave.nsm_gate import NsmGate
from dataplane.enclave.server import EnclaveServer
from dataplane.enclave.settings import EnclaveSettings
from dataplane.mesh.lifecycle import Stop
from observability.tracing import Telemetry

logger = logging.getLogger(__name__)


def wall_clock_ms() -> int:
    """Return the time in ms since 1970."""
    return time.time_ns() // 1_000_000


async def serve_enclave(
    settings: EnclaveSettings,
    stop: Stop,
    *,
    nsm: Nsm,
    attestation_roots: Sequence[x509.Certificate] | None = None,
    clock_ms: Callable[[], int] = wall_clock_ms,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Serve with `nsm` until `stop`, then drain.

    `attestation_roots` judge the worker's document; None is AWS's alone. Raises `MrgcError`.
    """
    rules = HostRules() if settings.host_measurements_file is None else read_host_rules(settings.host_measurements_file)
    # Whatever asks for a document from here on, KMS calls included, is a look at the hypervisor's time.
    # One module signs for all, one document at a time: data keys go first, whoever asks for documents.
    gate = NsmGate(nsm)
    watched = WatchedNsm(gate.later, clock_ms=clock_ms, monotonic=monotonic)
    identity = read_identity(watched, region=settings.mrgc_region)
    credentials = RelayedCredentials(clock_ms=clock_ms)
    telemetry = Telemetry.relayed("enclave", region=identity.region, instance_id=identity.instance_id)
    bridge = LoopbackBridge(settings.kms_proxy_address, monotonic=monotonic)
    await bridge.start()
    kms = BotoKms(nsm=watched.beside(gate.first), credentials=credentials, region=identity.region, proxy_url=bridge.url)
    server = EnclaveServer(
        address=settings.enclave_listen_address,
        nsm=watched,
        identity=identity,
        kms=kms,
        credentials=credentials,
        telemetry=telemetry,
        clock_ms=clock_ms,
        monotonic=monotonic,
        host_measurements=rules.allowed,
        configurations=rules.configurations,
        attestation_roots=attestation_roots,
        max_connections=settings.max_connections,
    )
    try:
        await kms.warm()
        await server.start()
        logger.info(
            "the enclave is ready",
            extra={
                "address": str(settings.enclave_listen_address),
                "region": identity.region,
                "instance": identity.instance_id,
                "pcr0": identity.pcr0.hex(),
                "nsm_level": nsm.assurance,
            },
        )
        await stop.wait()
    finally:
        await server.close(drain_s=settings.drain_timeout_s)
        kms.close()
        await bridge.close()
        logger.info("the enclave has stopped")
