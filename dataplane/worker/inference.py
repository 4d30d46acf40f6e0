"""One `infer`: open the hop request, run it, seal the answer as it comes, stop at once when nobody listens.

A fault of the host is a PROBLEM while nothing was sent, and an ABORT afterwards; a fault of the message is an
ordinary answer inside the hop envelope, for the tenant alone. One request's tokens and exact times go into the hop's
tail, sealed; what leaves in clear is closed by `observability/disclosure.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from opentelemetry.trace import Span

from dataplane.mesh.linkio import LinkStream
from dataplane.protocol.envelope import ResponseSealer
from dataplane.protocol.errors import LinkError, MrgcError, ProblemError
from dataplane.protocol.hop import HopHead, HopMessage, HopRequestOpener, HopTail
from dataplane.protocol.keys import SALT_BYTES
from dataplane.protocol.link import MAX_PAYLOAD_BYTES, LinkMessage, LinkType
from dataplane.worker.engine import EngineError, EngineOverloadedError, Reply, Usage
from dataplane.worker.gathered import gathered
from dataplane.worker.identity import WorkerIdentity
from dataplane.worker.pools import LoadedPool, Pools
from dataplane.worker.prepare import InnerError, prepare
from dataplane.worker.release import Sample
from dataplane.worker.tally import Tally
from observability import names
from observability.timeline import Timeline
from observability.tracing import Telemetry

RECEIVE_TIMEOUT_S: Final = 30.0
"""Longest silence while a request arrives: it comes from the same host, at most 4 MiB of it."""

SEND_TIMEOUT_S: Final = 30.0
"""Longest a peer may take nothing of an answer; then it is cut off, and the engine is free again."""

DEFAULT_DEADLINE_MS: Final = 600_000
"""Ten minutes, for a request that says nothing: an upper bound on what one request may hold."""

WATCH_S: Final = 3600.0
RETRY_AFTER_S: Final = 1
JSON: Final = "application/json"

NO_TOKENS: Final = Usage(prompt_tokens=0, completion_tokens=0, cached_tokens=0)
"""What a message used that the engine did not run."""

logger = logging.getLogger(__name__)


class ClientGoneError(Exception):
    """The other side of the connection left, or said ABORT."""


@dataclass(slots=True, kw_only=True)
class Inference:
    """Runs the `infer` operation for every connection that asks; holds the count of requests in flight."""

    identity: WorkerIdentity
    pools: Pools
    telemetry: Telemetry
    tally: Tally
    engine_kind: str
    max_queue: int
    monotonic: Callable[[], float]
    random: Callable[[int], bytes] = os.urandom
    in_flight: dict[str, int] = field(default_factory=dict)

    async def serve(self, link: LinkStream, opening: Mapping[str, Any]) -> None:
        """Serve one request on `link`, from after its OPEN to the end of the connection's work."""
        answer = Answer(link)
        failed = True
        try:
            async with asyncio.timeout(_deadline_s(opening.get("deadline_ms"))) as limit:
                await self._serve(link, opening, answer, limit)
            failed = False
        except ClientGoneError:
            failed = False
        except TimeoutError:
            await answer.refuse(ProblemError("deadline-exceeded", "The request's deadline passed at the GPU worker."))
        except ProblemError as problem:
            await answer.refuse(problem)
        except LinkError as error:
            logger.warning("a request's connection broke: %s", error)
            link.abort()
        except MrgcError as error:
            logger.error("a request failed: %s", error)  # noqa: TRY400 - the sentence says it
            await answer.refuse(ProblemError("host-failed", "The GPU worker's engine failed."))
        finally:
            self.tally.ended(failed=failed)

    async def _serve(
        self, link: LinkStream, opening: Mapping[str, Any], answer: Answer, limit: asyncio.Timeout
    ) -> None:
        """Serve to the end, or raise what `serve` handles."""
        opener = await receive_request(link, self.identity.opener())
        encoded = opener.message()
        if encoded is None or opener.header is None:
            raise ProblemError("host-failed", "The hop request ended before its message did.")
        self.identity.serve_once(opener.header)
        message = HopMessage.decode(encoded)
        if message.deadline_ms:
            _shorten(limit, message.deadline_ms / 1000)
        answer.sealer = opener.response_sealer(self.random(SALT_BYTES))
        attributes = {names.MODEL_POOL: message.model, names.ENGINE: self.engine_kind}
        traceparent = message.traceparent or opening.get("traceparent")
        known = traceparent if isinstance(traceparent, str) else None
        trace_id = 0
        try:
            with self.telemetry.span(names.WORKER_GENERATE, traceparent=known, attributes=attributes) as span:
                trace_id = span.get_span_context().trace_id
                with _naming_failures(span, limit):
                    await self._unless_over(link, self._answer(message, answer, span))
        finally:
            # Also where the request failed: its span says how, and must not stay here.
            answer.spans = self.telemetry.take(trace_id)
        await answer.send_spans()
        await link.send(LinkType.HOP_END, timeout_s=SEND_TIMEOUT_S)

    async def _unless_over(self, link: LinkStream, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` to its end, or cancel it, and wait for that, as soon as the peer leaves or an engine is gone."""
        running = asyncio.ensure_future(work)
        leaving = asyncio.create_task(_gone(link), name="watch-client")
        dying = asyncio.create_task(self.pools.wait_failed(), name="watch-engine")
        try:
            await asyncio.wait({running, leaving, dying}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                running.cancel()
                await asyncio.wait({running})
                if running.cancelled() or running.exception() is not None:
                    if dying.done() and not dying.cancelled():
                        raise ProblemError("host-failed", dying.result())
                    raise ClientGoneError
            await running
        finally:
            for task in (running, leaving, dying):
                task.cancel()
            await asyncio.gather(running, leaving, dying, return_exceptions=True)

    async def _answer(self, message: HopMessage, answer: Answer, span: Span) -> None:
        """Run one message and send its whole answer."""
        timeline = Timeline(self.monotonic)
        wash = self.identity.wash  # the one before this request, whatever comes while it runs
        self._admit(message.model)
        self.in_flight[message.model] = self.in_flight.get(message.model, 0) + 1
        try:
            async with AsyncExitStack() as stack:
                loaded = await stack.enter_async_context(self.pools.use(message.model))
                self._check_queue(loaded)
                asked_us = timeline.now_us()
                reply = await self._reply(message, loaded, stack)
                head = HopHead(
                    status=reply.status,
                    content_type=reply.content_type,
                    engine=self.engine_kind,
                    model_digest=loaded.pool.digest,
                )
                first_us, kv_cache_usage = asked_us, 0.0
                # The head waits for the first piece: an engine that fails before it can still be retried elsewhere.
                async with aclosing(gathered(reply.body, monotonic=self.monotonic)) as frames:
                    async for frame in frames:
                        if not answer.sent:
                            first_us, kv_cache_usage = timeline.now_us(), loaded.engine.load().kv_cache_usage
                            await answer.send(head.encode(), frame)
                        else:
                            await answer.send(frame)
                if not answer.sent:
                    await answer.send(head.encode())
                usage = reply.usage()
            ended_us = timeline.now_us()
            # A message that was refused counts as well, with no tokens: when a window is full must not tell which were.
            sample = _sample(usage or NO_TOKENS, asked_us, first_us, ended_us, kv_cache_usage)
            self.tally.answered(sample, now_s=self.monotonic())
            timeline.add(names.WORKER_GENERATE, 0, ended_us)
            timeline.add(names.WORKER_FIRST_PIECE, asked_us, first_us)
            timeline.add(names.WORKER_STREAM, first_us, ended_us)
            tail = HopTail(
                usage=usage.as_map(cached=loaded.pool.options.report_cached_tokens) if usage is not None else {},
                wash=wash,
                # A tenant who does not want to be traced gets no spans of any kind.
                spans=timeline.spans() if span.get_span_context().trace_flags.sampled else (),
            )
            await answer.send(tail.encode(), final=True)
        finally:
            self._leave(message.model)

    async def _reply(self, message: HopMessage, loaded: LoadedPool, stack: AsyncExitStack) -> Reply:
        """The engine's reply, or the one that a faulty message gets without the engine."""
        try:
            call = prepare(
                path=message.path,
                body=message.body,
                pool=message.model,
                cache_salt=message.cache_salt,
                priority=message.priority,
            )
            return await stack.enter_async_context(loaded.engine.generate(call))
        except InnerError as error:
            return Reply(status=error.status, content_type=JSON, body=_once(error.body), usage=_no_usage)
        except EngineOverloadedError as error:
            raise ProblemError("overloaded", "The engine's queue is full.", retry_after_s=RETRY_AFTER_S) from error
        except EngineError as error:
            raise ProblemError("host-failed", "The engine failed before it answered.") from error

    def _admit(self, pool: str) -> None:
        """Refuse before a load is waited for: a pool that loads may collect a queue, and no more than that."""
        if not self.pools.is_loaded(pool) and self.in_flight.get(pool, 0) > self.max_queue:
            raise self._overloaded()

    def _check_queue(self, loaded: LoadedPool) -> None:
        """Refuse beyond what runs and may wait; this request is among those in flight already."""
        if self.in_flight.get(loaded.pool.name, 0) > loaded.engine.capacity + self.max_queue:
            raise self._overloaded()

    def _overloaded(self) -> ProblemError:
        return ProblemError("overloaded", "The GPU worker's queue is full.", retry_after_s=RETRY_AFTER_S)

    def _leave(self, pool: str) -> None:
        left = self.in_flight[pool] - 1
        if left:
            self.in_flight[pool] = left
        else:
            del self.in_flight[pool]


class Answer:
    """One answer on its way out: seals, sends, and knows whether anything was sent."""

    def __init__(self, link: LinkStream) -> None:
        """Nothing can be sealed before the request was opened."""
        self._link = link
        self.sent = False
        self.spans: bytes | None = None
        self.sealer: ResponseSealer | None = None

    async def send(self, *pieces: bytes, final: bool = False) -> None:
        """Seal each piece into frames of its own and send them together; waits while the peer is slow."""
        if self.sealer is None:
            raise LinkError("an answer was made before its request was opened")
        sealed = [] if self.sent else [self.sealer.prefix()]
        self.sent = True
        sealed += [self.sealer.seal(piece, final=final) for piece in pieces]
        await self._link.send(LinkType.HOP_DATA, b"".join(sealed), timeout_s=SEND_TIMEOUT_S)

    async def send_spans(self) -> None:
        """Hand over the request's finished spans, where there are any."""
        if self.spans is not None and len(self.spans) <= MAX_PAYLOAD_BYTES:
            await self._link.send(LinkType.SPANS, self.spans, timeout_s=SEND_TIMEOUT_S)

    async def refuse(self, problem: ProblemError) -> None:
        """End with a PROBLEM, or, after the first byte of the answer, with an ABORT; the spans go before it."""
        kind = LinkType.ABORT if self.sent else LinkType.PROBLEM
        fields: dict[str, object] = {"reason": problem.code} if self.sent else problem_map(problem)
        try:
            await self.send_spans()
            await self._link.send(kind, fields, timeout_s=SEND_TIMEOUT_S)
        except LinkError:
            self._link.abort()


def problem_map(problem: ProblemError) -> dict[str, object]:
    """A PROBLEM's payload."""
    fields: dict[str, object] = {"code": problem.code, "detail": problem.detail}
    if problem.retry_after_s is not None:
        fields["retry_after_s"] = problem.retry_after_s
    return fields


async def receive_request(link: LinkStream, opener: HopRequestOpener) -> HopRequestOpener:
    """Read HOP_DATA up to HOP_END; raises `ClientGoneError`, or `ProblemError` host-failed for a bad hop request."""
    while True:
        message = await link.receive(RECEIVE_TIMEOUT_S)
        if message is None or message.type in (LinkType.ABORT, LinkType.HOP_ABORT):
            raise ClientGoneError
        if message.type == LinkType.HOP_END:
            opener.finish()
            return opener
        if message.type != LinkType.HOP_DATA:
            raise LinkError(f"a {message.type.name} message came where HOP_DATA or HOP_END belongs")
        opener.feed(message.payload)


@contextmanager
def _naming_failures(span: Span, limit: asyncio.Timeout) -> Iterator[None]:
    """Name on the span the problem that a failure will be told as; a client that leaves is none."""
    try:
        yield
    except ProblemError as problem:
        span.set_attribute(names.PROBLEM, problem.code)
        raise
    except MrgcError:
        span.set_attribute(names.PROBLEM, "host-failed")
        raise
    except asyncio.CancelledError:
        if limit.expired():
            span.set_attribute(names.PROBLEM, "deadline-exceeded")
        raise


async def _gone(link: LinkStream) -> None:
    """Return when the peer closes, aborts, or breaks the link's rules."""
    while True:
        try:
            message: LinkMessage | None = await link.receive(WATCH_S)
        except TimeoutError:
            continue
        except LinkError:
            return
        if message is None or message.type in (LinkType.ABORT, LinkType.HOP_ABORT):
            return
        # Nothing else may come after HOP_END; what does is no reason to go on.
        return


def _sample(usage: Usage, asked_us: int, first_us: int, ended_us: int, kv_cache_usage: float) -> Sample:
    """What this request adds to the totals that are released over many."""
    return Sample(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
        prefill_ms=(first_us - asked_us) // 1000,
        decode_ms=(ended_us - first_us) // 1000,
        kv_cache_usage=kv_cache_usage,
    )


def _deadline_s(given: object) -> float:
    """Seconds that remain, from OPEN's milliseconds."""
    valid = isinstance(given, int) and not isinstance(given, bool) and 0 < given <= DEFAULT_DEADLINE_MS
    return (given if valid and isinstance(given, int) else DEFAULT_DEADLINE_MS) / 1000


def _shorten(limit: asyncio.Timeout, seconds: float) -> None:
    """Bring a deadline forward, never back."""
    soonest = asyncio.get_running_loop().time() + seconds
    now = limit.when()
    limit.reschedule(soonest if now is None else min(now, soonest))


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _no_usage() -> Usage | None:
    return None
