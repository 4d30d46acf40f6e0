"""The parent's HTTP pages: inference, health, metrics and attestation.

A response's head is sent when the enclave's first bytes are there, so that a refusal keeps its status and a router may
try another host. A response that has begun and breaks is aborted: its last chunk is never sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web
from opentelemetry.trace import Span, StatusCode

from dataplane.mesh.admission import Admission
from dataplane.mesh.deadline import HEADER as DEADLINE_HEADER
from dataplane.mesh.deadline import Deadline
from dataplane.mesh.health import Health
from dataplane.parent.attestations import PERIOD_S, SharedAttestations
from dataplane.parent.calls import ATTEST_TIMEOUT_S, FAILURES, HostCalls
from dataplane.parent.exposition import ParentMetrics
from dataplane.parent.headers import CONTENT_TYPE, InferenceHeaders, read_inference_headers, read_nonce
from dataplane.parent.relay import ClientGone, Relay, StreamBroken, too_large
from dataplane.parent.report import health_page, metrics_page
from dataplane.parent.settings import ParentSettings
from dataplane.parent.view import HostView
from dataplane.protocol.attestation.nonces import NONCES_HEADER
from dataplane.protocol.errors import ProblemError
from dataplane.protocol.suite import MAX_BODY_BYTES
from observability import names
from observability.tracing import Telemetry, traceparent_of

HOST_FAULTS = ("host-failed", "no-capacity", "deadline-exceeded")
"""Problems that count against this host's health; the others are the request's."""
PROMETHEUS_TYPES = ("text/plain", "application/openmetrics-text")
ATTESTATION_WAIT_S = PERIOD_S + ATTEST_TIMEOUT_S
"""Longest wait for an attestation document: for the next one to be begun, and for it to be made."""

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class ParentPages:
    """The handlers, with everything that they need."""

    settings: ParentSettings
    relay: Relay
    calls: HostCalls
    view: HostView
    health: Health
    admission: Admission
    metrics: ParentMetrics
    telemetry: Telemetry
    monotonic: Callable[[], float] = time.monotonic
    attestations: SharedAttestations = field(init=False)

    def __post_init__(self) -> None:
        """Make what is made of the other parts."""
        self.attestations = SharedAttestations(self.calls.attest, monotonic=self.monotonic)

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(middlewares=[_problems])
        app.router.add_post("/inference", self.inference)
        app.router.add_get("/health", self.health_report)
        app.router.add_get("/metrics", self.metrics_report)
        app.router.add_get("/attestation", self.attestation)
        app.on_cleanup.append(self._close)
        return app

    async def inference(self, request: web.Request) -> web.StreamResponse:
        """`POST /inference`."""
        started = self.monotonic()
        headers = read_inference_headers(request.headers, default_model=self.settings.default_model_pool)
        attributes = {
            names.TENANT: headers.tenant,
            names.MODEL_POOL: headers.model,
            names.REQUEST_ID: headers.request_id,
            names.INSTANCE: self.settings.instance_id,
        }
        with self.telemetry.span(
            names.PARENT_INFERENCE, traceparent=headers.traceparent, attributes=attributes
        ) as span:
            outcome = "client-gone"
            try:
                response, outcome = await self._serve(request, headers, span, started)
            except ProblemError as problem:
                outcome = problem.code
                span.set_attribute(names.PROBLEM, problem.code)
                span.set_attribute(names.HTTP_STATUS, problem.status)
                raise
            finally:
                self._account(outcome, started)
            return response

    async def _serve(
        self, request: web.Request, headers: InferenceHeaders, span: Span, started: float
    ) -> tuple[web.StreamResponse, str]:
        if self.health.draining:
            raise ProblemError("no-capacity", "This host is being drained; use another.", retry_after_s=1)
        deadline = Deadline.from_header(
            request.headers.get(DEADLINE_HEADER),
            monotonic=self.monotonic,
            default_s=self.settings.default_deadline_s,
            cap_s=self.settings.max_deadline_s,
        )
        if request.content_length is not None and request.content_length > MAX_BODY_BYTES:
            raise too_large()
        client = _HttpClient(request, headers.request_id, lambda: self._note_first_byte(started))
        wait_s = min(self.settings.max_queue_wait_s, deadline.remaining_s)
        async with self.admission.slot(timeout_s=wait_s):
            try:
                await self.relay.run(client, headers, deadline=deadline, traceparent=traceparent_of(span) or None)
            except (StreamBroken, ClientGone) as error:
                client.abort()
                outcome = "client-gone" if isinstance(error, ClientGone) else "aborted"
                span.set_status(StatusCode.ERROR, outcome)
                logger.info("a response was aborted: %s", error, extra={"request_id": headers.request_id})
                return client.response, outcome
            except asyncio.CancelledError:
                client.abort()  # the client has gone, or the drain's time is up
                raise
        span.set_attribute(names.HTTP_STATUS, client.response.status)
        span.set_attribute(names.CIPHERTEXT_BYTES, client.written)
        return client.response, "ok"

    def _note_first_byte(self, started: float) -> None:
        elapsed = self.monotonic() - started
        self.view.note_first_byte(elapsed)
        self.metrics.first_byte_s.observe(elapsed)

    def _account(self, outcome: str, started: float) -> None:
        self.view.count(outcome)
        self.metrics.duration_s.observe(self.monotonic() - started)
        if outcome == "ok":
            self.view.note_success(ok=True)
        elif outcome == "aborted" or outcome in HOST_FAULTS:
            self.view.note_success(ok=False)

    async def _close(self, _app: web.Application) -> None:
        await self.attestations.close()

    async def health_report(self, _request: web.Request) -> web.Response:
        """`GET /health`: 200 when requests should come, 503 when not."""
        status = 200 if self.health.ready else 503
        return web.json_response(health_page(self.view, self.health), status=status)

    async def metrics_report(self, request: web.Request) -> web.Response:
        """`GET /metrics`: JSON, or Prometheus text when `Accept` asks for it."""
        accept = request.headers.get("Accept", "")
        if any(kind in accept for kind in PROMETHEUS_TYPES):
            body, content_type = self.metrics.text(accept)
            return web.Response(body=body, headers={"Content-Type": content_type})
        return web.json_response(metrics_page(self.view, self.health))

    async def attestation(self, request: web.Request) -> web.Response:
        """`GET /attestation?nonce=<hex>`: a fresh document of the enclave, which may serve other askers too."""
        nonce = read_nonce(request.query.get("nonce"))
        try:
            async with asyncio.timeout(ATTESTATION_WAIT_S):
                shared = await self.attestations.document(nonce)
        except ProblemError:
            raise
        except FAILURES:
            raise ProblemError(
                "host-failed", "The host's enclave gave no attestation document.", retry_after_s=1
            ) from None
        headers = {"Cache-Control": "no-store"}
        if shared.nonces is not None:
            headers[NONCES_HEADER] = shared.nonces
        return web.Response(body=shared.document, content_type="application/cbor", headers=headers)


class _HttpClient:
    """The Client of the relay over aiohttp."""

    def __init__(self, request: web.Request, request_id: str, on_first_byte: Callable[[], None]) -> None:
        self._request = request
        self._on_first_byte = on_first_byte
        self.written = 0
        self.response = web.StreamResponse(
            status=200,
            headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store", "X-Request-ID": request_id},
        )

    async def read(self) -> bytes:
        try:
            return await self._request.content.readany()
        except web.RequestPayloadError:
            raise ProblemError("malformed-envelope", "The request's body breaks HTTP's chunked coding.") from None
        except ConnectionError:
            raise ClientGone("The client closed its connection before the request was complete.") from None

    async def begin(self) -> None:
        self._on_first_byte()
        self.response.enable_chunked_encoding()
        try:
            await self.response.prepare(self._request)
        except ConnectionError:
            raise ClientGone("The client closed its connection before the response began.") from None

    async def write(self, data: bytes) -> None:
        try:
            await self.response.write(data)
        except ConnectionError:
            raise ClientGone("The client closed its connection before the response was complete.") from None
        self.written += len(data)

    def abort(self) -> None:
        """Cut the connection: no last chunk, so the other side cannot take what it has for the whole."""
        if (transport := self._request.transport) is not None:
            transport.abort()


@web.middleware
async def _problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer every refusal as problem details."""
    try:
        return await handler(request)
    except ProblemError as problem:
        return _answer(problem)
    except web.HTTPNotFound:
        return _answer(ProblemError("not-found", "There is no such page; the parent serves /inference."))


def _answer(problem: ProblemError) -> web.Response:
    return web.Response(status=problem.status, body=problem.to_json(), headers=problem.headers())
