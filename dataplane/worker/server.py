"""The GPU worker's one door: a Unix socket that speaks the host link, one operation a connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dataplane.mesh.address import Address, start_server
from dataplane.mesh.lifecycle import Stop
from dataplane.mesh.linkio import LinkStream
from dataplane.protocol import cbor
from dataplane.protocol.errors import LinkError, MrgcError, ProblemError
from dataplane.protocol.link import LinkType
from dataplane.worker.engine import EngineFactory
from dataplane.worker.identity import CHALLENGE_BYTES, WorkerIdentity
from dataplane.worker.inference import RECEIVE_TIMEOUT_S, SEND_TIMEOUT_S, Inference, problem_map
from dataplane.worker.pools import Pools
from observability.disclosure import Where, disclosed

OPEN_TIMEOUT_S: Final = 10.0
"""How long a connection may say nothing; the parent opens one to use it at once."""

FAREWELL_S: Final = 2.0
"""For requests in flight to be told that the engine is gone, before their connections are cut."""

MAX_CONNECTIONS: Final = 1024
"""Connections at once. A request holds one, so this is above any queue that makes sense on one host; each costs
up to 128 KiB of buffers."""

logger = logging.getLogger(__name__)


class WorkerDeadError(MrgcError):
    """An engine died or hangs: the worker ends, and whoever supervises it starts a fresh one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerServer:
    """Serves `infer`, `bind` and `stats` until it is told to stop, or an engine dies."""

    identity: WorkerIdentity
    pools: Pools
    factory: EngineFactory
    inference: Inference
    default_pool: str
    drain_timeout_s: float
    monotonic: Callable[[], float]

    async def run(self, address: Address, stop: Stop) -> None:
        """Listen at once, load the default pool, and serve; raises `WorkerDeadError`, `AddressError`, `ProblemError`.

        The socket is there before the model is: `stats` then says `ready: false`, and requests wait for the load.
        """
        connections: set[asyncio.Task[None]] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            if task is None or len(connections) >= MAX_CONNECTIONS:
                writer.transport.abort()
                return
            connections.add(task)
            try:
                await self._connection(LinkStream(reader, writer))
            finally:
                connections.discard(task)

        server = await start_server(accept, address)
        logger.info("listening at %s", address)
        try:
            await self._until_stopped(stop)
            server.close()
            await self._drain(connections)
        except WorkerDeadError:
            server.close()
            if connections:
                await asyncio.wait(set(connections), timeout=FAREWELL_S)
            raise
        finally:
            server.close()
            for task in list(connections):
                task.cancel()
            await asyncio.gather(*connections, return_exceptions=True)
            await self.pools.close()
            await self.factory.close()

    async def _until_stopped(self, stop: Stop) -> None:
        """Load the default pool and wait; raises when it can't be loaded and when an engine dies."""
        load = asyncio.create_task(self._load_default(), name="load-default")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        dying = asyncio.create_task(self.pools.wait_failed(), name="watch-engines")
        try:
            waiting: set[asyncio.Task[None] | asyncio.Task[str]] = {load, stopping, dying}
            while not stopping.done():
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if dying.done():
                    raise WorkerDeadError(dying.result())
                if load in waiting and load.done():
                    load.result()
                    waiting.discard(load)
        finally:
            for task in (load, stopping, dying):
                task.cancel()
            await asyncio.gather(load, stopping, dying, return_exceptions=True)

    async def _load_default(self) -> None:
        async with self.pools.use(self.default_pool):
            pass

    async def _drain(self, connections: set[asyncio.Task[None]]) -> None:
        """Give requests in flight their time."""
        if connections:
            logger.info("draining %d connections", len(connections))
            await asyncio.wait(set(connections), timeout=self.drain_timeout_s)

    async def _connection(self, link: LinkStream) -> None:
        """Serve one connection to its end; its faults are its own."""
        try:
            await self._operation(link)
        except ProblemError as problem:
            await _refuse(link, problem)
        except LinkError as error:
            logger.warning("a connection broke: %s", error)
            link.abort()
        except Exception:
            # The last line of defence: one connection's bug must not end the others. No request text is in it.
            logger.exception("a connection failed")
            link.abort()
        finally:
            await link.close()

    async def _operation(self, link: LinkStream) -> None:
        message = await link.receive(OPEN_TIMEOUT_S)
        if message is None:
            return
        opening = message.map() if message.type == LinkType.OPEN else {}
        match opening.get("op"):
            case "infer":
                await self.inference.serve(link, opening)
            case "bind":
                await self._bind(link)
            case "stats":
                await link.send(LinkType.REPLY, await self.stats(), timeout_s=SEND_TIMEOUT_S)
            case _:
                raise ProblemError("host-failed", "The GPU worker knows the operations infer, bind and stats.")

    async def _bind(self, link: LinkStream) -> None:
        challenge = b""
        while (message := await link.receive(RECEIVE_TIMEOUT_S)) is not None and message.type == LinkType.HOP_DATA:
            challenge += message.payload
            if len(challenge) > CHALLENGE_BYTES:
                raise ProblemError("host-failed", f"The challenge is over {CHALLENGE_BYTES} bytes.")
        if message is None or message.type != LinkType.HOP_END:
            raise LinkError("a bind ended before its challenge did")
        answer = cbor.encode(await self.identity.bind(challenge))
        await link.send(LinkType.HOP_DATA, answer, timeout_s=SEND_TIMEOUT_S)
        await link.send(LinkType.HOP_END, timeout_s=SEND_TIMEOUT_S)

    async def stats(self) -> dict[str, object]:
        """The reply to `stats`: docs/worker.md names every member, observability/disclosure.py why it may leave."""
        gpu, in_flight = self.factory.gpu(), self.inference.in_flight
        running, waiting = self.pools.occupancy(in_flight)
        reply = {
            "engine": self.factory.kind,
            "ready": self.pools.is_loaded(self.default_pool),
            "epoch": self.identity.epoch,
            "accepted": list(self.identity.accepted),
            "waiting": waiting,
            "running": running,
            "in_flight": running + waiting,
            "gpu": {"available": gpu.available, "total_mb": gpu.total_mb, "used_mb": gpu.used_in_sixteenths_mb},
            "models": await self.pools.describe(),
            **self.inference.tally.as_maps(now_s=self.monotonic()),
        }
        return disclosed(Where.STATS, reply)


async def _refuse(link: LinkStream, problem: ProblemError) -> None:
    try:
        await link.send(LinkType.PROBLEM, problem_map(problem), timeout_s=SEND_TIMEOUT_S)
    except LinkError:
        link.abort()
