"""A worker's client, and workers with the synthetic engine, for the tests beside."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dataplane.mesh.address import UnixAddress, connect
from dataplane.mesh.lifecycle import Stop
from dataplane.mesh.linkio import LinkStream
from dataplane.protocol import cbor
from dataplane.protocol.hop import HopHead, HopMessage, HopTail, seal_hop
from dataplane.protocol.link import LinkMessage, LinkType
from dataplane.worker.assemble import make_worker
from dataplane.worker.engine import EngineFactory
from dataplane.worker.server import WorkerServer
from dataplane.worker.settings import WorkerSettings
from dataplane.worker.tpm import Tpm

TIMEOUT_S = 20.0
NOW_MS = 1_800_000_000_000


@dataclass(slots=True)
class Answered:
    """Everything that one `infer` gave back."""

    head: HopHead | None = None
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)
    tail: HopTail | None = None
    spans: bytes | None = None
    problem: dict[str, Any] | None = None
    aborted: dict[str, Any] | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class WorkerClient:
    """Speaks to a worker's socket as an enclave does through the parent."""

    def __init__(self, address: UnixAddress) -> None:
        self.address = address
        self.binding: dict[str, Any] = {}

    async def link(self) -> LinkStream:
        return LinkStream(*await connect(self.address, timeout_s=TIMEOUT_S))

    async def stats(self) -> dict[str, Any]:
        link = await self.link()
        await link.send(LinkType.OPEN, {"op": "stats"}, timeout_s=TIMEOUT_S)
        reply = await link.receive(TIMEOUT_S)
        await link.close()
        assert reply is not None, "stats must be answered"
        assert reply.type == LinkType.REPLY, "stats is answered by REPLY"
        return reply.map()

    async def bind(self, challenge: bytes = b"c" * 32) -> dict[str, Any]:
        link = await self.link()
        await link.send(LinkType.OPEN, {"op": "bind"}, timeout_s=TIMEOUT_S)
        await link.send(LinkType.HOP_DATA, challenge, timeout_s=TIMEOUT_S)
        await link.send(LinkType.HOP_END, timeout_s=TIMEOUT_S)
        received = b""
        while (message := await link.receive(TIMEOUT_S)) is not None and message.type == LinkType.HOP_DATA:
            received += message.payload
        await link.close()
        if message is not None and message.type == LinkType.PROBLEM:
            return message.map()
        self.binding = cbor.decode_map(received, max_bytes=65_536)
        return self.binding

    async def begin(self, message: HopMessage, *, deadline_ms: int = 20_000) -> tuple[LinkStream, Any]:
        """Send a whole request; return the connection and what opens the answer."""
        binding = self.binding or await self.bind()
        _, sealer = seal_hop(binding["public_key"], binding["epoch"], binding["config_digest"], os.urandom(16))
        link = await self.link()
        opening = {"op": "infer", "request_id": "r-1", "deadline_ms": deadline_ms}
        await link.send(LinkType.OPEN, opening, timeout_s=TIMEOUT_S)
        sealed = sealer.prefix() + b"".join(sealer.seal_message(message.encode()))
        await link.send(LinkType.HOP_DATA, sealed, timeout_s=TIMEOUT_S)
        await link.send(LinkType.HOP_END, timeout_s=TIMEOUT_S)
        return link, sealer.response_opener()

    async def infer(self, message: HopMessage, *, deadline_ms: int = 20_000) -> Answered:
        link, opener = await self.begin(message, deadline_ms=deadline_ms)
        answered = Answered()
        while (received := await link.receive(TIMEOUT_S)) is not None:
            if not _take(received, opener, answered):
                break
        await link.close()
        return answered

    async def ask(self, path: str, body: object, *, pool: str = "tiny", salt: str = "salt-a", **more: Any) -> Answered:
        """Ask with a JSON body, or with raw bytes."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields: dict[str, Any] = {"priority": 0, "deadline_ms": 20_000, "traceparent": None} | more
        return await self.infer(HopMessage(path=path, body=raw, model=pool, cache_salt=salt, **fields))


def _take(received: LinkMessage, opener: Any, answered: Answered) -> bool:
    """Take one message into `answered`; return whether more may come."""
    if received.type == LinkType.PROBLEM:
        answered.problem = received.map()
        return False
    if received.type == LinkType.ABORT:
        answered.aborted = received.map()
        return False
    if received.type == LinkType.SPANS:
        answered.spans = received.payload
        return True
    if received.type == LinkType.HOP_END:
        opener.finish()
        return False
    for opened in opener.feed(received.payload):
        if answered.head is None:
            answered.head = HopHead.decode(opened.data)
        elif opened.final:
            answered.tail = HopTail.decode(opened.data)
        else:
            answered.body += opened.data
            answered.chunks.append(opened.data)
    return True


def make_pool(mount: Path, name: str, *, options: Mapping[str, object] | None = None) -> Path:
    folder = mount / "models" / name
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(name.encode())
    (folder / "config.json").write_text("{}")
    if options is not None:
        (folder / "mrgc.json").write_text(json.dumps(options))
    return folder


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """A model store with one pool."""
    make_pool(tmp_path / "fsx", "tiny")
    return tmp_path / "fsx"


RunWorker = Callable[..., Any]


@pytest.fixture
def run_worker(tmp_path: Path, mount: Path) -> RunWorker:
    """Run a worker with a given engine; yields server and client, the default pool loaded."""

    @asynccontextmanager
    async def run(
        factory: EngineFactory, *, tpm: Tpm | None = None, wait: bool = True, **more: Any
    ) -> AsyncIterator[tuple[WorkerServer, WorkerClient, asyncio.Task[None]]]:
        address = UnixAddress(str(tmp_path / "w.sock"))
        fields: dict[str, Any] = {"default_model_pool": "tiny", "drain_timeout_s": 5.0} | more
        settings = WorkerSettings(worker_listen_address=address, fsx_mount_point=mount, **fields)
        server = make_worker(
            settings,
            factory=factory,
            tpm=tpm,
            clock_ms=lambda: NOW_MS,
            monotonic=asyncio.get_running_loop().time,
        )
        stop = Stop()
        task = asyncio.create_task(server.run(address, stop))
        client = WorkerClient(address)
        try:
            await until(lambda: asyncio.sleep(0, Path(address.path).exists()), task)
            if wait:
                await until(lambda: _ready(client), task)
            yield server, client, task
        finally:
            stop.request()
            await asyncio.gather(task, return_exceptions=True)

    return run


async def _ready(client: WorkerClient) -> bool:
    return bool((await client.stats())["ready"])


async def until(condition: Callable[[], Awaitable[bool]], task: asyncio.Task[None] | None = None) -> None:
    """Wait until something becomes true, for at most ten seconds; a task that fails meanwhile fails the wait."""
    async with asyncio.timeout(10):
        while not await condition():
            if task is not None and task.done():
                await task
            await asyncio.sleep(0.01)


@pytest.fixture
def wait_until() -> Callable[..., Awaitable[None]]:
    return until
