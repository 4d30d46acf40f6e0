"""`python -m dataplane.proxy`: the enclave proxy of one host, configured by its environment."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import NoReturn

from dataplane.mesh.lifecycle import Stop, run_sidecar
from dataplane.proxy.server import ProxyServer
from dataplane.proxy.settings import ProxySettings

logger = logging.getLogger(__name__)


async def serve(settings: ProxySettings, stop: Stop) -> None:
    """Forward until asked to stop, then drain."""
    server = ProxyServer(settings, monotonic=time.monotonic)
    await server.start()
    logger.info(
        "the proxy is ready",
        extra={"parent": str(settings.parent_address), "kms": str(settings.kms_listen_address)},
    )
    reporting = asyncio.create_task(server.report(), name="proxy.report")
    try:
        await stop.wait()
    finally:
        reporting.cancel()
        await asyncio.gather(reporting, return_exceptions=True)
        await server.close()
        logger.info("the proxy has stopped", extra={"counters": server.snapshot()})


def command() -> NoReturn:
    """Run the enclave proxy: bytes between parent and enclave, and between enclave and KMS."""
    run_sidecar(ProxySettings, serve, service="proxy")


if __name__ == "__main__":
    command()
