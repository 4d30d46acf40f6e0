"""Loading pools: once, on demand, with a bound, and what happens when it fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

import pytest

from dataplane.protocol.errors import ProblemError
from dataplane.worker.engine import EngineCall, EngineError, EngineLoad, GpuMemory, Reply
from dataplane.worker.pool import Pool, PoolDirectory
from dataplane.worker.pools import FAILED_LOAD_PAUSE_S, Pools


class FakeEngine:
    """An engine whose life the test decides."""

    capacity = 4

    def __init__(self, name: str, status: int) -> None:
        self.name = name
        self.status = status
        self.closed = False
        self.figures = {"steps": 0, "owed": 0}
        self.dead: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @asynccontextmanager
    async def generate(self, call: EngineCall) -> AsyncIterator[Reply]:
        async def body() -> AsyncIterator[bytes]:
            yield call.body

        yield Reply(status=self.status, content_type="x", body=body(), usage=lambda: None)

    def load(self) -> EngineLoad:
        return EngineLoad(waiting=1, running=2, kv_cache_usage=0.25, **self.figures)

    async def wait_failed(self) -> str:
        return await asyncio.shield(self.dead)

    async def close(self) -> None:
        self.closed = True


class FakeFactory:
    kind = "synthetic"
    version = "test"
    options: Mapping[str, object] = MappingProxyType({})

    def __init__(self) -> None:
        self.engines: list[FakeEngine] = []
        self.status = 200
        self.fails = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def load(self, pool: Pool) -> FakeEngine:
        await self.gate.wait()
        if self.fails:
            raise EngineError("out of memory")
        self.engines.append(FakeEngine(pool.name, self.status))
        return self.engines[-1]

    def gpu(self) -> GpuMemory:
        return GpuMemory()

    async def close(self) -> None:
        pass


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def factory() -> FakeFactory:
    return FakeFactory()


@pytest.fixture
async def pools(mount: Path, add_pool: Callable[..., Path], factory: FakeFactory, clock: Clock) -> AsyncIterator[Pools]:
    add_pool("second")
    add_pool("third")
    made = Pools(directory=PoolDirectory(mount), factory=factory, max_loaded=2, stall_s=60, monotonic=clock)
    yield made
    await made.close()


async def test_many_who_ask_at_once_cause_one_load(pools: Pools, factory: FakeFactory) -> None:
    async def ask() -> str:
        async with pools.use("tiny") as loaded:
            return loaded.pool.digest

    digests = await asyncio.gather(*(ask() for _ in range(20)))
    assert len(factory.engines) == 1
    assert len(set(digests)) == 1
    assert pools.is_loaded("tiny")


async def test_a_client_that_leaves_does_not_end_the_load_of_others(pools: Pools, factory: FakeFactory) -> None:
    factory.gate.clear()

    async def ask() -> bool:
        async with pools.use("tiny"):
            return True

    impatient, patient = asyncio.create_task(ask()), asyncio.create_task(ask())
    await asyncio.sleep(0.01)
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    factory.gate.set()
    assert await patient
    assert len(factory.engines) == 1


async def test_the_longest_unused_idle_pool_makes_room(pools: Pools, factory: FakeFactory, clock: Clock) -> None:
    for name in ("tiny", "second", "tiny", "third"):
        clock.now += 1
        async with pools.use(name):
            pass
    closed = [engine.name for engine in factory.engines if engine.closed]
    assert closed == ["second"], "tiny was used later"
    assert pools.is_loaded("tiny")
    assert pools.is_loaded("third")


async def test_pools_in_use_are_never_unloaded(pools: Pools, factory: FakeFactory) -> None:
    async with pools.use("tiny"), pools.use("second"):
        with pytest.raises(ProblemError) as caught:
            async with pools.use("third"):
                pass
        assert caught.value.code == "overloaded"
        assert caught.value.retry_after_s is not None
        assert not any(engine.closed for engine in factory.engines)
    async with pools.use("third"):
        pass


async def test_a_failed_load_is_a_host_failure_and_is_not_tried_again_at_once(
    pools: Pools, factory: FakeFactory, clock: Clock
) -> None:
    factory.fails = True
    for _ in range(2):
        with pytest.raises(ProblemError) as caught:
            async with pools.use("tiny"):
                pass
        assert caught.value.code == "host-failed"
    described = await pools.describe()
    assert described["failed_loads"] == 1, "the second request did not try"
    factory.fails = False
    clock.now += FAILED_LOAD_PAUSE_S
    async with pools.use("tiny"):
        pass
    described = await pools.describe()
    assert (described["total_loads"], described["loaded"]) == (1, ["tiny"])


async def test_an_engine_that_cannot_generate_is_not_ready(pools: Pools, factory: FakeFactory) -> None:
    factory.status = 500
    with pytest.raises(ProblemError):
        async with pools.use("tiny"):
            pass
    assert not pools.is_loaded("tiny"), "up is not ready: a real completion is"
    assert factory.engines[0].closed


async def test_a_pool_that_is_not_there_is_unknown_and_starts_nothing(pools: Pools, factory: FakeFactory) -> None:
    for name in ("nothing", "../tiny"):
        with pytest.raises(ProblemError) as caught:
            async with pools.use(name):
                pass
        assert caught.value.code == "unknown-model-pool"
    assert factory.engines == []


async def test_the_death_of_an_engine_is_told_with_the_pools_name(pools: Pools, factory: FakeFactory) -> None:
    async with pools.use("tiny"):
        pass
    factory.engines[0].dead.set_result("it was killed.")
    async with asyncio.timeout(1):
        assert await pools.wait_failed() == "The engine of pool tiny died: it was killed."


async def test_an_engine_that_owes_answers_and_makes_nothing_is_told_with_the_pools_name(
    mount: Path, factory: FakeFactory
) -> None:
    pools = Pools(directory=PoolDirectory(mount), factory=factory, max_loaded=2, stall_s=0.2, monotonic=time.monotonic)
    try:
        async with pools.use("tiny"):
            failed = asyncio.ensure_future(pools.wait_failed())
            engine = factory.engines[0]
            for figures in ({"steps": 5, "owed": 0}, {"owed": 1}):
                engine.figures |= figures
                for _ in range(10):
                    await asyncio.sleep(0.04)
                    engine.figures["steps"] += figures["owed"]
                assert not failed.done(), "idle, or getting on: neither is hanging"
            reason = await asyncio.wait_for(failed, 5)
            assert reason == "The engine of pool tiny hangs: it has made nothing for 0.2 s, and 1 requests wait for it."
    finally:
        await pools.close()


async def test_an_engine_that_is_unloaded_on_purpose_is_no_death(pools: Pools, factory: FakeFactory) -> None:
    for name in ("tiny", "second", "third"):
        async with pools.use(name):
            pass
    factory.engines[0].dead.set_result("it ended.")
    await asyncio.sleep(0.01)
    waiting = asyncio.create_task(pools.wait_failed())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    waiting.cancel()


async def test_closing_stops_engines_and_loads_under_way(pools: Pools, factory: FakeFactory) -> None:
    async with pools.use("tiny"):
        pass
    factory.gate.clear()
    loading = asyncio.create_task(pools.use("second").__aenter__())
    await asyncio.sleep(0.01)
    await pools.close()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert factory.engines[0].closed


async def test_the_figures_of_all_engines_are_summed(pools: Pools) -> None:
    assert pools.engine_load() == EngineLoad(waiting=0, running=0, kv_cache_usage=0.0)
    for name in ("tiny", "second"):
        async with pools.use(name):
            pass
    assert pools.engine_load() == EngineLoad(waiting=2, running=4, kv_cache_usage=0.25)
