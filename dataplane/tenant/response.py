"""A response as it opens: status and type first, the body's bytes as they come, the receipt at the end."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import ExitStack

import aiohttp
from opentelemetry.trace import Span, StatusCode

from dataplane.mesh.deadline import Deadline
from dataplane.protocol.envelope import Opened, ResponseOpener
from dataplane.protocol.errors import MrgcError, OpenError
from dataplane.protocol.message import ResponseHead
from dataplane.protocol.receipt import Receipt
from dataplane.tenant.bundle import ReceiptBundle
from dataplane.tenant.disclosure import ExchangeRecorder
from dataplane.tenant.errors import BrokenStreamError, RequestError
from dataplane.tenant.pins import Pins, checked_receipt
from observability import names
from observability.tracing import Telemetry

MAX_COLLECTED_BYTES = 64 << 20
"""Longest body that `read` collects: 2,048 embeddings of 4,096 numbers as text are about 90 MB as float lists and 45 MB
in base64; the engine's usual batches are far below."""

TAIL_S = 1.0
"""How long the stream's end may follow its last frame; nothing that is still to come would be accepted."""


class TenantResponse:
    """One response that is being opened; `TenantClient.infer` gives it.

    `status` and `content_type` are the engine's own, from inside the envelope. `request_hash` is what the receipt must
    name. `receipt` is None until the last chunk was read; then `region` and `instance` are the enclave's word, before
    that the router's headers.
    """

    status: int
    content_type: str

    def __init__(
        self,
        *,
        http: aiohttp.ClientResponse,
        opener: ResponseOpener,
        request_hash: bytes,
        assurance: int,
        attempts: int,
        request_id: str,
        deadline: Deadline,
        telemetry: Telemetry,
        parent: Span,
        pins: Pins = Pins(),  # noqa: B008 - frozen, and pins nothing
        recorder: ExchangeRecorder | None = None,
    ) -> None:
        self.attempts = attempts
        self.request_id = request_id
        self.region = http.headers.get("X-MRGC-Region", "")
        self.instance = http.headers.get("X-MRGC-Instance", "")
        self.receipt: Receipt | None = None
        self._http = http
        self._opener = opener
        self.request_hash = request_hash
        self._transcript = hashlib.sha256()
        self._assurance = assurance
        self._pins = pins
        self._recorder = recorder
        self._raw_receipt = b""
        self._deadline = deadline
        self._ready: deque[bytes] = deque()
        self._head: ResponseHead | None = None
        self._finished = False
        self._parent = parent
        self._spans = ExitStack()
        self._span = self._spans.enter_context(telemetry.span(names.TENANT_OPEN, parent=parent))

    async def start(self) -> None:
        """Read until status, type and the first bytes of the body are known (or the response is complete)."""
        while not self._ready and not self._finished:
            await self._pull()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body's bytes as they open.

        Ends only when the final frame opened and its receipt is signed and names this request, these bytes, the
        assurance asked for and what the tenant pinned. Otherwise raises ReceiptError or another OpenError,
        BrokenStreamError when the stream ended early, or RequestError past the deadline.
        """
        while True:
            while self._ready:
                yield self._ready.popleft()
            if self._finished:
                return
            await self._pull()

    async def read(self, limit: int = MAX_COLLECTED_BYTES) -> bytes:
        """The whole body, checked to its end; OpenError when it is longer than `limit` bytes."""
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > limit:
                raise OpenError(f"The response is over {limit} bytes; ask for it as a stream.")
        return bytes(body)

    def bundle(self) -> ReceiptBundle:
        """The receipt as it is kept for others, still without the enclave's document.

        Raises BrokenStreamError before the receipt was checked, ReceiptError where an exchange that was to be disclosed
        is too long for it.
        """
        if self.receipt is None or self._head is None:
            raise BrokenStreamError("The response has no receipt yet; read it to its end.")
        return ReceiptBundle(
            receipt=self._raw_receipt,
            head=self._head.encode(),
            request_id=self.request_id,
            disclosed=None if self._recorder is None else self._recorder.disclosed(),
        )

    async def close(self) -> None:
        """End the response; one that is not complete is aborted, which cancels it at the host."""
        if self._finished:
            self._http.release()
        else:
            self._span.set_status(StatusCode.ERROR, "incomplete")
            self._http.close()
        self._spans.close()

    async def _pull(self) -> None:
        left_s = self._deadline.remaining_s
        try:
            async with asyncio.timeout(left_s if self.receipt is None else TAIL_S):
                data = await self._http.content.readany()
        except TimeoutError:
            if self.receipt is not None:
                self._finished = True
                return
            raise RequestError(
                "The deadline passed while the response was arriving; allow more time or ask for less.",
                code="deadline-exceeded",
                status=504,
                attempts=self.attempts,
            ) from None
        except (aiohttp.ClientError, ConnectionError):
            if self.receipt is not None:
                # Everything was opened and checked; how the connection ends after that changes nothing.
                self._finished = True
                return
            raise self._broken() from None
        if not data:
            if self.receipt is None:
                raise self._broken()
            self._finished = True
            return
        self._open(data)

    def _open(self, data: bytes) -> None:
        if self._recorder is not None:
            self._recorder.feed(data)
        try:
            for opened in self._opener.feed(data):
                self._take(opened)
        except OpenError:
            raise
        except MrgcError as error:
            raise OpenError(f"The response does not open: {error}") from error

    def _take(self, opened: Opened) -> None:
        if self._head is not None and opened.final:
            self._check(self._head, opened.data)
            return
        self._transcript.update(opened.data)
        if self._head is None:
            if opened.final:
                raise OpenError("The response has a receipt and no answer; report it to the operator.")
            self._head = ResponseHead.decode(opened.data)
            self.status, self.content_type = self._head.status, self._head.content_type
        elif opened.data:
            self._ready.append(opened.data)

    def _check(self, head: ResponseHead, data: bytes) -> None:
        receipt = checked_receipt(
            data,
            request=self.request_hash,
            response=self._transcript.digest(),
            assurance=self._assurance,
            status=head.status,
            pins=self._pins,
        )
        self.receipt, self._raw_receipt = receipt, data
        self.region, self.instance = receipt.region, receipt.instance
        self._parent.set_attribute(names.ASSURANCE, receipt.assurance)
        self._parent.set_attribute(names.INSTANCE, receipt.instance)

    def _broken(self) -> BrokenStreamError:
        return BrokenStreamError("The response was cut off before its end: it is incomplete; ask again.")
