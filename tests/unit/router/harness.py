"""A real router on loopback, fake parents that speak raw HTTP/1.1, and a raw client: nothing between test and wire."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from dataplane.registry.host import HostRecord, HostState
from dataplane.registry.memory import MemoryRegistry
from dataplane.router.app import Router
from dataplane.router.settings import RouterSettings
from observability.tracing import Telemetry

REGION = "us-east-1"
API_KEY = "key-of-tenant-a"
KMS_KEY = "arn:aws:kms:us-east-1:111122223333:key/mrk-0123456789abcdef"
POOL = "tiny"
ENVELOPE = b"MRGC\x01" + b"sealed" * 50
ANSWER = b"MRGC\x01" + b"answer" * 20
WAIT_S = 10.0

ROUTE_HEADERS = {
    "Host": "router",
    "Content-Type": "application/octet-stream",
    "Authorization": f"Bearer {API_KEY}",
    "X-Tenant-ID": "tenant-a",
    "X-Model-Pool": POOL,
    "X-KMS-Key-ARN": KMS_KEY,
}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def record(instance_id: str, address: str, **changes: Any) -> HostRecord:
    values: dict[str, Any] = {
        "instance_id": instance_id,
        "region": REGION,
        "address": address,
        "pools": (POOL,),
        "state": HostState.READY,
        "queue_depth": 0,
        "running": 0,
        "capacity": 8,
        "latency_ms": 50.0,
        "health": 100,
        "assurance": 0,
        "engine": "synthetic",
        "reported_ms": now_ms(),
    }
    return HostRecord(**{**values, **changes})


def write_tenants(path: Path, **changes: Any) -> Path:
    tenant = {
        "id": "tenant-a",
        "api_key_sha256": [hashlib.sha256(API_KEY.encode()).hexdigest()],
        "kms_keys": [KMS_KEY],
        **changes,
    }
    other = {
        "id": "tenant-b",
        "api_key_sha256": [hashlib.sha256(b"key-of-tenant-b").hexdigest()],
        "kms_keys": [],
    }
    path.write_text(json.dumps({"tenants": [tenant, other]}))
    return path


@dataclass
class Exchange:
    """One request at a fake parent, and the pen to answer it with."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    line: str
    headers: dict[str, str]
    body: bytes = b""
    cut_off: asyncio.Event = field(default_factory=asyncio.Event)

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status: int = 200, content_type: str = "application/octet-stream", **more: str) -> None:
        lines = [f"HTTP/1.1 {status} X", f"Content-Type: {content_type}", "Transfer-Encoding: chunked"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in more.items()]
        await self.raw("\r\n".join([*lines, "", ""]).encode())

    async def chunk(self, data: bytes) -> None:
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n")

    async def answer(self, data: bytes = ANSWER) -> None:
        await self.head()
        await self.chunk(data)
        await self.end()

    async def problem(self, status: int, code: str, detail: str = "Because.", **more: str) -> None:
        document = {"type": f"urn:mrgc:error:{code}", "title": "t", "status": status, "detail": detail}
        await self.head(status, "application/problem+json", **more)
        await self.chunk(json.dumps(document).encode())
        await self.end()

    def cut(self) -> None:
        self.writer.transport.abort()

    async def wait_closed(self) -> bytes:
        """Wait until the router lets go of the connection; return what still came."""
        try:
            return await asyncio.wait_for(self.reader.read(), WAIT_S)
        except ConnectionError:
            return b""


Behaviour = Callable[[Exchange], Awaitable[None]]


async def answer_well(exchange: Exchange) -> None:
    await exchange.answer()


class FakeParent:
    """Speaks HTTP/1.1 by hand; `behave` answers each request, `early` answers before the body has been read."""

    def __init__(self, behave: Behaviour = answer_well, *, read_body: bool = True) -> None:
        self.behave = behave
        self.read_body = read_body
        self.exchanges: list[Exchange] = []
        self.arrived = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.address = ""

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self.server.sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                line, *rest = head.split("\r\n")
                pairs = (item.split(": ", 1) for item in rest if item)
                exchange = Exchange(reader, writer, line, {name.lower(): value for name, value in pairs})
                self.exchanges.append(exchange)
                self.arrived.set()
                if self.read_body:
                    try:
                        exchange.body = await read_body(reader, exchange.headers)
                    except (asyncio.IncompleteReadError, ConnectionError):
                        exchange.cut_off.set()
                        raise
                await self.behave(exchange)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the router let go, or the test is over
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    """Read a body by its framing; raises IncompleteReadError when it's cut."""
    if "chunked" in headers.get("transfer-encoding", ""):
        body = b""
        while True:
            size = int((await reader.readuntil(b"\r\n")).strip() or b"0", 16)
            body += await reader.readexactly(size)
            await reader.readexactly(2)
            if size == 0:
                return body
    return await reader.readexactly(int(headers.get("content-length", "0")))


@dataclass
class Reply:
    """What a raw client saw. `clean` is False when the body broke off."""

    status: int
    headers: dict[str, str]
    body: bytes
    clean: bool

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json", "a refusal is a problem document"
        document: dict[str, Any] = json.loads(self.body)
        assert document["status"] == self.status, "the document repeats the status"
        return document

    @property
    def code(self) -> str:
        return str(self.problem["type"]).removeprefix("urn:mrgc:error:")


@dataclass
class Client:
    """A raw connection to the router."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read_head(self) -> tuple[int, dict[str, str]]:
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), WAIT_S)).decode()
        line, *rest = head.split("\r\n")
        pairs = (item.split(": ", 1) for item in rest if item)
        return int(line.split(" ")[1]), {name.lower(): value for name, value in pairs}

    async def reply(self) -> Reply:
        status, headers = await self.read_head()
        body = bytearray()
        try:
            async with asyncio.timeout(WAIT_S):
                if "chunked" not in headers.get("transfer-encoding", ""):
                    body += await self.reader.readexactly(int(headers["content-length"]))
                    return Reply(status, headers, bytes(body), clean=True)
                while True:
                    size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
                    body += await self.reader.readexactly(size)
                    await self.reader.readexactly(2)
                    if size == 0:
                        return Reply(status, headers, bytes(body), clean=True)
        except (asyncio.IncompleteReadError, ConnectionError):
            return Reply(status, headers, bytes(body), clean=False)

    def cut(self) -> None:
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, OSError):
            await self.writer.wait_closed()


def head(method: str = "POST", path: str = "/inference", /, **headers: str | None) -> bytes:
    """A request's head: the usual headers, changed by keyword (underscores are dashes; None leaves one out)."""
    merged: dict[str, str | None] = {name.lower(): value for name, value in ROUTE_HEADERS.items()}
    merged |= {name.replace("_", "-").lower(): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in merged.items() if value is not None]
    return ("\r\n".join([*lines, "", ""])).encode()


class RunningRouter:
    """A router and what reaches it."""

    def __init__(self, router: Router, registry: MemoryRegistry, trust: ssl.SSLContext | None) -> None:
        self.router = router
        self.trust = trust
        self.registry = registry

    async def put(self, *records: HostRecord) -> None:
        """Report hosts and let the router see them at once."""
        for item in records:
            await self.registry.put_host(item)
        await self.refresh()

    async def refresh(self) -> None:
        self.router.hosts.refresh(await self.registry.hosts(REGION))

    @asynccontextmanager
    async def client(self, *, admin: bool = False, limit: int = 2**16) -> AsyncIterator[Client]:
        port = self.router.admin_port if admin else self.router.port
        tls = None if admin else self.trust
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit, ssl=tls)
        client = Client(reader, writer)
        try:
            yield client
        finally:
            await client.close()

    async def ask(self, data: bytes, *, admin: bool = False) -> Reply:
        async with self.client(admin=admin) as client:
            await client.send(data)
            return await client.reply()

    async def infer(self, body: bytes = ENVELOPE, **headers: str | None) -> Reply:
        return await self.ask(head(**{"content-length": str(len(body)), **headers}) + body)

    async def get(self, path: str, *, admin: bool = False, **headers: str | None) -> Reply:
        plain: dict[str, str | None] = {"content-type": None, "x-kms-key-arn": None, "x-model-pool": None}
        return await self.ask(head("GET", path, **{**plain, **headers}), admin=admin)


def make_settings(tenants_file: Path, **changes: Any) -> RouterSettings:
    """Settings for loopback; the tests refresh the hosts themselves."""
    values = {"http_host": "127.0.0.1", "registry_refresh_s": 60, "drain_delay_s": 0, "drain_timeout_s": 5, **changes}
    return RouterSettings.model_validate({"tenants_file": tenants_file, **values})


@asynccontextmanager
async def running(
    tmp_path: Path,
    *parents: FakeParent,
    tenants: dict[str, Any] | None = None,
    randrange: Callable[[int], int] | None = None,
    telemetry: Telemetry | None = None,
    trust: ssl.SSLContext | None = None,
    **settings: Any,
) -> AsyncIterator[RunningRouter]:
    """A router in front of `parents`, named `i-0`, `i-1` and so on; `settings` change its configuration.

    With `trust` the clients speak TLS and trust what it trusts; `settings` must name the router's certificate then.
    """
    chosen = make_settings(write_tenants(tmp_path / "tenants.json", **(tenants or {})), **settings)
    registry = MemoryRegistry(clock_ms=now_ms)
    for number, parent in enumerate(parents):
        await registry.put_host(record(f"i-{number}", parent.address))
    telemetry = telemetry or Telemetry.from_environment("router", environ={})
    more: dict[str, Any] = {} if randrange is None else {"randrange": randrange}
    async with Router(chosen, registry=registry, telemetry=telemetry, port=0, admin_port=0, **more) as router:
        yield RunningRouter(router, registry, trust)
        await eventually(lambda: router.admission.in_flight == 0, "every request was counted out")
        assert router.store.used == 0, "every byte kept for a retry was given back"
        assert router.limits.in_flight("tenant-a") == 0, "the tenant's requests were counted out"
        assert all(view.in_flight == 0 for view in router.hosts.views()), "every attempt was counted out"


async def eventually(condition: Callable[[], bool], what: str, *, timeout_s: float = 5.0) -> None:
    """Wait for `condition`, looking often; fail with `what` when it does not come true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}"
        await asyncio.sleep(0.01)
