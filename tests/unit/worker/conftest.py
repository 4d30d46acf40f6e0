"""A model store, and workers in this process, for the tests beside."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dataplane.mesh.address import UnixAddress
from dataplane.mesh.lifecycle import Stop
from dataplane.worker.assemble import make_worker
from dataplane.worker.engine import EngineFactory
from dataplane.worker.server import WorkerServer
from dataplane.worker.settings import WorkerSettings
from dataplane.worker.tpm import Tpm
from stacks.local.worker_client import WorkerClient

NOW_MS = 1_800_000_000_000


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


@pytest.fixture
def add_pool(mount: Path) -> Callable[..., Path]:
    """Add a pool to the store."""
    return functools.partial(make_pool, mount)


RunWorker = Callable[..., Any]


@pytest.fixture
def run_worker(tmp_path: Path, mount: Path) -> RunWorker:
    """Run a worker with a given engine; yields server and client, the default pool loaded."""

    @asynccontextmanager
    async def run(
        factory: EngineFactory, *, tpm: Tpm | None = None, wait: bool = True, stop: Stop | None = None, **more: Any
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
        stop = stop or Stop()
        task = asyncio.create_task(server.run(address, stop))
        client = WorkerClient(address)
        try:
            # One that ended at once has taken its socket away again, from Python 3.13 on: then there is no waiting.
            await until(lambda: asyncio.sleep(0, task.done() or Path(address.path).exists()))
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
