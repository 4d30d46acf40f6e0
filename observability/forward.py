"""Forwards spans that came over the host link to the collector, without ever holding a request up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping

import aiohttp

from observability.tracing import EXPORT_TIMEOUT_S

QUEUE_BATCHES = 512
"""Batches that wait for the collector: one a request and sender, a few KiB each, so about 2 MiB at worst."""

MAX_BATCH_BYTES = 65_536
"""Largest batch taken: the host link's largest message."""

logger = logging.getLogger(__name__)


def traces_endpoint(environ: Mapping[str, str] | None = None) -> str | None:
    """Return the URL that OTLP/HTTP traces go to, as OpenTelemetry's exporter specification derives it."""
    environ = os.environ if environ is None else environ
    if exact := environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        return exact
    base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    return f"{base.rstrip('/')}/v1/traces" if base else None


class SpanForwarder:
    """Posts OTLP batches one after the other; a full queue or a failed post drops the batch and counts it."""

    def __init__(self, endpoint: str | None) -> None:
        """`endpoint` is a full URL; None forwards nothing."""
        self._endpoint = endpoint
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(QUEUE_BATCHES)
        self.dropped = 0
        self.sent = 0

    def submit(self, batch: bytes) -> None:
        """Queue one `ExportTraceServiceRequest`; returns at once."""
        if self._endpoint is None:
            return
        if len(batch) > MAX_BATCH_BYTES:
            self.dropped += 1
            return
        try:
            self._queue.put_nowait(batch)
        except asyncio.QueueFull:
            self.dropped += 1

    async def run(self) -> None:
        """Post batches until cancelled; what is queued then gets one last, bounded try."""
        if self._endpoint is None:
            return
        timeout = aiohttp.ClientTimeout(total=EXPORT_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            try:
                while True:
                    await self._post(session, self._endpoint, await self._queue.get())
            finally:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(EXPORT_TIMEOUT_S):
                        while not self._queue.empty():
                            await self._post(session, self._endpoint, self._queue.get_nowait())

    async def _post(self, session: aiohttp.ClientSession, endpoint: str, batch: bytes) -> None:
        """Post one batch; a collector that fails costs the batch and nothing else."""
        try:
            async with session.post(
                endpoint, data=batch, headers={"Content-Type": "application/x-protobuf"}
            ) as response:
                await response.read()
                failed = response.status >= 300  # noqa: PLR2004 - the first status that is no success
        except (aiohttp.ClientError, TimeoutError, OSError):
            failed = True
        if failed:
            self.dropped += 1
            logger.debug("a batch of spans was dropped: the collector did not take it")
        else:
            self.sent += 1
