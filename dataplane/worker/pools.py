"""Loaded pools: at most so many at once, loaded when first asked for, the longest unused one making room."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from dataplane.protocol.errors import MrgcError, ProblemError
from dataplane.worker.engine import Engine, EngineError, EngineFactory, EngineLoad
from dataplane.worker.modelfolder import PoolError
from dataplane.worker.pool import Pool, PoolDirectory
from dataplane.worker.prepare import prepare

FAILED_LOAD_PAUSE_S: Final = 30.0
"""After a failed load, how long requests for that pool are refused at once: a broken model must not keep a GPU busy."""

PROBE_TIMEOUT_S: Final = 120.0
"""Longest first completion of a fresh engine; a GPU engine may still compile kernels for it."""

STALL_LOOK_S: Final = 1.0
"""How often the watch looks whether an engine still gets on."""

PROBE_SALT: Final = "mrgc-worker-probe"
RETRY_AFTER_S: Final = 1

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class PoolRecord:
    """What happened to one pool in this process."""

    loads: int = 0
    failed_loads: int = 0
    load_s: float = 0.0
    failed_at: float | None = None


@dataclass(slots=True, eq=False)
class LoadedPool:
    """A pool whose engine runs. `users` counts the requests that hold it."""

    pool: Pool
    engine: Engine
    last_used: float
    users: int = 0
    watch: asyncio.Task[None] | None = field(default=None, repr=False)


class Pools:
    """Owns the engines. Loads are serial: two at once would compete for the same memory."""

    def __init__(
        self,
        *,
        directory: PoolDirectory,
        factory: EngineFactory,
        max_loaded: int,
        stall_s: float,
        monotonic: Callable[[], float],
    ) -> None:
        """`max_loaded` pools at most are in memory; an engine that hangs for `stall_s` seconds counts as dead."""
        self._directory = directory
        self._factory = factory
        self._max_loaded = max_loaded
        self._stall_s = stall_s
        self._monotonic = monotonic
        self._loaded: dict[str, LoadedPool] = {}
        self._loading: dict[str, asyncio.Task[LoadedPool]] = {}
        self._lock = asyncio.Lock()
        self._records: dict[str, PoolRecord] = {}
        self._failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._closed = False

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[LoadedPool]:
        """Hold a pool for one request, loading it first if need be.

        Raises `ProblemError`: unknown-model-pool, overloaded (all loaded pools are in use), or host-failed.
        """
        loaded = self._loaded.get(name)
        if loaded is None:
            # Shielded: a client that leaves does not end a load that others wait for.
            loaded = await asyncio.shield(self._load_task(name))
        loaded.users += 1
        try:
            yield loaded
        finally:
            loaded.users -= 1
            loaded.last_used = self._monotonic()

    async def wait_failed(self) -> str:
        """Wait until an engine dies or hangs; return what happened, in one sentence."""
        return await asyncio.shield(self._failed)

    def engine_load(self) -> EngineLoad:
        """The figures of all loaded engines together; the fullest cache counts."""
        loads = [loaded.engine.load() for loaded in self._loaded.values()]
        return EngineLoad(
            waiting=sum(load.waiting for load in loads),
            running=sum(load.running for load in loads),
            kv_cache_usage=max((load.kv_cache_usage for load in loads), default=0.0),
        )

    def occupancy(self, in_flight: Mapping[str, int]) -> tuple[int, int]:
        """How many requests in flight run and how many wait, from their number and the engines' capacities alone.

        The engines' own figures count sequences, and a request decides how many it makes.
        """
        running = sum(
            min(count, self._loaded[name].engine.capacity) for name, count in in_flight.items() if name in self._loaded
        )
        return running, sum(in_flight.values()) - running

    def is_loaded(self, name: str) -> bool:
        """Whether this pool's engine runs now."""
        return name in self._loaded

    async def describe(self) -> dict[str, object]:
        """The `models` map of the `stats` reply."""
        available, names = await asyncio.to_thread(self._survey)
        records = self._records.values()
        loads = sum(record.loads for record in records)
        details: dict[str, object] = {}
        for name, record in self._records.items():
            loaded = self._loaded.get(name)
            details[name] = {
                "digest": loaded.pool.digest if loaded is not None else "",
                "runner": loaded.pool.options.runner if loaded is not None else "",
                "loads": record.loads,
                "failed_loads": record.failed_loads,
                "in_use": loaded.users if loaded is not None else 0,
            }
        return {
            "fsx_available": available,
            "loaded": sorted(self._loaded),
            "available": list(names),
            "total_loads": loads,
            "failed_loads": sum(record.failed_loads for record in records),
            "avg_load_s": sum(record.load_s for record in records) / loads if loads else 0.0,
            "details": details,
        }

    async def close(self) -> None:
        """Stop every engine; idempotent."""
        self._closed = True
        self._directory.stop()
        tasks = list(self._loading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for loaded in list(self._loaded.values()):
            await self._unload(loaded)
        await asyncio.to_thread(self._directory.close)
        self._failed.cancel()

    def _survey(self) -> tuple[bool, tuple[str, ...]]:
        return self._directory.available(), self._directory.names()

    def _load_task(self, name: str) -> asyncio.Task[LoadedPool]:
        task = self._loading.get(name)
        if task is None:
            task = asyncio.create_task(self._load(name), name=f"load-{name[:32]}")
            self._loading[name] = task
            task.add_done_callback(lambda done: self._load_done(name, done))
        return task

    def _load_done(self, name: str, task: asyncio.Task[LoadedPool]) -> None:
        self._loading.pop(name, None)
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody may have

    async def _load(self, name: str) -> LoadedPool:
        if await asyncio.to_thread(self._directory.find, name) is None:
            raise ProblemError("unknown-model-pool", f"This host has no model pool {name[:128]!r}.")
        async with self._lock:
            loaded = self._loaded.get(name)
            if loaded is not None:
                return loaded
            record = self._records.setdefault(name, PoolRecord())
            self._refuse_after_failure(name, record)
            await self._make_room(name)
            began = self._monotonic()
            logger.info("loading pool %s", name)
            try:
                loaded = await self._start(name)
            except (EngineError, PoolError, TimeoutError) as error:
                record.failed_loads += 1
                record.failed_at = self._monotonic()
                logger.error("pool %s could not be loaded: %s", name, error)  # noqa: TRY400 - the sentence says it
                raise ProblemError(
                    "host-failed", f"The model pool {name!r} could not be loaded on this host."
                ) from error
            record.loads += 1
            record.load_s += self._monotonic() - began
            record.failed_at = None
            self._loaded[name] = loaded
            logger.info("pool %s ready after %.1f s", name, self._monotonic() - began)
            return loaded

    def _refuse_after_failure(self, name: str, record: PoolRecord) -> None:
        if record.failed_at is not None and self._monotonic() - record.failed_at < FAILED_LOAD_PAUSE_S:
            raise ProblemError("host-failed", f"The model pool {name!r} could not be loaded on this host a moment ago.")

    async def _start(self, name: str) -> LoadedPool:
        """Load one engine and see it answer once: an engine that is up but cannot generate is not ready."""
        pool = await asyncio.to_thread(self._directory.open, name)
        try:
            engine = await self._factory.load(pool)
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    await probe(engine, pool)
            except BaseException:
                await engine.close()
                raise
        except BaseException:
            await asyncio.to_thread(self._directory.release, pool)
            raise
        loaded = LoadedPool(pool, engine, self._monotonic())
        loaded.watch = asyncio.create_task(self._watch(loaded), name=f"watch-{name[:32]}")
        return loaded

    async def _watch(self, loaded: LoadedPool) -> None:
        """Turn an engine's death into this worker's, and its hanging too: no request would end by itself."""
        dying = asyncio.ensure_future(loaded.engine.wait_failed())
        hanging = asyncio.create_task(self._hangs(loaded.engine))
        try:
            await asyncio.wait({dying, hanging}, return_when=asyncio.FIRST_COMPLETED)
            reason = f"died: {dying.result()}" if dying.done() else hanging.result()
        finally:
            for task in (dying, hanging):
                task.cancel()
            await asyncio.gather(dying, hanging, return_exceptions=True)
        if not self._failed.done():
            self._failed.set_result(f"The engine of pool {loaded.pool.name} {reason}")

    async def _hangs(self, engine: Engine) -> str:
        """Wait until the engine owes answers and has got nowhere for `stall_s` seconds."""
        steps, since = -1, self._monotonic()
        while True:
            load, now = engine.load(), self._monotonic()
            if load.owed == 0 or load.steps != steps:
                steps, since = load.steps, now
            elif now - since >= self._stall_s:
                return f"hangs: it has made nothing for {self._stall_s:g} s, and {load.owed} requests wait for it."
            await asyncio.sleep(min(STALL_LOOK_S, self._stall_s / 4))

    async def _make_room(self, name: str) -> None:
        while len(self._loaded) >= self._max_loaded:
            idle = [loaded for loaded in self._loaded.values() if loaded.users == 0]
            if not idle:
                raise ProblemError(
                    "overloaded",
                    f"The model pool {name!r} is not loaded here and every loaded one is in use.",
                    retry_after_s=RETRY_AFTER_S,
                )
            oldest = min(idle, key=lambda loaded: loaded.last_used)
            logger.info("unloading pool %s to make room for %s", oldest.pool.name, name)
            await self._unload(oldest)

    async def _unload(self, loaded: LoadedPool) -> None:
        # Out of the table first: from here on nobody new may hold it.
        self._loaded.pop(loaded.pool.name, None)
        if loaded.watch is not None:
            loaded.watch.cancel()
            await asyncio.gather(loaded.watch, return_exceptions=True)
        await loaded.engine.close()
        await asyncio.to_thread(self._directory.release, loaded.pool)


async def probe(engine: Engine, pool: Pool) -> None:
    """Have the engine make one token, or one embedding; raises `EngineError` if it does not."""
    pooling = pool.options.runner == "pooling"
    path, body = (
        ("/v1/embeddings", b'{"input":"ready"}')
        if pooling
        else ("/v1/completions", b'{"prompt":"ready","max_tokens":1,"temperature":0}')
    )
    call = prepare(path=path, body=body, pool=pool.name, cache_salt=PROBE_SALT, priority=0)
    try:
        async with engine.generate(call) as reply:
            async for _ in reply.body:
                pass
    except EngineError:
        raise
    except MrgcError as error:
        raise EngineError(f"The engine of pool {pool.name} refused its first request.") from error
    if reply.status != 200:  # noqa: PLR2004 - HTTP's OK
        raise EngineError(f"The engine of pool {pool.name} answered its first request with status {reply.status}.")
