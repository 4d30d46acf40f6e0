"""The worker over its socket, with the synthetic engine or one that the test breaks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from dataplane.mesh.address import AddressError, UnixAddress
from dataplane.mesh.lifecycle import Stop
from dataplane.protocol.errors import LinkError, ProblemError
from dataplane.protocol.hop import seal_hop
from dataplane.protocol.link import LinkType
from dataplane.worker.engine import (
    EngineCall,
    EngineError,
    EngineLoad,
    EngineOverloadedError,
    GpuMemory,
    Reply,
    Usage,
)
from dataplane.worker.pool import Pool, model_digest
from dataplane.worker.release import RELEASE_REQUESTS
from dataplane.worker.server import WorkerDeadError, WorkerServer
from stacks.local.synthetic import SyntheticFactory
from stacks.local.synthetic_cost import SyntheticCosts
from stacks.local.worker_client import WorkerClient, hop_message

Run = Callable[..., AbstractAsyncContextManager[tuple[WorkerServer, WorkerClient, "asyncio.Task[None]"]]]
Until = Callable[..., Awaitable[None]]
COMPLETIONS = "/v1/completions"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRET = "zebra-omelette-4711"
FAST = SyntheticCosts(step_s=0.0, per_sequence_s=0.0, prefill_tokens_per_s=1e9, max_num_seqs=2)
SLOW = SyntheticCosts(step_s=0.02, max_num_seqs=2)


def synthetic(costs: SyntheticCosts = FAST) -> SyntheticFactory:
    return SyntheticFactory(costs=costs, clock_ms=lambda: 1)


class BrokenEngine:
    """Fails where the test says: "enter", "overloaded", "first" or "later"; works while it says "".

    "hang" and "hang later" make nothing, or nothing more, and owe an answer.
    """

    capacity = 4

    def __init__(self) -> None:
        self.fails = ""
        self.closed = 0
        self.died: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @asynccontextmanager
    async def generate(self, call: EngineCall) -> AsyncIterator[Reply]:
        del call
        if self.fails == "enter":
            raise EngineError("it died")
        if self.fails == "overloaded":
            raise EngineOverloadedError("full")
        fails = self.fails

        async def body() -> AsyncIterator[bytes]:
            if fails == "first":
                raise EngineError("it died")
            if fails == "hang":
                await asyncio.Event().wait()
            yield b"half"
            if fails == "hang later":
                await asyncio.Event().wait()
            if fails == "later":
                raise EngineError("it died")

        usage = Usage(prompt_tokens=1, completion_tokens=1, cached_tokens=0)
        yield Reply(status=200, content_type="text/plain", body=body(), usage=lambda: usage)

    def load(self) -> EngineLoad:
        return EngineLoad(waiting=0, running=0, kv_cache_usage=0.5, steps=1, owed=int("hang" in self.fails))

    async def wait_failed(self) -> str:
        return await asyncio.shield(self.died)

    async def close(self) -> None:
        self.closed += 1


class BrokenFactory:
    kind = "synthetic"
    version = "broken"
    options: Mapping[str, object] = MappingProxyType({})

    def __init__(self) -> None:
        self.engine = BrokenEngine()

    async def load(self, pool: Pool) -> BrokenEngine:
        del pool
        return self.engine

    def gpu(self) -> GpuMemory:
        return GpuMemory(available=True, total_mb=46_068, used_mb=1_024)

    async def close(self) -> None:
        pass


async def test_a_recorded_hop_request_is_served_once_and_its_figures_are_in_no_total_twice(run_worker: Run) -> None:
    async with run_worker(synthetic()) as (_, client, _task):
        binding = await client.bind()
        _, sealer = seal_hop(binding["public_key"], binding["epoch"], binding["config_digest"], bytes(16))
        message = hop_message(COMPLETIONS, {"prompt": "word " * 1000, "max_tokens": 1})
        recorded = sealer.prefix() + b"".join(sealer.seal_message(message.encode()))
        ended = []
        for _ in range(RELEASE_REQUESTS):
            link = await client.link()
            await link.send(LinkType.OPEN, {"op": "infer"}, timeout_s=5)
            await link.send(LinkType.HOP_DATA, recorded, timeout_s=5)
            await link.send(LinkType.HOP_END, timeout_s=5)
            while (reply := await link.receive(5)) is not None and reply.type not in {
                LinkType.HOP_END,
                LinkType.PROBLEM,
            }:
                pass
            ended.append(None if reply is None else reply.type)
            await link.close()
        assert ended == [LinkType.HOP_END] + [LinkType.PROBLEM] * (RELEASE_REQUESTS - 1), "whoever recorded it"
        released = (await client.stats())["released"]
        assert released["requests"] == released["prompt_tokens"] == 0, (
            "a window of one tenant's request and its copies would release that request's own count"
        )


@pytest.mark.parametrize("last", [{"prompt": "hello"}, {"prompt": "hello", "model": "another"}, b"no JSON"])
async def test_a_window_is_released_alike_whether_the_last_message_was_good_or_refused(
    run_worker: Run, last: object
) -> None:
    async with run_worker(synthetic()) as (_, client, _task):
        for _ in range(RELEASE_REQUESTS - 1):
            await client.ask(COMPLETIONS, {"prompt": "hello", "max_tokens": 1})
        assert (await client.stats())["released"]["requests"] == 0, "whoever filled all places but one"
        await client.ask(COMPLETIONS, last)
        assert (await client.stats())["released"]["requests"] == RELEASE_REQUESTS, (
            "does not learn from the count whether the engine took the last one: its status is sealed"
        )


async def test_an_answer_has_head_body_tail_and_span(run_worker: Run, mount: Path) -> None:
    async with run_worker(synthetic()) as (_, client, _task):
        answered = await client.ask(COMPLETIONS, {"prompt": SECRET, "max_tokens": 3}, traceparent=TRACEPARENT)
        assert answered.head is not None
        assert answered.head.engine == "synthetic", "synthetic never says vllm"
        assert answered.head.model_digest == model_digest(mount / "models" / "tiny")
        assert answered.json["usage"]["completion_tokens"] == 3
        assert answered.tail is not None
        assert answered.tail.usage == {"prompt_tokens": 5, "completion_tokens": 3}
        assert [name for name, _, _ in answered.tail.spans] == [
            "worker.generate",
            "worker.first_piece",
            "worker.stream",
        ], "exact times go to the tenant alone, sealed"
        assert answered.tail.wash is None, "a start is no car wash"
    assert answered.spans is not None
    spans = ExportTraceServiceRequest.FromString(answered.spans).resource_spans[0].scope_spans[0].spans
    assert [span.name for span in spans] == ["worker.generate"]
    assert spans[0].trace_id.hex() in TRACEPARENT, "the span belongs to the request's trace"
    attributes = {attribute.key: attribute.value for attribute in spans[0].attributes}
    assert attributes.keys() == {"mrgc.model_pool", "mrgc.engine"}, "no count, no time and no inner status"
    for time_ns in (spans[0].start_time_unix_nano, spans[0].end_time_unix_nano):
        assert time_ns % 20_000_000 == 0, "no time finer than the tick"
    assert SECRET.encode() not in answered.spans


async def test_an_unsampled_request_leaves_no_span_in_clear_or_sealed(run_worker: Run) -> None:
    async with run_worker(synthetic()) as (_, client, _task):
        answered = await client.ask(COMPLETIONS, {"prompt": "x", "max_tokens": 1}, traceparent=TRACEPARENT[:-1] + "0")
    assert answered.spans is None, "the tenant does not want to be traced"
    assert answered.tail is not None
    assert answered.tail.spans == (), "not by sealed times either"
    assert answered.tail.usage["completion_tokens"] == 1, "control: what was used it is told all the same"


async def test_the_engines_own_queue_is_not_told(run_worker: Run, wait_until: Until) -> None:
    factory = BrokenFactory()
    async with run_worker(factory) as (_, client, _task):
        factory.engine.fails = "hang"
        asking = [asyncio.create_task(client.ask(COMPLETIONS, {})) for _ in range(6)]

        async def all_there() -> bool:
            return bool((await client.stats())["in_flight"] == 6)

        await wait_until(all_there)
        stats = await client.stats()
        assert (stats["running"], stats["waiting"]) == (4, 2), "from requests and capacity alone: the engine says 0"
        factory.engine.died.set_result("it was ended.")
        await asyncio.gather(*asking, return_exceptions=True)


async def test_stats_name_what_is_loaded_and_what_was_served(run_worker: Run) -> None:
    async with run_worker(BrokenFactory()) as (server, client, _):
        for _ in range(15):
            await client.ask(COMPLETIONS, {})
        stats = await client.stats()
        assert stats["kv_cache_usage"] == 0, "fifteen requests tell nothing"
        assert not any(stats["released"].values()), "nothing at all"
        await client.ask(COMPLETIONS, {})
        stats = await client.stats()
        assert stats["ready"] is True
        assert stats["engine"] == "synthetic"
        assert stats["epoch"] == server.identity.epoch
        assert stats["kv_cache_usage"] == 0.5
        assert stats["gpu"] == {"available": True, "total_mb": 46_068, "used_mb": 46_068 // 16}, "in sixteenths"
        assert stats["models"]["loaded"] == ["tiny"]
        assert stats["models"]["details"]["tiny"]["loads"] == 1
        assert stats["requests"]["total"] == 16
        assert stats["released"]["requests"] == 16, "sixteen do"
        assert stats["requests"]["failed"] == 0


async def test_a_worker_that_still_loads_says_that_it_is_not_ready(run_worker: Run) -> None:
    gate = asyncio.Event()

    class Gated(BrokenFactory):
        async def load(self, pool: Pool) -> BrokenEngine:
            await gate.wait()
            return await super().load(pool)

    async with run_worker(Gated(), wait=False) as (_, client, _task):
        assert (await client.stats())["ready"] is False
        asking = asyncio.create_task(client.ask(COMPLETIONS, {}))
        await asyncio.sleep(0.01)
        gate.set()
        assert (await asking).body == b"half", "a request that came early waited for the load"


async def test_a_fault_of_the_message_is_answered_inside_the_envelope(run_worker: Run) -> None:
    async with run_worker(synthetic()) as (_, client, _task):
        for path, body, status in (
            (COMPLETIONS, b"{", 400),
            (COMPLETIONS, {"model": "x"}, 404),
            ("/metrics", {}, 404),
            (COMPLETIONS, {"prompt": 3}, 400),
        ):
            answered = await client.ask(path, body)
            assert answered.problem is None, "nobody in between learns why"
            assert answered.head is not None
            assert answered.head.status == status
            assert answered.json["error"]["message"]
            assert answered.tail is not None
            assert answered.tail.usage == {}, "where nothing ran, no token is counted"


@pytest.mark.parametrize(
    ("fails", "code"), [("enter", "host-failed"), ("first", "host-failed"), ("overloaded", "overloaded")]
)
async def test_a_failure_before_the_first_byte_is_a_problem(run_worker: Run, fails: str, code: str) -> None:
    factory = BrokenFactory()
    async with run_worker(factory) as (_, client, _task):
        factory.engine.fails = fails
        answered = await client.ask(COMPLETIONS, {})
        assert answered.head is None
        assert answered.problem is not None
        assert answered.problem["code"] == code
        stats = await client.stats()
        assert stats["requests"]["failed"] == 1
        assert stats["in_flight"] == 0, "the count is given back"


async def test_a_failure_after_the_first_byte_is_an_abort(run_worker: Run) -> None:
    factory = BrokenFactory()
    async with run_worker(factory) as (_, client, _task):
        factory.engine.fails = "later"
        answered = await client.ask(COMPLETIONS, {})
        assert answered.body == b"half"
        assert answered.tail is None, "a broken answer never looks finished"
        assert answered.aborted == {"reason": "host-failed"}


async def test_a_deadline_that_passes_is_a_problem_and_frees_the_engine(run_worker: Run, wait_until: Until) -> None:
    async with run_worker(synthetic(SLOW)) as (server, client, _task):
        whole = {"prompt": "x", "max_tokens": 500}
        answered = await client.infer(hop_message(COMPLETIONS, whole), deadline_ms=60)
        assert answered.problem is not None
        assert answered.problem["code"] == "deadline-exceeded"
        answered = await client.infer(hop_message(COMPLETIONS, whole | {"stream": True}, deadline_ms=60))
        assert answered.aborted == {"reason": "deadline-exceeded"}, "the sealed deadline counts too"

        async def idle() -> bool:
            return server.pools.engine_load().running == 0

        await wait_until(idle)


async def test_a_client_that_leaves_frees_its_place(run_worker: Run, wait_until: Until) -> None:
    async with run_worker(synthetic(SLOW)) as (server, client, _task):
        exchange = await client.begin(hop_message(COMPLETIONS, {"prompt": "x", "max_tokens": 5000, "stream": True}))
        await anext(exchange.chunks())
        assert server.pools.engine_load().running == 1
        exchange.link.abort()

        async def gone() -> bool:
            return server.pools.engine_load().running == 0 and not server.inference.in_flight

        await wait_until(gone)
        assert (await client.stats())["requests"]["failed"] == 0, "a client that leaves is no failure of ours"


async def test_an_abort_message_frees_its_place_too(run_worker: Run, wait_until: Until) -> None:
    async with run_worker(synthetic(SLOW)) as (server, client, _task):
        exchange = await client.begin(hop_message(COMPLETIONS, {"prompt": "x", "max_tokens": 5000, "stream": True}))
        await anext(exchange.chunks())
        await exchange.link.send(LinkType.ABORT, {"reason": "client-gone"}, timeout_s=1)

        async def gone() -> bool:
            return server.pools.engine_load().running == 0

        await wait_until(gone)
        exchange.link.abort()


async def test_what_may_neither_run_nor_wait_is_refused(run_worker: Run) -> None:
    async with run_worker(synthetic(SLOW), max_queue=1) as (_, client, _task):
        answers = await asyncio.gather(*(client.ask(COMPLETIONS, {"prompt": "x", "max_tokens": 3}) for _ in range(5)))
        assert sum(answered.head is not None for answered in answers) == 3, "two run, one waits"
        problems = [answered.problem for answered in answers if answered.problem is not None]
        assert {problem["code"] for problem in problems} == {"overloaded"}
        assert all(problem["retry_after_s"] for problem in problems)


async def test_a_pool_that_is_not_there_is_a_problem(run_worker: Run) -> None:
    async with run_worker(synthetic()) as (_, client, _task):
        for pool in ("nothing", "../tiny", "tiny/"):
            answered = await client.ask(COMPLETIONS, {"prompt": "x"}, pool=pool)
            assert answered.problem is not None
            assert answered.problem["code"] == "unknown-model-pool", pool


async def test_a_car_wash_refuses_the_old_key_until_bound_again(run_worker: Run) -> None:
    async with run_worker(synthetic()) as (server, client, _task):
        first = await client.bind()
        server.identity.washed()
        answered = await client.ask(COMPLETIONS, {"prompt": "x"})
        assert answered.problem is not None
        assert answered.problem["code"] == "host-failed"
        assert "bind" in answered.problem["detail"], "the sentence says what to do"
        second = await client.bind()
        assert second["epoch"] != first["epoch"]
        assert second["public_key"] != first["public_key"]
        answered = await client.ask(COMPLETIONS, {"prompt": "x", "max_tokens": 1})
        assert answered.head is not None
        assert answered.tail is not None
        assert answered.tail.wash == server.identity.wash, "the answer names the wash before it"


async def test_a_challenge_of_the_wrong_length_is_refused(run_worker: Run) -> None:
    async with run_worker(synthetic()) as (_, client, _task):
        for challenge in (b"short", b"x" * 33):
            assert (await client.bind(challenge))["code"] == "host-failed"


async def test_bytes_that_are_no_message_harm_only_their_own_connection(run_worker: Run) -> None:
    async with run_worker(synthetic()) as (_, client, _task):
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x01\xff\xff\xff\xff", b"\x01\x00\x00\x00\x01\xff", b""):
            link = await client.link()
            link._writer.write(garbage)
            link._writer.write_eof()
            assert await link.receive(5) is None, "the worker hangs up"
            await link.close()
        for opening in ({"op": "dance"}, {"no": "op"}):
            link = await client.link()
            await link.send(LinkType.OPEN, opening, timeout_s=1)
            reply = await link.receive(5)
            assert reply is not None
            assert reply.map()["code"] == "host-failed"
            await link.close()
        answered = await client.ask(COMPLETIONS, {"prompt": "x", "max_tokens": 1})
        assert answered.head is not None


async def test_an_altered_or_truncated_hop_request_is_host_failed(run_worker: Run) -> None:
    async with run_worker(synthetic()) as (_, client, _task):
        for garbage in (b"MRGX", b"MRGH\x01" + bytes(200), b""):
            link = await client.link()
            await link.send(LinkType.OPEN, {"op": "infer", "deadline_ms": 1000}, timeout_s=1)
            await link.send(LinkType.HOP_DATA, garbage, timeout_s=1)
            await link.send(LinkType.HOP_END, timeout_s=1)
            reply = await link.receive(5)
            assert reply is not None
            assert reply.type == LinkType.PROBLEM
            assert reply.map()["code"] == "host-failed"
            await link.close()


async def test_the_death_of_an_engine_ends_the_worker(run_worker: Run) -> None:
    factory = BrokenFactory()
    async with run_worker(factory) as (_, client, task):
        factory.engine.died.set_result("it was killed.")
        with pytest.raises(WorkerDeadError, match="pool tiny died: it was killed"):
            await asyncio.wait_for(task, 5)
        with pytest.raises(AddressError):
            await client.stats()
    assert factory.engine.closed == 1


@pytest.mark.parametrize("fails", ["hang", "hang later"])
async def test_an_engine_that_hangs_ends_the_worker_and_its_requests_in_bounded_time(
    run_worker: Run, fails: str
) -> None:
    factory = BrokenFactory()
    async with run_worker(factory, engine_stall_s=0.2) as (_, client, task):
        await asyncio.sleep(0.3)
        assert not task.done(), "an engine that owes nothing may be still"
        factory.engine.fails = fails
        answered = await asyncio.wait_for(client.ask(COMPLETIONS, {}), 5)
        with pytest.raises(WorkerDeadError, match=r"pool tiny hangs: it has made nothing for 0\.2 s"):
            await asyncio.wait_for(task, 5)
        with pytest.raises(AddressError):
            await client.stats()
    if fails == "hang":
        assert answered.problem is not None, "nothing was sent, so another host may do it"
        assert answered.problem["code"] == "host-failed"
        assert "hangs" in answered.problem["detail"], "and the sentence says why"
    else:
        assert answered.aborted == {"reason": "host-failed"}, "a stream that had begun is broken off"
    assert answered.tail is None, "and never looks finished"


@pytest.mark.parametrize(
    ("fails", "problem"),
    [("first", "host-failed"), ("later", "host-failed"), ("overloaded", "overloaded"), ("hang", "deadline-exceeded")],
)
async def test_a_request_that_fails_leaves_its_span_with_the_problem(run_worker: Run, fails: str, problem: str) -> None:
    factory = BrokenFactory()
    async with run_worker(factory) as (_, client, _task):
        factory.engine.fails = fails
        asked = hop_message(COMPLETIONS, {"prompt": SECRET}, traceparent=TRACEPARENT)
        answered = await client.infer(asked, deadline_ms=300 if fails == "hang" else 60_000)
    assert answered.spans is not None, "a trace that ends at the enclave would not say where it failed"
    (span,) = ExportTraceServiceRequest.FromString(answered.spans).resource_spans[0].scope_spans[0].spans
    assert span.trace_id.hex() in TRACEPARENT, "the span belongs to the request's trace"
    assert span.status.code == Status.STATUS_CODE_ERROR, "it is marked as failed"
    said = {attribute.key: attribute.value.string_value for attribute in span.attributes}
    assert said["mrgc.problem"] == problem, "and says as what"
    assert SECRET.encode() not in answered.spans


async def test_a_default_pool_that_cannot_be_loaded_ends_the_worker(run_worker: Run) -> None:
    async with run_worker(synthetic(), wait=False, default_model_pool="nothing") as (_, _client, task):
        with pytest.raises(ProblemError, match="nothing"):
            await asyncio.wait_for(task, 5)


async def test_a_stopping_worker_finishes_what_it_has_begun_and_takes_nothing_new(run_worker: Run) -> None:
    stop = Stop()
    async with run_worker(synthetic(SLOW), stop=stop) as (_, client, task):
        exchange = await client.begin(hop_message(COMPLETIONS, {"prompt": "x", "max_tokens": 10, "stream": True}))
        chunks = exchange.chunks()
        await anext(chunks)
        stop.request()
        async for _ in chunks:
            pass
        assert exchange.answered.tail is not None, "what was begun is finished"
        await exchange.link.close()
        await asyncio.wait_for(task, 5)
        with pytest.raises(AddressError):
            await client.stats()


async def test_a_drain_is_bounded_and_cuts_off_what_takes_longer(run_worker: Run) -> None:
    stop = Stop()
    async with run_worker(synthetic(SLOW), stop=stop, drain_timeout_s=0.05) as (_, client, task):
        exchange = await client.begin(hop_message(COMPLETIONS, {"prompt": "x", "max_tokens": 5000, "stream": True}))
        chunks = exchange.chunks()
        await anext(chunks)
        stop.request()
        await asyncio.wait_for(task, 5)
        with pytest.raises(LinkError):
            async for _ in chunks:
                pass
        assert exchange.answered.tail is None, "what was cut off does not look finished"
        exchange.link.abort()


async def test_a_socket_that_is_in_use_is_said_to_be(run_worker: Run) -> None:
    async with run_worker(synthetic()) as (server, client, _task):
        with pytest.raises(AddressError, match="another process answers"):
            await server.run(client.address, Stop())


async def test_connections_beyond_the_limit_are_closed_at_once(
    run_worker: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataplane.worker.server.MAX_CONNECTIONS", 2)
    async with run_worker(synthetic()) as (_, client, _task):
        assert isinstance(client.address, UnixAddress)
        held = []
        for _ in range(2):
            silent = socket.socket(socket.AF_UNIX)
            silent.connect(client.address.path)
            held.append(silent)
        await asyncio.sleep(0.02)
        link = await client.link()
        with contextlib.suppress(LinkError):
            await link.send(LinkType.OPEN, {"op": "stats"}, timeout_s=1)
            assert await link.receive(5) is None, "the third gets no answer"
        link.abort()
        for silent in held:
            silent.close()


async def test_a_receiver_that_stops_reading_is_cut_off_and_its_place_freed(
    run_worker: Run, monkeypatch: pytest.MonkeyPatch, wait_until: Until
) -> None:
    monkeypatch.setattr("dataplane.worker.inference.SEND_TIMEOUT_S", 0.05)

    class Endless(BrokenEngine):
        @asynccontextmanager
        async def generate(self, call: EngineCall) -> AsyncIterator[Reply]:
            del call

            async def body() -> AsyncIterator[bytes]:
                if not self.fails:
                    yield b"x"
                    return
                while True:
                    yield b"x" * 60_000

            yield Reply(status=200, content_type="x", body=body(), usage=lambda: None)

    factory = BrokenFactory()
    factory.engine = Endless()
    async with run_worker(factory) as (server, client, _task):
        factory.engine.fails = "never ends"
        exchange = await client.begin(hop_message(COMPLETIONS, {}))

        async def freed() -> bool:
            return server.inference.tally.total == 1 and not server.inference.in_flight

        await wait_until(freed)
        exchange.link.abort()


async def test_no_log_line_holds_what_was_asked(run_worker: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    factory = BrokenFactory()
    async with run_worker(factory) as (_, client, _task):
        for fails in ("", "enter", "first", "later"):
            factory.engine.fails = fails
            await client.ask(COMPLETIONS, {"prompt": SECRET})
        await client.ask(COMPLETIONS, json.dumps({"prompt": SECRET}).encode()[:-1])
    assert SECRET not in caplog.text
    assert "salt-a" not in caplog.text


def test_settings_of_a_request_are_kept_out_of_reprs() -> None:
    message: Any = hop_message(COMPLETIONS, {"prompt": SECRET})
    assert SECRET not in repr(message)
    assert SECRET not in repr(EngineCall(path="/", body=SECRET.encode()))
