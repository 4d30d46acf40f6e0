"""The way from boto3 to KMS: a loopback port whose bytes go to the enclave proxy on the host.

boto3 speaks HTTP CONNECT to this port and TLS to KMS through it; the proxy reads the CONNECT, this bridge reads
nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from dataplane.mesh.address import Address, AddressError, TcpAddress, connect
from dataplane.mesh.forwarder import Forwarder
from dataplane.mesh.pump import CHUNK_BYTES, Stream

MAX_CONNECTIONS = 32
"""Eight threads, three regions, and a connection that is being replaced here and there."""

CONNECT_TIMEOUT_S = 2.0
IDLE_TIMEOUT_S = 120.0
"""A pooled connection to KMS that nobody uses; urllib3 opens another when it finds one closed."""

logger = logging.getLogger(__name__)


class LoopbackBridge:
    """Listens on a free port of 127.0.0.1 and forwards to `proxy_address`."""

    def __init__(self, proxy_address: Address, *, monotonic: Callable[[], float]) -> None:
        """Bind nothing yet."""
        self._proxy_address = proxy_address
        self._forwarder = Forwarder(
            "bridge",
            TcpAddress("127.0.0.1", 0),
            self._open,
            max_connections=MAX_CONNECTIONS,
            idle_timeout_s=IDLE_TIMEOUT_S,
            monotonic=monotonic,
        )

    @property
    def url(self) -> str:
        """What boto3 takes as its proxy."""
        return f"http://127.0.0.1:{self._forwarder.port}"

    async def start(self) -> None:
        """Listen; raises `AddressError`."""
        await self._forwarder.start()

    async def close(self) -> None:
        """End every connection."""
        await self._forwarder.close(drain_s=0)

    async def _open(self, _: asyncio.StreamReader, __: asyncio.StreamWriter) -> Stream | None:
        try:
            return await connect(self._proxy_address, timeout_s=CONNECT_TIMEOUT_S, limit=CHUNK_BYTES)
        except AddressError as error:
            logger.warning("the enclave proxy does not answer: %s", error)
            return None
