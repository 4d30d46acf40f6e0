"""A fake enclave and worker that speak the host link over Unix sockets, and a whole parent in front of them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dataplane.mesh.address import UnixAddress, start_server
from dataplane.mesh.lifecycle import Stop
from dataplane.mesh.linkio import LinkStream
from dataplane.mesh.settings import load_settings
from dataplane.parent.__main__ import serve
from dataplane.parent.credentials import Credentials
from dataplane.parent.settings import ParentSettings
from dataplane.protocol.errors import LinkError
from dataplane.protocol.link import LinkMessage, LinkType
from dataplane.registry.memory import MemoryRegistry
from observability.forward import SpanForwarder
from observability.tracing import Telemetry

PATIENCE_S = 10.0
HEADERS = {
    "Content-Type": "application/octet-stream",
    "X-KMS-Key-ARN": "arn:aws:kms:us-east-1:111122223333:key/mrk-1",
    "X-Tenant-ID": "tenant-a",
    "X-Model-Pool": "tiny",
    "X-Request-ID": "req-1",
}
EPOCH = bytes(range(16))

Script = Callable[["Peer"], Awaitable[None]]


async def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until `condition` holds; `what` is the reason given when it never does."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, f"{what}: did not happen within {PATIENCE_S:g} s"
        await asyncio.sleep(0.01)


class Peer:
    """One connection from the parent's side of the link, as a script sees it."""

    def __init__(self, link: LinkStream, opening: dict[str, Any]) -> None:
        self.link = link
        self.opening = opening

    async def send(self, kind: LinkType, content: bytes | dict[str, Any] = b"") -> None:
        await self.link.send(kind, content, timeout_s=PATIENCE_S)

    async def receive(self) -> LinkMessage | None:
        return await self.link.receive(PATIENCE_S)

    async def until(self, end: LinkType) -> bytes:
        """The payloads up to a message of type `end`."""
        data = b""
        while (message := await self.receive()) is not None:
            if message.type is end:
                return data
            data += message.payload
        raise AssertionError(f"the link ended before {end.name}")

    async def last_word(self) -> LinkType | None:
        """How the parent left: its ABORT, or None where it only closed."""
        try:
            while (message := await self.receive()) is not None:
                if message.type is LinkType.ABORT:
                    return LinkType.ABORT
        except LinkError:
            return None
        return None


class FakeSide:
    """A server on the host link that answers each operation with a script."""

    def __init__(self, path: Path) -> None:
        self.address = UnixAddress(str(path))
        self.scripts: dict[str, Script] = {}
        self.peers: list[Peer] = []
        self.open = 0
        self.tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None

    def openings(self, op: str) -> list[dict[str, Any]]:
        return [peer.opening for peer in self.peers if peer.opening["op"] == op]

    async def start(self) -> None:
        self._server = await start_server(self._serve, self.address)

    async def stop(self) -> None:
        """Die at once: no more connections, and the ones there are cut."""
        if self._server is not None:
            self._server.close()
        Path(self.address.path).unlink(missing_ok=True)
        for peer in self.peers:
            peer.link.abort()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.open += 1
        link = LinkStream(reader, writer)
        try:
            first = await link.receive(PATIENCE_S)
            if first is None:
                return
            peer = Peer(link, first.map())
            self.peers.append(peer)
            await self.scripts[peer.opening["op"]](peer)
            await link.close()
        except (LinkError, asyncio.CancelledError):
            pass  # the parent went, or the test has ended
        finally:
            link.abort()
            self.open -= 1
            self.tasks.discard(task)


class FakeEnclave(FakeSide):
    """Well by default: has what it was given, accepts the worker, answers with what it read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.credentials: dict[str, Any] | None = None
        self.epoch = b""
        self.scripts = {
            "health": self.health,
            "credentials": self.take_credentials,
            "bind": self.bind,
            "attest": self.attest,
            "infer": self.echo,
        }

    def forget(self) -> None:
        """Be as after a restart."""
        self.credentials, self.epoch = None, b""

    async def health(self, peer: Peer) -> None:
        ready = self.credentials is not None and bool(self.epoch)
        await peer.send(
            LinkType.REPLY,
            {
                "ready": ready,
                "credentials": self.credentials is not None,
                "worker": bool(self.epoch),
                "assurance": 0,
                "data_keys": 2,
                "replay_entries": 5,
                "pcr0": bytes(48),
                "worker_epoch": self.epoch,
                "kms_calls": 3,
                "requests": 4,
            },
        )

    async def take_credentials(self, peer: Peer) -> None:
        self.credentials = peer.opening
        await peer.send(LinkType.REPLY, {"ok": True})

    async def bind(self, peer: Peer) -> None:
        await peer.send(LinkType.HOP_DATA, b"c" * 32)
        await peer.send(LinkType.HOP_END)
        answer = await peer.until(LinkType.HOP_END)
        self.epoch = answer[-16:]
        await peer.send(LinkType.REPLY, {"assurance": 0, "epoch": self.epoch})

    async def attest(self, peer: Peer) -> None:
        await peer.send(LinkType.REPLY, {"document": b"document over " + peer.opening["nonce"]})

    async def echo(self, peer: Peer) -> None:
        body = await peer.until(LinkType.END)
        await peer.send(LinkType.HOP_DATA, b"hop:" + body)
        await peer.send(LinkType.HOP_END)
        answer = await peer.until(LinkType.HOP_END)
        await peer.send(LinkType.DATA, answer)
        await peer.send(LinkType.DATA, b"|receipt")
        await peer.send(LinkType.SPANS, b"enclave spans")
        await peer.send(LinkType.END)


class FakeWorker(FakeSide):
    """Well by default: binds with its epoch, answers with what it read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.epoch = EPOCH
        self.scripts = {"stats": self.stats, "bind": self.bind, "infer": self.generate}

    async def stats(self, peer: Peer) -> None:
        await peer.send(
            LinkType.REPLY,
            {
                "engine": "synthetic",
                "ready": True,
                "epoch": self.epoch,
                "waiting": 1,
                "running": 2,
                "kv_cache_usage": 0.25,
                "gpu": {"available": True, "total_mb": 46068, "used_mb": 11517},
                "models": {
                    "fsx_available": True,
                    "loaded": ["tiny"],
                    "available": ["tiny", "large"],
                    "total_loads": 3,
                    "failed_loads": 1,
                    "avg_load_s": 1.5,
                    "details": {"tiny": {"digest": "ab", "loads": 3}},
                },
                "requests": {"total": 40, "failed": 1, "avg_s": 0.75},
                "released": {
                    "requests": 32,
                    "prompt_tokens": 9000,
                    "completion_tokens": 4000,
                    "cached_tokens": 1000,
                    "prefill_s": 6,
                    "decode_s": 18,
                },
            },
        )

    async def bind(self, peer: Peer) -> None:
        await peer.until(LinkType.HOP_END)
        await peer.send(LinkType.HOP_DATA, b"the worker's answer" + self.epoch)
        await peer.send(LinkType.HOP_END)

    async def generate(self, peer: Peer) -> None:
        request = await peer.until(LinkType.HOP_END)
        await peer.send(LinkType.HOP_DATA, b"<" + request + b">")
        await peer.send(LinkType.SPANS, b"worker spans")
        await peer.send(LinkType.HOP_END)


class FixedCredentials:
    """A credential source whose answer a test sets."""

    def __init__(self) -> None:
        self.answer: Credentials | Exception = Credentials("AKIA1", "secret-1", "token-1", 2**42)

    async def fetch(self) -> Credentials:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class RecordingForwarder(SpanForwarder):
    """Keeps what it was given."""

    def __init__(self) -> None:
        super().__init__(None)
        self.batches: list[bytes] = []

    def submit(self, batch: bytes) -> None:
        self.batches.append(batch)


class Host:
    """A whole parent between a fake enclave and a fake worker."""

    def __init__(self, folder: Path, port: int, limits: Mapping[str, str] | None = None) -> None:
        self.enclave = FakeEnclave(folder / "enclave.sock")
        self.worker = FakeWorker(folder / "worker.sock")
        self.credentials = FixedCredentials()
        self.registry = MemoryRegistry(clock_ms=lambda: time.time_ns() // 1_000_000)
        self.spans = RecordingForwarder()
        self.finished_spans = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.finished_spans))
        self.telemetry = Telemetry(provider)
        self.stop = Stop()
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.environ = {
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": str(port),
            "ENCLAVE_PROXY_ADDRESS": str(self.enclave.address),
            "WORKER_ADDRESS": str(self.worker.address),
            "INSTANCE_ID": "i-test",
            "POLL_S": "0.02",
            "HEARTBEAT_S": "0.05",
            "DRAIN_TIMEOUT_S": "5",
            "FSX_MOUNT_POINT": str(folder),
        } | dict(limits or {})
        self.session: aiohttp.ClientSession
        self.task: asyncio.Task[None]

    async def start(self) -> None:
        await self.enclave.start()
        await self.worker.start()
        self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S))
        self.task = self.serving()

    def serving(self) -> asyncio.Task[None]:
        """The parent itself, under this host's environment."""
        return asyncio.create_task(
            serve(
                load_settings(ParentSettings, self.environ),
                self.stop,
                telemetry=self.telemetry,
                spans=self.spans,
                registry=self.registry,
                credentials=self.credentials,
            )
        )

    async def ready(self) -> None:
        until = time.monotonic() + PATIENCE_S
        while (await self.health())[0] != 200:
            assert time.monotonic() < until, f"the parent never became ready: {await self.health()}"
            await asyncio.sleep(0.02)

    async def health(self) -> tuple[int, dict[str, Any]]:
        try:
            async with self.session.get(f"{self.url}/health") as response:
                return response.status, await response.json()
        except aiohttp.ClientConnectionError:
            assert not self.task.done(), "the parent has ended"
            return 0, {}

    async def infer(self, body: Any = b"sealed", **headers: str) -> tuple[int, bytes]:
        """Send one request whole; returns status and body."""
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.post(f"{self.url}/inference", data=body, headers=HEADERS | extra) as response:
            return response.status, await response.read()

    async def close(self) -> None:
        await self.session.close()
        self.stop.request()
        with contextlib.suppress(asyncio.CancelledError):
            done, _ = await asyncio.wait({self.task}, timeout=PATIENCE_S)
            assert done, "the parent did not stop"
        await self.enclave.stop()
        await self.worker.stop()
        self.telemetry.shutdown()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.asynccontextmanager
async def running(host: Host) -> AsyncIterator[Host]:
    """Start a host, wait until it is ready, and take it down."""
    await host.start()
    try:
        await host.ready()
        yield host
    finally:
        await host.close()


@pytest.fixture
async def host(tmp_path: Path, free_port: int) -> AsyncIterator[Host]:
    async with running(Host(tmp_path, free_port)) as host:
        yield host
