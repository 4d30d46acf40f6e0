"""Bytes between a client and the endpoint that was decided for it, both ways, and resets passed on as resets.

Global Accelerator never moves an established connection and never ends one cleanly that broke: when the endpoint dies,
the client sees a reset, so that nobody takes half an answer for a whole one.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections import defaultdict

from stacks.local.accelerator.rules import AcceleratorError
from stacks.local.accelerator.state import AcceleratorState

CHUNK_BYTES = 65_536
MAX_CONNECTIONS = 2_000
"""Client connections at once: two descriptors each, within the 4,096 that a shell commonly grants."""

logger = logging.getLogger(__name__)


class Relay:
    """Accepts connections, asks the rules once for each, and passes bytes until either side ends."""

    def __init__(self, state: AcceleratorState, *, connect_timeout_s: float) -> None:
        """Take the state that decides."""
        self._state = state
        self._connect_timeout_s = connect_timeout_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_endpoint: defaultdict[str, set[asyncio.Task[None]]] = defaultdict(set)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client connection; owns and closes both ends."""
        task = asyncio.current_task()
        if task is None or len(self._tasks) >= MAX_CONNECTIONS:
            reset(writer)
            return
        self._tasks.add(task)
        try:
            await self._serve(task, reader, writer)
        except asyncio.CancelledError:
            # Stopping, or the endpoint was cut. asyncio logs a cancelled stream handler as a fault, so end it here.
            reset(writer)
        finally:
            self._tasks.discard(task)

    def cut(self, endpoint: str) -> None:
        """Reset every connection to this endpoint."""
        for task in self._by_endpoint[endpoint]:
            task.cancel()

    async def close(self) -> None:
        """Cut every connection and wait until all are gone."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        peer = writer.get_extra_info("peername")
        try:
            decision = self._state.decide(str(peer[0]) if peer else "")
        except AcceleratorError:
            reset(writer)
            return
        endpoint = self._state.endpoints[decision.endpoint]
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                far_reader, far_writer = await asyncio.open_connection(endpoint.host, endpoint.port, limit=CHUNK_BYTES)
        except (OSError, TimeoutError):
            self._state.refused[endpoint.name] += 1
            reset(writer)
            return
        self._state.opened[endpoint.name] += 1
        self._state.active[endpoint.name] += 1
        self._by_endpoint[endpoint.name].add(task)
        try:
            await _both_ways((reader, writer), (far_reader, far_writer))
        except asyncio.CancelledError:
            reset(far_writer)
            raise
        finally:
            self._state.active[endpoint.name] -= 1
            self._by_endpoint[endpoint.name].discard(task)
            for end in (writer, far_writer):
                end.transport.abort()


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _both_ways(near: Stream, far: Stream) -> None:
    """Pass bytes both ways until both directions ended, or one broke: then reset the other end."""
    tasks = {
        asyncio.create_task(_pump(near[0], far[1]), name="to-endpoint"),
        asyncio.create_task(_pump(far[0], near[1]), name="to-client"),
    }
    try:
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        if pending or any(task.exception() is not None for task in done):
            reset(near[1])
            reset(far[1])
        else:
            for _, writer in (near, far):
                writer.close()
                await _closed(writer)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass one direction on; its end is passed on as a half close. Raises `OSError` when either side broke."""
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def _closed(writer: asyncio.StreamWriter) -> None:
    """Wait for a clean close, but not for ever: the peer may never read what is left."""
    try:
        async with asyncio.timeout(1.0):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        writer.transport.abort()


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST: linger on for 0 seconds, then close (socket(7), SO_LINGER)."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:  # The socket is gone already: nothing to reset.
            logger.debug("reset of a closed socket")
    writer.transport.abort()
