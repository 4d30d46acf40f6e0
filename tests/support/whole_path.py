"""Router, parent, enclave and GPU worker, all real and each listening, with a tenant in front: for tests over the wire.

All in one process, on loopback and Unix sockets. What stands in: the NSM and KMS (`tests/unit/enclave/harness.py`), the
synthetic engine, and the registry in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from dataplane.mesh.address import UnixAddress
from dataplane.mesh.lifecycle import Stop
from dataplane.mesh.settings import load_settings
from dataplane.parent.__main__ import serve
from dataplane.parent.settings import ParentSettings
from dataplane.protocol.envelope import RequestSealer
from dataplane.protocol.header import RequestHeader
from dataplane.worker.assemble import make_worker
from dataplane.worker.server import WorkerServer
from dataplane.worker.settings import WorkerSettings
from observability.forward import SpanForwarder
from observability.tracing import Telemetry
from stacks.local.synthetic import SyntheticFactory
from stacks.local.synthetic_cost import SyntheticCosts
from tests.support.parent_host import FixedCredentials
from tests.unit.enclave.harness import Enclave
from tests.unit.enclave.harness import enclave as running_enclave
from tests.unit.router.harness import KMS_KEY, POOL, Client, Reply, RunningRouter, record
from tests.unit.router.harness import running as running_router

INSTANCE = "i-0aaaabbbbccccdddd"
OTHER_KEY = KMS_KEY[:-1] + "0"
"""A second KMS key that is registered for the tenant."""
PROMPT = "a prompt that nobody in between may read"
STORED_POOLS = (POOL, "other", "broken")
"""Pools in the worker's store; the last one cannot be loaded."""
ABSENT_POOL = "absent"
"""A pool that the host's record names and its worker does not have."""
READY_S = 20.0
LONG_TOKENS = 4_000
"""An answer of at least four seconds at the synthetic engine's 1 ms a step: longer than any test holds it."""

Sealed = tuple[bytes, RequestSealer, RequestHeader]


def chat(max_tokens: int = 4) -> bytes:
    return json.dumps(
        {"model": POOL, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": max_tokens, "stream": True}
    ).encode()


@dataclass(kw_only=True)
class Options:
    """What is unusual about one arrangement: settings of each part."""

    router: Mapping[str, Any] = field(default_factory=dict)
    tenant: Mapping[str, Any] = field(default_factory=dict)
    parent: Mapping[str, str] = field(default_factory=dict)
    enclave: Mapping[str, Any] = field(default_factory=dict)
    worker: Mapping[str, Any] = field(default_factory=dict)
    step_s: float = 0.001
    parent_telemetry: Telemetry | None = None
    spans: SpanForwarder | None = None
    """Where the parent hands on what enclave and worker relay; nowhere without one."""
    hosts_tls: ssl.SSLContext | None = None
    """How these tests themselves reach a parent that speaks TLS."""


@dataclass
class WholePath:
    """Every part at hand, and the tenant's side of a request."""

    router: RunningRouter
    enclave: Enclave
    worker: WorkerServer
    worker_stop: Stop
    parent_stop: Stop
    parent_port: int
    hosts_tls: ssl.SSLContext | None

    @property
    def parent_address(self) -> str:
        """The parent's URL."""
        return _address(self.parent_port, self.hosts_tls)

    def seal(self, body: bytes | None = None, *, key: str = KMS_KEY, expires_in_s: int = 600, **changes: Any) -> Sealed:
        """A sealed request of the tenant, and what opens its answer."""
        context, _, _ = self.enclave.session(expires_in_s=expires_in_s)
        session = (context, *self.enclave.kms.wrap(context, key))
        return self.enclave.seal(chat() if body is None else body, session=session, kms=key, **changes)

    async def register(self, address: str) -> None:
        """Report the host under an address."""
        await self.router.put(record(INSTANCE, address, pools=(*STORED_POOLS, ABSENT_POOL)))

    async def ask(self, sealed: Sealed | None = None, *, body: bytes | None = None, **headers: str | None) -> Reply:
        """Send a sealed request (or other bytes) to the router."""
        data = (sealed or self.seal())[0] if body is None else body
        return await self.router.infer(data, **headers)

    async def ask_parent(self, data: bytes) -> Reply:
        """Send raw bytes to the parent, past the router."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.parent_port, ssl=self.hosts_tls)
        client = Client(reader, writer)
        try:
            await client.send(data)
            return await client.reply()
        finally:
            await client.close()

    @contextlib.asynccontextmanager
    async def busy(self, *, pool: str = POOL) -> AsyncIterator[None]:
        """Have one long answer under way while the block runs; it is given up at the end."""
        sealed = self.seal(chat(max_tokens=LONG_TOKENS), model=pool)
        asking = asyncio.create_task(self.ask(sealed, x_model_pool=pool))
        try:
            async with asyncio.timeout(READY_S):
                while not self.worker.pools.engine_load().running:
                    assert not asking.done(), f"the long answer is over: {asking.result()}"
                    await asyncio.sleep(0.005)
            yield
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)


@contextlib.asynccontextmanager
async def whole_path(folder: Path, options: Options | None = None) -> AsyncIterator[WholePath]:
    """Bring everything up, wait until the host is ready, and take it down."""
    options = options or Options()
    async with contextlib.AsyncExitStack() as stack:
        enclave = await stack.enter_async_context(running_enclave(folder, bound=False, **options.enclave))
        worker, worker_stop = await stack.enter_async_context(_running_worker(folder, options))
        parent_stop = Stop()
        port = await stack.enter_async_context(_running_parent(folder, enclave.address, parent_stop, options))
        router = await stack.enter_async_context(
            running_router(folder, tenants={"kms_keys": [KMS_KEY, OTHER_KEY], **options.tenant}, **options.router)
        )
        path = WholePath(router, enclave, worker, worker_stop, parent_stop, port, options.hosts_tls)
        await path.register(path.parent_address)
        yield path


@contextlib.asynccontextmanager
async def _running_worker(folder: Path, options: Options) -> AsyncIterator[tuple[WorkerServer, Stop]]:
    for pool in STORED_POOLS:
        models = folder / "models" / pool
        models.mkdir(parents=True)
        (models / "model.safetensors").write_bytes(pool.encode())
        (models / "config.json").write_text("{}")
    (folder / "models" / "broken" / "mrgc.json").write_text("this is no JSON")
    address = UnixAddress(f"{folder}/worker.sock")
    fields: dict[str, Any] = {"default_model_pool": POOL, "drain_timeout_s": 0.1, **options.worker}
    settings = WorkerSettings(worker_listen_address=address, fsx_mount_point=folder, **fields)
    costs = SyntheticCosts(step_s=options.step_s, max_num_seqs=settings.max_num_seqs or 64)
    server = make_worker(
        settings,
        factory=SyntheticFactory(seed=0, costs=costs, clock_ms=lambda: time.time_ns() // 1_000_000),
        tpm=None,
        clock_ms=lambda: time.time_ns() // 1_000_000,
        monotonic=time.monotonic,
    )
    stop = Stop()
    task = asyncio.create_task(server.run(address, stop))
    try:
        yield server, stop
    finally:
        stop.request()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def _running_parent(folder: Path, enclave: UnixAddress, stop: Stop, options: Options) -> AsyncIterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environ = {
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": str(port),
        "ENCLAVE_PROXY_ADDRESS": str(enclave),
        "WORKER_ADDRESS": f"unix:{folder}/worker.sock",
        "FSX_MOUNT_POINT": str(folder),
        "INSTANCE_ID": INSTANCE,
        "POLL_S": "0.02",
        "DRAIN_TIMEOUT_S": "0.3",
        **options.parent,
    }
    telemetry = options.parent_telemetry or Telemetry.from_environment("parent", environ={})
    serving = serve(
        load_settings(ParentSettings, environ),
        stop,
        telemetry=telemetry,
        spans=options.spans or SpanForwarder(None),
        registry=None,
        credentials=FixedCredentials(),
    )
    task = asyncio.create_task(serving)
    try:
        await _ready(f"{_address(port, options.hosts_tls)}/health", options.hosts_tls, task)
        yield port
    finally:
        stop.request()
        await asyncio.gather(task, return_exceptions=True)
        telemetry.shutdown()


def _address(port: int, tls: ssl.SSLContext | None) -> str:
    return f"http{'' if tls is None else 's'}://127.0.0.1:{port}"


async def _ready(url: str, tls: ssl.SSLContext | None, serving: asyncio.Task[None]) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(READY_S):
        while True:
            assert not serving.done(), f"the parent ended: {serving}"
            with contextlib.suppress(aiohttp.ClientConnectionError):
                async with session.get(url, ssl=True if tls is None else tls) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.02)
