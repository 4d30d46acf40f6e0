"""A listener that forwards bytes: accepts, opens the other side, copies, counts (enclave proxy, enclave bridge)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from dataplane.mesh.address import Address, AddressError, start_server
from dataplane.mesh.pump import CHUNK_BYTES, Stream, close_writer, pump

MEMORY_PER_CONNECTION = 8 * CHUNK_BYTES
"""Most bytes that one connection holds: each direction has a reader that stops at twice its limit of `CHUNK_BYTES`
and a writer that holds one chunk over asyncio's 64 KiB high-water mark. 512 connections hold 256 MiB at most."""

logger = logging.getLogger(__name__)

Opener = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[Stream | None]]
"""Opens the far side for an accepted connection, or answers it and returns None."""


@dataclass(slots=True)
class Counters:
    """What a listener has done; `up` is towards the far side, bytes."""

    accepted: int = 0
    active: int = 0
    over_limit: int = 0
    unreachable: int = 0
    idle: int = 0
    broken: int = 0
    up: int = 0
    down: int = 0


class Forwarder:
    """Forwards bytes between whoever connects to `address` and what `opener` opens for it."""

    def __init__(
        self,
        name: str,
        address: Address,
        opener: Opener,
        *,
        max_connections: int,
        idle_timeout_s: float,
        monotonic: Callable[[], float],
        over_limit_answer: bytes = b"",
    ) -> None:
        """Bind nothing yet. `over_limit_answer` is written to a connection over `max_connections` before it ends."""
        self.name = name
        self.counters = Counters()
        self._address = address
        self._opener = opener
        self._max_connections = max_connections
        self._idle_timeout_s = idle_timeout_s
        self._monotonic = monotonic
        self._over_limit_answer = over_limit_answer
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen; raises `AddressError` when the address can't be bound."""
        self._server = await start_server(self._accept, self._address, limit=CHUNK_BYTES)

    @property
    def port(self) -> int:
        """The TCP port that `start` bound, for an address with port 0; raises `AddressError` where there is none."""
        name = self._server.sockets[0].getsockname() if self._server is not None and self._server.sockets else None
        if not isinstance(name, tuple):
            raise AddressError(f"The listener {self.name} at {self._address} has no TCP port; start it first.")
        return int(name[1])

    async def close(self, *, drain_s: float) -> None:
        """Accept no more, give connections `drain_s` seconds to end, then cancel the rest."""
        if self._server is not None:
            self._server.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=drain_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Own the connection's task, so that `close` can end it."""
        task = asyncio.current_task()
        if task is None:  # pragma: no cover - asyncio runs handlers in tasks
            raise RuntimeError("a connection handler runs in a task")
        self._tasks.add(task)
        self.counters.accepted += 1
        self.counters.active += 1
        try:
            if self.counters.active > self._max_connections:
                self.counters.over_limit += 1
                writer.write(self._over_limit_answer)
                return
            far = await self._opener(reader, writer)
            if far is None:
                self.counters.unreachable += 1
                return
            report = await pump((reader, writer), far, idle_timeout_s=self._idle_timeout_s, monotonic=self._monotonic)
            self._count(report.ended, report.up, report.down)
        except OSError:
            self.counters.broken += 1
        except asyncio.CancelledError:
            # Ours, from `close`: asyncio.streams would log a handler that ends cancelled.
            writer.transport.abort()
        finally:
            self.counters.active -= 1
            self._tasks.discard(task)
            await close_writer(writer)

    def _count(self, ended: str, up: int, down: int) -> None:
        self.counters.up += up
        self.counters.down += down
        self.counters.idle += ended == "idle"
        self.counters.broken += ended == "broken"
