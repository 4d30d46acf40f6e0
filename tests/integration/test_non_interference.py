"""Non-interference: what the host is told of a request does not depend on what the request says.

Two requests go through a real enclave, a real worker and the parent's real relay. Their prompts and answers differ
within a bucket of the tenant's padding; so do the engine's token counts, cache hits and inner statuses, and times
within a tick. Everything that leaves towards the host is collected, and must be equal but for ids: spans, the replies
to `stats` and `health`, the pages and the registry's record that the parent makes of them, and every log line.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from dataplane.mesh.address import UnixAddress
from dataplane.mesh.admission import Admission
from dataplane.mesh.deadline import Deadline
from dataplane.mesh.health import Health
from dataplane.mesh.lifecycle import Stop
from dataplane.parent.calls import opener
from dataplane.parent.exposition import ParentMetrics
from dataplane.parent.headers import InferenceHeaders
from dataplane.parent.relay import Relay
from dataplane.parent.report import PARTS, health_page, host_record, metrics_page
from dataplane.parent.view import EnclaveReport, HostView, WorkerReport
from dataplane.protocol import cbor
from dataplane.protocol.envelope import ResponseOpener
from dataplane.worker.assemble import make_worker
from dataplane.worker.engine import EngineCall, EngineLoad, GpuMemory, Reply, Usage
from dataplane.worker.pool import Pool
from dataplane.worker.server import WorkerServer
from dataplane.worker.settings import WorkerSettings
from observability.disclosure import TICK_NS
from observability.tracing import Telemetry
from stacks.local.worker_client import WorkerClient
from tests.unit.enclave.harness import KEY_ARN, Enclave, enclave

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BASE_NS = 1_800_000_000 * 10**9
PAD = 256
WAIT_S = 20.0


class Clock:
    """Wall time of spans and monotonic time of durations, both set by the script of a request."""

    def __init__(self) -> None:
        self.now_ns = 0

    def set(self, ticks: int, within: int) -> None:
        self.now_ns = max(self.now_ns, ticks * TICK_NS + within)

    def time_ns(self) -> int:
        return BASE_NS + self.now_ns

    def monotonic(self) -> float:
        return self.now_ns / 1e9


@dataclass(frozen=True, kw_only=True)
class Script:
    """What a request says and what comes of it: all of this is the tenant's alone."""

    prompt: bytes
    first: bytes
    rest: bytes
    status: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    kv_cache_usage: float
    within: tuple[int, int, int]


@dataclass
class ScriptedEngine:
    """Answers as the script says, and moves the clock."""

    clock: Clock
    capacity: int = 4
    script: Script | None = None
    ticks: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    prompts: list[bytes] = field(default_factory=list)

    @asynccontextmanager
    async def generate(self, call: EngineCall) -> AsyncIterator[Reply]:
        self.prompts.append(call.body)
        script = self.script
        if script is None:  # the worker's own first question
            yield Reply(status=200, content_type="application/json", body=_whole(b"{}"), usage=lambda: None)
            return

        async def body() -> AsyncIterator[bytes]:
            self.clock.set(0, script.within[1])
            yield script.first
            async with asyncio.timeout(WAIT_S):
                await self.begun.wait()
            self.clock.set(self.ticks, script.within[2])
            yield script.rest

        usage = Usage(
            prompt_tokens=script.prompt_tokens,
            completion_tokens=script.completion_tokens,
            cached_tokens=script.cached_tokens,
        )
        yield Reply(status=script.status, content_type="application/json", body=body(), usage=lambda: usage)

    def load(self) -> EngineLoad:
        usage = self.script.kv_cache_usage if self.script is not None else 0.0
        return EngineLoad(waiting=0, running=3, kv_cache_usage=usage)

    async def wait_failed(self) -> str:
        await asyncio.Event().wait()
        return ""

    async def close(self) -> None:
        pass


@dataclass
class ScriptedFactory:
    engine: ScriptedEngine
    kind: str = "synthetic"
    version: str = "scripted"
    options: Mapping[str, object] = field(default_factory=dict)

    async def load(self, pool: Pool) -> ScriptedEngine:
        del pool
        return self.engine

    def gpu(self) -> GpuMemory:
        return GpuMemory(available=True, total_mb=46_068, used_mb=30_000)

    async def close(self) -> None:
        pass


async def _whole(data: bytes) -> AsyncIterator[bytes]:
    yield data


class Tenant:
    """The HTTP side of a request, and what opens the answer."""

    def __init__(self, body: bytes, response: ResponseOpener, begun: asyncio.Event) -> None:
        self._body = body
        self._response = response
        self._begun = begun
        self.sizes: list[int] = []
        self.opened: list[bytes] = []

    async def read(self) -> bytes:
        body, self._body = self._body, b""
        return body

    async def begin(self) -> None:
        self._begun.set()

    async def write(self, data: bytes) -> None:
        self.sizes.append(len(data))
        self.opened += [frame.data for frame in self._response.feed(data) if not frame.final]


class Lines(logging.Handler):
    """Every log line, as it would be written."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith(("asyncio", "hypothesis")):
            self.lines.append(f"{record.levelname} {record.name} {record.getMessage()} {record.exc_info}")


async def exported(scripts: Sequence[Script], *, ticks: int, folder: Path) -> dict[str, Any]:
    """Send the scripted requests one after the other; return all that the host was told of them."""
    lines = Lines()
    root = logging.getLogger()
    before = root.level
    root.addHandler(lines)
    root.setLevel(logging.DEBUG)
    try:
        async with AsyncExitStack() as stack:
            clock = Clock()
            engine = ScriptedEngine(clock, ticks=ticks)
            worker, address = await stack.enter_async_context(_worker(folder, engine))
            running = await stack.enter_async_context(enclave(folder, bound=False))
            _use_clock(running, clock)
            await running.bind(cbor.encode(await WorkerClient(address).bind()))
            state = running.server.state
            assert state.worker is not None, "a worker is bound"
            state.worker = dataclasses.replace(state.worker, bound_s=clock.monotonic())
            lines.lines.clear()
            batches: list[bytes] = []
            relay = Relay(
                open_enclave=opener(running.address),
                open_worker=opener(address),
                forward_spans=batches.append,
                idle_timeout_s=WAIT_S,
            )
            sizes = [await _ask(running, relay, engine, script) for script in scripts]
            view = await _view(worker, running)
            return {"spans": _spans(batches), "sizes": sizes, "logs": lines.lines, **_pages(view)}
    finally:
        root.removeHandler(lines)
        root.setLevel(before)


@asynccontextmanager
async def _worker(folder: Path, engine: ScriptedEngine) -> AsyncIterator[tuple[WorkerServer, UnixAddress]]:
    models = folder / "models" / "tiny"
    models.mkdir(parents=True)
    (models / "model.safetensors").write_bytes(b"weights")
    address = UnixAddress(str(folder / "w.sock"))
    fields: dict[str, Any] = {"worker_listen_address": address, "fsx_mount_point": folder, "default_model_pool": "tiny"}
    server = make_worker(
        WorkerSettings(**fields),
        factory=ScriptedFactory(engine),
        tpm=None,
        clock_ms=lambda: 1_800_000_000_000,
        monotonic=engine.clock.monotonic,
    )
    server.inference.telemetry = Telemetry.relayed("worker", time_ns=engine.clock.time_ns)
    stop = Stop()
    task = asyncio.create_task(server.run(address, stop))
    try:
        async with asyncio.timeout(WAIT_S):
            while not server.pools.is_loaded("tiny"):
                assert not task.done(), "the worker ended early"
                await asyncio.sleep(0.001)
        yield server, address
    finally:
        stop.request()
        await asyncio.gather(task, return_exceptions=True)


def _use_clock(running: Enclave, clock: Clock) -> None:
    """Have the enclave's spans and durations made on the script's clock."""
    telemetry = Telemetry.relayed("enclave", time_ns=clock.time_ns)
    running.server._telemetry = telemetry
    running.server.state.telemetry = telemetry
    running.server.state.monotonic = clock.monotonic


async def _ask(running: Enclave, relay: Relay, engine: ScriptedEngine, script: Script) -> list[int]:
    """One request; returns the sizes of what the tenant was sent, the receipt among them."""
    engine.script = script
    engine.begun.clear()
    engine.clock.now_ns = 0
    engine.clock.set(0, script.within[0])
    body, sealer, header = running.seal(b'{"prompt": "' + script.prompt + b'"}', path="/v1/completions", pad=PAD)
    tenant = Tenant(body, sealer.response_opener(), engine.begun)
    headers = InferenceHeaders(
        kms=KEY_ARN, tenant=header.tenant, model=header.model, request_id="r-1", traceparent=TRACEPARENT
    )
    deadline = Deadline.after(WAIT_S, monotonic=asyncio.get_running_loop().time)
    await relay.run(tenant, headers, deadline=deadline, traceparent=TRACEPARENT)
    assert script.prompt in engine.prompts[-1], "control: the engine was asked what the tenant asked"
    assert b"".join(tenant.opened[1:]) == script.first + script.rest, "control: and the tenant has its answer"
    return [len(body), *tenant.sizes]


async def _view(worker: WorkerServer, running: Enclave) -> HostView:
    stats = await worker.stats()
    health = (await running.call(op="health")).map()
    # Ids, random for every worker, and what this machine's clock makes.
    for reply, name in ((stats, "epoch"), (stats, "accepted"), (health, "worker_epoch")):
        reply.pop(name, None)
    for name in ("binding_age_ms", "clock_skew_ms"):
        health.pop(name, None)
    return HostView(worker=WorkerReport.from_reply(stats), enclave=EnclaveReport.from_reply(health))


def _spans(batches: Sequence[bytes]) -> list[str]:
    """The spans as text, without the ids that are drawn for each."""
    spans = []
    for batch in batches:
        for resource in ExportTraceServiceRequest.FromString(batch).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    span.span_id = span.parent_span_id = b""
                    spans.append(f"{resource.resource}{scope.scope}{span}")
    return sorted(spans)


def _pages(view: HostView) -> dict[str, Any]:
    """What the parent makes of the replies, and tells on."""
    health = Health(PARTS, monotonic=lambda: 0.0)
    for part in PARTS:
        health.report(part, ok=True)
    prometheus = ParentMetrics(
        view, health, Admission(max_in_flight=4), gpu_memory_utilization=0.9, spans_dropped=lambda: 0
    )
    text = "\n".join(line for line in prometheus.text("text/plain")[0].decode().splitlines() if "_created" not in line)
    record = host_record(
        view,
        health,
        instance_id="i-1",
        region="us-east-1",
        address="http://h",
        capacity=4,
        in_flight=0,
        waiting=0,
        now_ms=1,
    )
    return {
        "stats": view.worker,
        "health reply": view.enclave,
        "health page": health_page(view, health),
        "metrics page": metrics_page(view, health),
        "prometheus": text,
        "record": record.to_item(),
    }


def told(scripts: Sequence[Script], *, ticks: int = 3) -> dict[str, Any]:
    """`exported`, in a folder and an event loop of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(exported(scripts, ticks=ticks, folder=Path(folder)))


def within_a_bucket(most: int) -> st.SearchStrategy[bytes]:
    """Texts whose frames all have one length: an envelope pads to 256 bytes what is around them too."""
    letters = st.sampled_from(b"abcdefgh ")
    return st.lists(letters, min_size=1, max_size=most).map(bytes)


MOMENTS = st.lists(st.integers(1, TICK_NS - 1), min_size=3, max_size=3).map(lambda each: tuple(sorted(each)))
SCRIPTS = st.builds(
    Script,
    prompt=within_a_bucket(60),
    first=within_a_bucket(200),
    rest=within_a_bucket(200),
    status=st.sampled_from([200, 400, 404]),
    prompt_tokens=st.integers(0, 2**40),
    completion_tokens=st.integers(0, 2**40),
    cached_tokens=st.integers(0, 2**40),
    kv_cache_usage=st.floats(0, 1),
    within=MOMENTS,
)


@settings(max_examples=25, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(st.integers(1, 3).flatmap(lambda count: st.tuples(*[st.lists(SCRIPTS, min_size=count, max_size=count)] * 2)))
def test_what_the_host_is_told_does_not_depend_on_what_is_asked_and_answered(pair: tuple[list[Script], ...]) -> None:
    one, two = (told(scripts) for scripts in pair)
    assert len(one["spans"]) == 5 * len(pair[0]), "control: there are spans to compare"
    for what in one:
        assert one[what] == two[what], f"{what} tells of the content"


def plain(**changes: Any) -> Script:
    everyday: dict[str, Any] = {
        "prompt": b"p",
        "first": b"f",
        "rest": b"r",
        "status": 200,
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "cached_tokens": 0,
        "kv_cache_usage": 0.0,
        "within": (1, 1, 1),
    }
    return Script(**(everyday | changes))


def test_the_comparison_sees_what_does_differ() -> None:
    base = told([plain()])
    assert told([plain()], ticks=4)["spans"] != base["spans"], "control: another tick is another time"
    assert told([plain(first=b"f" * 300)])["sizes"] != base["sizes"], "control: another bucket is another size"
    assert told([plain(), plain()])["stats"] != base["stats"], "control: how many there were is told"


def test_fifteen_requests_are_told_alike_and_sixteen_as_rounded_totals() -> None:
    small, large = plain(), plain(prompt_tokens=3_210, completion_tokens=777, kv_cache_usage=0.9)
    few, many = told([small] * 15), told([large] * 15)
    assert few == many, "a window that is not full tells nothing"
    page = told([large] * 16)["stats"]
    assert page.released["prompt_tokens"] == 51_000, "16 * 3,210 = 51,360, in whole thousands"
    assert page.released["completion_tokens"] == 12_000, "16 * 777 = 12,432, likewise"
    assert page.kv_cache_usage == 14 / 16, "0.9, in sixteenths"
