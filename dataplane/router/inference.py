"""`POST /inference` between tenant and host: who may, where to, and the stream back.

Nothing is sent to the tenant before the first piece of the answer is there, because until then another host can be
tried. After it, an answer that breaks off is cut at the transport: a chunked body that is ended properly would look
complete.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from contextlib import ExitStack

from aiohttp import HttpVersion11, web
from opentelemetry.trace import Span, StatusCode

from dataplane.mesh.admission import Admission
from dataplane.mesh.deadline import Deadline
from dataplane.protocol.errors import ProblemError
from dataplane.router.forward import Forwarder, Trail
from dataplane.router.head import (
    CONTENT_TYPE,
    RouteRequest,
    read_credentials,
    read_fields,
    read_request_id,
    read_route,
    read_traceparent,
)
from dataplane.router.limits import TenantLimits
from dataplane.router.metrics import RouterMetrics
from dataplane.router.replay import ReplayStore, RequestBody
from dataplane.router.server import problem_response
from dataplane.router.tenants import TenantDirectory, Tenants
from dataplane.router.upstream import Answer, BrokenStreamError
from observability import names
from observability.tracing import Telemetry

ADMISSION_WAIT_S = 0.001
"""The router itself queues nothing: hosts queue, and they know their order better."""

logger = logging.getLogger(__name__)


class InferenceHandler:
    """Answers inference requests. `closing()` says whether a drain has come so far that nothing new is taken."""

    def __init__(
        self,
        *,
        tenants: TenantDirectory,
        limits: TenantLimits,
        admission: Admission,
        forwarder: Forwarder,
        store: ReplayStore,
        metrics: RouterMetrics,
        telemetry: Telemetry,
        monotonic: Callable[[], float],
        region: str,
        body_idle_s: float,
        stream_idle_s: float,
        write_stall_s: float,
        draining: Callable[[], bool],
        closing: Callable[[], bool],
        prove: Callable[[web.BaseRequest], None],
    ) -> None:
        """Keep the parts; `prove` is told of every request whose API key was right."""
        self._tenants = tenants
        self._limits = limits
        self._admission = admission
        self._forwarder = forwarder
        self._store = store
        self._metrics = metrics
        self._telemetry = telemetry
        self._monotonic = monotonic
        self._region = region
        self._body_idle_s = body_idle_s
        self._stream_idle_s = stream_idle_s
        self._write_stall_s = write_stall_s
        self._draining = draining
        self._closing = closing
        self._prove = prove

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; every refusal is a problem document with the request's id on it."""
        trail = Trail()
        request_id = f"req-{uuid.uuid4().hex}"
        outcome = "tenant-gone"
        try:
            fields = read_fields(request.raw_headers)
            request_id = read_request_id(fields) or request_id
            with self._telemetry.span(
                names.ROUTER_ROUTE,
                traceparent=read_traceparent(fields),
                attributes={names.REQUEST_ID: request_id},
            ) as span:
                try:
                    response, outcome = await self._route(request, fields, request_id, span, trail)
                except ProblemError as problem:
                    span.set_attribute(names.PROBLEM, problem.code)
                    span.set_status(StatusCode.ERROR, problem.code)
                    raise
                finally:
                    span.set_attribute(names.ATTEMPTS, trail.attempts)
        except ProblemError as problem:
            outcome = problem.code
            response = problem_response(problem, self._headers(request_id, trail))
            if self._draining() or problem.code == "malformed-envelope" or not request.content.is_eof():
                # What is left of a refused body is not worth reading, and where the framing is in doubt nothing that
                # follows may be taken for a request: the tenant opens a new connection.
                response.force_close()
        finally:
            self._metrics.requests.labels(outcome).inc()
        return response

    async def _route(
        self, request: web.BaseRequest, fields: dict[str, str], request_id: str, span: Span, trail: Trail
    ) -> tuple[web.StreamResponse, str]:
        started = self._monotonic()
        if request.version < HttpVersion11:
            raise ProblemError("malformed-envelope", "HTTP/1.0 can't carry a streamed answer; send HTTP/1.1.")
        if self._closing():
            raise ProblemError("no-capacity", "This router is shutting down; try again.", retry_after_s=1)
        credentials = read_credentials(fields)
        tenant = self._tenants.current.authenticate(credentials.tenant, credentials.api_key)
        self._prove(request)
        route = read_route(fields)
        span.set_attribute(names.TENANT, tenant.id)
        span.set_attribute(names.MODEL_POOL, route.model)
        Tenants.check_key(tenant, route.kms)
        deadline = Deadline.from_header(route.deadline, monotonic=self._monotonic)
        async with self._admission.slot(timeout_s=ADMISSION_WAIT_S):
            with ExitStack() as held:
                lease = self._limits.admit(
                    tenant.id,
                    max_in_flight=tenant.max_in_flight,
                    per_minute=tenant.requests_per_minute,
                    now=started,
                )
                held.callback(lease.release)
                body = self._body(request, route)
                held.callback(body.stop_keeping)
                answer = await self._forwarder.forward(
                    route, body, request_id=request_id, deadline=deadline, parent=span, trail=trail
                )
                held.callback(answer.close)
                self._metrics.first_byte.observe(self._monotonic() - started)
                return await self._stream(request, answer, deadline, self._headers(request_id, trail))

    async def _stream(
        self, request: web.BaseRequest, answer: Answer, deadline: Deadline, headers: dict[str, str]
    ) -> tuple[web.StreamResponse, str]:
        response = web.StreamResponse(headers={**headers, "Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})
        response.enable_chunked_encoding()
        if self._draining():
            response.force_close()
        try:
            await response.prepare(request)
            piece = answer.first
            while piece:
                await self._write(response, piece, deadline)
                piece = await answer.next(idle_s=self._stream_idle_s, deadline=deadline)
            await response.write_eof()
        except BrokenStreamError as error:
            if error.by_host:
                answer.flight.failed()
            logger.warning(
                "an answer was cut: %s", error, extra={"instance": headers["X-MRGC-Instance"], "reason": "broken"}
            )
        except ConnectionError:
            return response, "tenant-gone"
        else:
            return response, "ok"
        if request.transport is not None:
            request.transport.abort()
        return response, "aborted"

    async def _write(self, response: web.StreamResponse, piece: bytes, deadline: Deadline) -> None:
        """Hand a piece to the tenant; a tenant that takes nothing holds the host back, but not for ever."""
        remaining_s = deadline.remaining_s
        try:
            async with asyncio.timeout(min(self._write_stall_s, remaining_s)):
                await response.write(piece)
        except TimeoutError:
            raise BrokenStreamError("The tenant took no bytes in time.", by_host=False) from None

    def _body(self, request: web.BaseRequest, route: RouteRequest) -> RequestBody:
        waiting = route.framing.expects_continue

        async def read() -> bytes:
            nonlocal waiting
            if waiting:
                waiting = False
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                # The interim answer is no part of the answer: aiohttp would take the head for sent.
                request.writer.output_size = 0
            try:
                return await request.content.readany()
            except web.RequestPayloadError as error:
                raise ValueError("the body's framing is broken") from error

        return RequestBody(read, store=self._store, idle_s=self._body_idle_s)

    def _headers(self, request_id: str, trail: Trail) -> dict[str, str]:
        headers = {
            "X-Request-ID": request_id,
            "X-MRGC-Region": self._region,
            "X-MRGC-Attempts": str(trail.attempts),
        }
        if trail.instance_id is not None:
            headers["X-MRGC-Instance"] = trail.instance_id
        return headers
