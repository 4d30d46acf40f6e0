"""The tenant's client: seals a request, sends it until it is answered, and opens the response as it comes."""

from __future__ import annotations

import asyncio
import random
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, TypeVar

from opentelemetry.trace import Span

from dataplane.mesh.deadline import CAP_S, Deadline
from dataplane.mesh.deadline import HEADER as DEADLINE_HEADER
from dataplane.protocol.affinity import affinity_tags, format_affinity
from dataplane.protocol.envelope import RequestSealer
from dataplane.protocol.errors import ProblemError
from dataplane.protocol.header import RID_BYTES, RequestHeader
from dataplane.protocol.message import Receipt, RequestMessage
from dataplane.tenant.affinity import canonical_prompt
from dataplane.tenant.errors import BrokenStreamError, RequestError
from dataplane.tenant.http import AttemptError, ClusterHttp, deadline_passed, from_problem
from dataplane.tenant.models import Model, parse_models
from dataplane.tenant.response import MAX_COLLECTED_BYTES, TenantResponse
from dataplane.tenant.retry import RetryPolicy
from dataplane.tenant.session import KmsSession, SessionError
from observability import names
from observability.tracing import Telemetry, traceparent_of

HOST_VISIBLE = 1
"""The least assurance asked for by default: a genuine Nitro enclave. The local stack proves less and needs 0."""
MODELS_DEADLINE_S = 20.0
MAX_NAME = 128
"""Longest model pool and request id, in characters."""

T = TypeVar("T")


def wall_clock_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A response that was read to its end and checked."""

    status: int
    content_type: str
    body: bytes = field(repr=False)
    receipt: Receipt
    attempts: int
    request_id: str


@dataclass(slots=True)
class Counts:
    """What a client did so far: requests begun, times one was sent, requests that got no response."""

    requests: int = 0
    attempts: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One request, whatever the number of its attempts."""

    message: bytes = field(repr=False)
    model: str
    request_id: str
    affinity: str
    deadline: Deadline
    span: Span


class TenantClient:
    """An async client of one cluster for one tenant; use it as `async with client:`.

    `assurance` is the least level accepted (0 mock, 1 host-visible, 2 attested-host); `pad` the padding bucket
    in bytes (0, or a power of two from 16 to 4,096); `affinity_secret` turns affinity tags on.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        tls: ssl.SSLContext | None,
        api_key: str,
        session: KmsSession,
        telemetry: Telemetry,
        assurance: int = HOST_VISIBLE,
        pad: int = 0,
        affinity_secret: bytes | None = None,
        retry: RetryPolicy | None = None,
        clock_ms: Callable[[], int] = wall_clock_ms,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.session = session
        self.tenant = session.tenant
        self.assurance = assurance
        self.counts = Counts()
        self._http = ClusterHttp(endpoint=endpoint, tls=tls)
        self._api_key = api_key
        self._telemetry = telemetry
        self._pad = pad
        self._affinity_secret = affinity_secret
        self._retry = retry or RetryPolicy()
        self._clock_ms = clock_ms
        self._monotonic = monotonic
        self._sleep = sleep
        self._jitter = jitter

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.session.close()
        await self._http.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def infer(
        self,
        path: str,
        body: bytes,
        *,
        model: str,
        content_type: str = "application/json",
        request_id: str | None = None,
        deadline_s: float = CAP_S,
        traceparent: str | None = None,
    ) -> AsyncIterator[TenantResponse]:
        """Send one request and give its response once status and first bytes are known; leaving early aborts it.

        Attempts follow each other, each sealed anew, until one gives a first byte. Raises RequestError when none
        did, SessionError without a data key, OpenError for a response that does not open.
        """
        async with self._call(
            path, body, model, content_type, request_id=request_id, deadline_s=deadline_s, traceparent=traceparent
        ) as call:
            response = await self._repeat(call, lambda attempt: self._begin(call, attempt))
            try:
                yield response
            finally:
                await response.close()

    async def complete(
        self,
        path: str,
        body: bytes,
        *,
        model: str,
        content_type: str = "application/json",
        request_id: str | None = None,
        deadline_s: float = CAP_S,
        traceparent: str | None = None,
        limit: int = MAX_COLLECTED_BYTES,
    ) -> Completed:
        """Send one request and return its whole response, checked to the end.

        As `infer`, and a stream that breaks midway is tried again too, for nothing of it was given to anyone.
        """

        async def attempt(number: int) -> Completed:
            response = await self._begin(call, number)
            try:
                collected = await response.read(limit)
                if response.receipt is None:  # pragma: no cover - read() ends only after the receipt
                    raise BrokenStreamError("The response ended without a receipt.")
                return Completed(
                    status=response.status,
                    content_type=response.content_type,
                    body=collected,
                    receipt=response.receipt,
                    attempts=number,
                    request_id=call.request_id,
                )
            finally:
                await response.close()

        async with self._call(
            path, body, model, content_type, request_id=request_id, deadline_s=deadline_s, traceparent=traceparent
        ) as call:
            return await self._repeat(call, attempt)

    async def models(self, *, deadline_s: float = MODELS_DEADLINE_S) -> list[Model]:
        """The model pools that this tenant can ask for now; RequestError when the router does not say."""
        deadline = Deadline.after(deadline_s, monotonic=self._monotonic)
        headers = self._credentials() | {"X-Request-ID": new_request_id()}

        async def attempt(number: int) -> list[Model]:
            body = await self._http.get(
                "/models", headers=headers, attempt=number, timeout_s=deadline.remaining_s, params={}
            )
            return parse_models(body, number)

        return await self._attempts(deadline, attempt)

    @asynccontextmanager
    async def _call(
        self,
        path: str,
        body: bytes,
        model: str,
        content_type: str,
        *,
        request_id: str | None,
        deadline_s: float,
        traceparent: str | None,
    ) -> AsyncIterator[_Call]:
        """One request's span and everything about it that its attempts share."""
        request_id = request_id or new_request_id()
        deadline = Deadline.after(min(deadline_s, CAP_S), monotonic=self._monotonic)
        attributes = {names.TENANT: self.tenant, names.MODEL_POOL: model, names.REQUEST_ID: request_id}
        with self._telemetry.span(names.TENANT_REQUEST, traceparent=traceparent, attributes=attributes) as span:
            try:
                _check_names(model, request_id)
                yield _Call(
                    message=RequestMessage(path=path, content_type=content_type, body=body).encode(),
                    model=model,
                    request_id=request_id,
                    affinity=self._affinity(body),
                    deadline=deadline,
                    span=span,
                )
            except ProblemError as problem:
                # Found before anything was sent: a path, a model name or a size that the protocol does not carry.
                raise from_problem(problem, 0) from None

    async def _repeat(self, call: _Call, attempt: Callable[[int], Awaitable[T]]) -> T:
        """`_attempts` with this client's counts and the request's span."""
        self.counts.requests += 1

        async def counted(number: int) -> T:
            self.counts.attempts += 1
            call.span.set_attribute(names.ATTEMPTS, number)
            return await attempt(number)

        try:
            return await self._attempts(call.deadline, counted)
        except BaseException as error:
            self.counts.failed += 1
            if isinstance(error, RequestError):
                call.span.set_attribute(names.PROBLEM, error.code)
            raise

    async def _attempts(self, deadline: Deadline, attempt: Callable[[int], Awaitable[T]]) -> T:
        """Call `attempt(1)`, `attempt(2)` … until one succeeds, the policy gives up or the deadline is near."""
        number = 0
        while True:
            number += 1
            retry_after_s: int | None = None
            error: Exception
            try:
                return await attempt(number)
            except AttemptError as failed:
                if not failed.retry:
                    raise failed.error from None
                error, retry_after_s = failed.error, failed.error.retry_after_s
            except BrokenStreamError as failed:
                error = failed
            except SessionError as failed:
                if failed.denied:
                    raise
                error = failed
            wait_s = self._retry.delay_s(
                number, remaining_s=deadline.remaining_s, random=self._jitter, retry_after_s=retry_after_s
            )
            if wait_s is None:
                raise error from None
            await self._sleep(wait_s)

    async def _begin(self, call: _Call, attempt: int) -> TenantResponse:
        """Seal with a new `rid`, send, and open the response's first bytes."""
        key = await self.session.key(parent=call.span)
        with self._telemetry.span(names.TENANT_SEAL, parent=call.span) as span:
            header = RequestHeader(
                rid=secrets.token_bytes(RID_BYTES),
                iat=self._clock_ms(),
                tenant=self.tenant,
                model=call.model,
                kms=self.session.key_arn,
                ctx=key.context,
                wrapped=key.wrapped,
                assurance=self.assurance,
                pad=self._pad,
            )
            sealer = RequestSealer(header, key.cek)
            sealed = sealer.prefix() + b"".join(sealer.seal_message(call.message))
            span.set_attribute(names.CIPHERTEXT_BYTES, len(sealed))
        if call.deadline.remaining_ms <= 0:
            raise deadline_passed(attempt)
        http = await self._http.open(
            "POST",
            "/inference",
            headers=self._headers(call),
            attempt=attempt,
            timeout_s=call.deadline.remaining_s,
            body=sealed,
        )
        response = TenantResponse(
            http=http,
            opener=sealer.response_opener(),
            request_hash=sealer.th,
            assurance=self.assurance,
            attempts=attempt,
            request_id=call.request_id,
            deadline=call.deadline,
            telemetry=self._telemetry,
            parent=call.span,
        )
        try:
            await response.start()
        except BaseException:
            await response.close()
            raise
        return response

    def _headers(self, call: _Call) -> dict[str, str]:
        headers = self._credentials() | {
            "Content-Type": "application/octet-stream",
            "X-KMS-Key-ARN": self.session.key_arn,
            "X-Model-Pool": call.model,
            "X-Request-ID": call.request_id,
            DEADLINE_HEADER: str(call.deadline.remaining_ms),
            "traceparent": traceparent_of(call.span),
        }
        if call.affinity:
            headers["X-MRGC-Affinity"] = call.affinity
        return headers

    def _credentials(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._api_key}", "X-Tenant-ID": self.tenant}

    def _affinity(self, body: bytes) -> str:
        if self._affinity_secret is None:
            return ""
        today = datetime.fromtimestamp(self._clock_ms() / 1000, tz=UTC).date()
        return format_affinity(affinity_tags(self._affinity_secret, today, canonical_prompt(body)))


def new_request_id() -> str:
    """A request's name in logs and traces, where its caller gave none."""
    return f"req_{secrets.token_hex(12)}"


def _check_names(model: str, request_id: str) -> None:
    """Refuse what cannot stand in an HTTP header, before aiohttp does."""
    if not _fits_header(model):
        raise ProblemError("unknown-model-pool", "The model is no pool's name; give 1 to 128 printable ASCII letters.")
    if not _fits_header(request_id):
        raise ProblemError("header-mismatch", "The request id must be 1 to 128 printable ASCII characters.")


def _fits_header(text: str) -> bool:
    return 0 < len(text) <= MAX_NAME and text.isascii() and text.isprintable()
