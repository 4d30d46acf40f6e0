"""The enclave proxy: bytes between parent and enclave, and between enclave and an allow-list of KMS endpoints.

It reads one thing, the head of the enclave's `CONNECT`; everything else, sealed by the tenant or by TLS, passes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import asdict

from dataplane.mesh.address import AddressError, TcpAddress, connect
from dataplane.mesh.forwarder import Forwarder
from dataplane.mesh.pump import CHUNK_BYTES, Stream
from dataplane.proxy.connect import ConnectError, ConnectHead, Endpoint, answer
from dataplane.proxy.settings import ProxySettings

HEAD_TIMEOUT_S = 5.0
"""How long an enclave may take to send the head of its `CONNECT`; it is written at once by every client."""

REPORT_PERIOD_S = 60.0
"""How often the counters are logged, if they changed."""

logger = logging.getLogger(__name__)


class ProxyServer:
    """Both listeners of one proxy."""

    def __init__(self, settings: ProxySettings, *, monotonic: Callable[[], float]) -> None:
        """Bind nothing yet."""
        self._settings = settings
        self.parents = Forwarder(
            "parent",
            settings.parent_address,
            self._open_enclave,
            max_connections=settings.max_connections,
            idle_timeout_s=settings.idle_timeout_s,
            monotonic=monotonic,
        )
        self.tunnels = Forwarder(
            "kms",
            settings.kms_listen_address,
            self._open_tunnel,
            max_connections=settings.max_tunnels,
            idle_timeout_s=settings.idle_timeout_s,
            monotonic=monotonic,
            over_limit_answer=answer(503),
        )
        self.refused_tunnels = 0

    async def start(self) -> None:
        """Bind both listeners; raises `AddressError`."""
        await self.parents.start()
        try:
            await self.tunnels.start()
        except AddressError:
            await self.parents.close(drain_s=0)
            raise

    async def close(self) -> None:
        """Stop accepting, drain within the settings' bound, end the rest."""
        drain_s = self._settings.drain_timeout_s
        await asyncio.gather(self.parents.close(drain_s=drain_s), self.tunnels.close(drain_s=drain_s))

    async def report(self, *, period_s: float = REPORT_PERIOD_S) -> None:
        """Log the counters every `period_s` seconds when they have changed; runs until cancelled."""
        last: dict[str, object] = {}
        while True:
            await asyncio.sleep(period_s)
            current = self.snapshot()
            if current != last:
                logger.info("proxy counters", extra={"counters": current})
                last = current

    def snapshot(self) -> dict[str, object]:
        """Return the counters of both listeners as plain values."""
        return {
            "parent": asdict(self.parents.counters),
            "kms": asdict(self.tunnels.counters) | {"refused": self.refused_tunnels},
        }

    async def _open_enclave(self, _: asyncio.StreamReader, __: asyncio.StreamWriter) -> Stream | None:
        try:
            return await connect(
                self._settings.enclave_address, timeout_s=self._settings.connect_timeout_s, limit=CHUNK_BYTES
            )
        except AddressError as error:
            logger.warning("the enclave does not answer: %s", error)
            return None

    async def _open_tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Stream | None:
        try:
            endpoint, rest = await self._read_head(reader)
        except ConnectError as error:
            self.refused_tunnels += 1
            logger.warning("a tunnel was refused with %d: %s", error.status, error)
            writer.write(answer(error.status))
            return None
        try:
            far = await connect(
                TcpAddress(endpoint.host, endpoint.port),
                timeout_s=self._settings.connect_timeout_s,
                limit=CHUNK_BYTES,
            )
        except AddressError as error:
            logger.warning("KMS is not reachable: %s", error)
            writer.write(answer(502))
            return None
        writer.write(answer(200))
        far[1].write(rest)
        return far

    async def _read_head(self, reader: asyncio.StreamReader) -> tuple[Endpoint, bytes]:
        head = ConnectHead(self._settings.kms_endpoints)
        try:
            async with asyncio.timeout(HEAD_TIMEOUT_S):
                while True:
                    data = await reader.read(head.missing)
                    if not data:
                        raise ConnectError(400, "The connection ended within the head of its CONNECT request.")
                    found = head.feed(data)
                    if found is not None:
                        return found
        except TimeoutError:
            raise ConnectError(408, f"No CONNECT request came within {HEAD_TIMEOUT_S:g} s.") from None
