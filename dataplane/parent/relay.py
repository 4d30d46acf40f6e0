"""One inference request: client to enclave and back, and the hop between enclave and worker, ciphertext all of it.

Sans HTTP: the client is two coroutines, so that every way of breaking is tested without a server. Nothing is kept
beyond what the links' buffers hold: a side that does not read stops the side that writes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from dataplane.mesh.address import AddressError
from dataplane.mesh.deadline import Deadline
from dataplane.mesh.linkio import LinkStream
from dataplane.parent.calls import LinkOpener, problem_of
from dataplane.parent.headers import InferenceHeaders
from dataplane.protocol.errors import LinkError, MrgcError, ProblemError
from dataplane.protocol.link import LinkMessage, LinkType
from dataplane.protocol.suite import MAX_BODY_BYTES, MAX_MESSAGE_BYTES

ABORT_TIMEOUT_S = 0.2
"""For telling the enclave that the client is gone; the closed connection says the same a little later."""
SLACK_S = 1.0
"""Inner limits lie this far behind the deadline, so that the deadline's own error is the one seen."""
HOP_REASONS = ("host-failed", "overloaded", "no-capacity", "unknown-model-pool", "deadline-exceeded")
"""Codes of a worker's failure that the enclave may pass on (docs/host-link.md); any other is `host-failed`."""

LINK_FAILURES = (LinkError, AddressError, OSError, TimeoutError)


class StreamBroken(MrgcError):  # noqa: N818 - says what happened, and is never shown as an error of the caller
    """A response that had begun cannot be completed: the HTTP connection must be aborted, never ended."""


class ClientGone(MrgcError):  # noqa: N818 - as above
    """The client closed its connection; nobody is left to answer."""


def too_large() -> ProblemError:
    """The refusal of a body that no envelope can have."""
    return ProblemError(
        "too-large", f"The request is over {MAX_BODY_BYTES} bytes; a message may have {MAX_MESSAGE_BYTES}."
    )


class Client(Protocol):
    """The HTTP side of one request."""

    async def read(self) -> bytes:
        """The next bytes of the body, b"" at its end; raises ClientGone, or ProblemError for a body that is none."""

    async def begin(self) -> None:
        """Send status and headers of the answer; raises ClientGone."""

    async def write(self, data: bytes) -> None:
        """Send bytes of the answer, waiting while the client does not take them; raises ClientGone."""


class Relay:
    """Carries requests; holds no state between them.

    `forward_spans` takes OTLP bytes and returns at once. `idle_timeout_s` bounds how long any side may stop while it
    should read or write.
    """

    def __init__(
        self,
        *,
        open_enclave: LinkOpener,
        open_worker: LinkOpener,
        forward_spans: Callable[[bytes], None],
        idle_timeout_s: float,
    ) -> None:
        self._open_enclave = open_enclave
        self._open_worker = open_worker
        self._forward_spans = forward_spans
        self._idle_timeout_s = idle_timeout_s

    async def run(
        self, client: Client, headers: InferenceHeaders, *, deadline: Deadline, traceparent: str | None
    ) -> None:
        """Carry one request to its clean end.

        Raises ProblemError while nothing has been sent to the client, StreamBroken once something has, ClientGone
        when the client went. Whatever happens, cancelling included, both connections are closed on return.
        """
        remaining = deadline.check("the request waited at the host")
        try:
            link = await self._open_enclave()
        except LINK_FAILURES:
            raise ProblemError("host-failed", "The host's enclave cannot be reached.", retry_after_s=1) from None
        exchange = _Exchange(
            link,
            client,
            headers,
            deadline=deadline,
            traceparent=traceparent,
            open_worker=self._open_worker,
            forward_spans=self._forward_spans,
            idle_timeout_s=self._idle_timeout_s,
        )
        try:
            try:
                async with asyncio.timeout(remaining):
                    await exchange.run()
            except TimeoutError:
                exchange.fail("deadline-exceeded", "The deadline passed before the response was complete.")
            exchange.clean = True
        finally:
            await exchange.close()


class _Exchange:
    """One request's connections and how far it has come."""

    def __init__(
        self,
        link: LinkStream,
        client: Client,
        headers: InferenceHeaders,
        *,
        deadline: Deadline,
        traceparent: str | None,
        open_worker: LinkOpener,
        forward_spans: Callable[[bytes], None],
        idle_timeout_s: float,
    ) -> None:
        self._link = link
        self._client = client
        self._headers = headers
        self._deadline = deadline
        self._traceparent = traceparent
        self._open_worker = open_worker
        self._forward_spans = forward_spans
        self._idle_timeout_s = idle_timeout_s
        self._worker: LinkStream | None = None
        self._worker_task: asyncio.Task[None] | None = None
        self._hop_over = False
        self._begun = False
        self.clean = False

    async def run(self) -> None:
        """Send OPEN, then carry both ways until END."""
        try:
            async with asyncio.TaskGroup() as group:
                upload = group.create_task(self._upload(), name="upload")
                await self._receive(group)
                upload.cancel()
                if self._worker_task is not None:
                    self._worker_task.cancel()
        except BaseExceptionGroup as failures:
            # The first failure cancelled the rest; it is what happened.
            raise _first(failures) from None

    def fail(self, code: str, detail: str) -> NoReturn:
        """Raise what a failure of the host means at this point."""
        if self._begun:
            raise StreamBroken(detail)
        raise ProblemError(code, detail, retry_after_s=1 if code == "host-failed" else None)

    async def close(self) -> None:
        """Close both connections; the worker's first, so that it stops at once."""
        if self._worker is not None:
            self._worker.abort()
        if not self.clean:
            with contextlib.suppress(*LINK_FAILURES):
                await self._link.send(LinkType.ABORT, {"reason": "client-gone"}, timeout_s=ABORT_TIMEOUT_S)
        self._link.abort()

    # Client to enclave.

    async def _upload(self) -> None:
        """Send OPEN and the body as it comes."""
        headers = self._headers
        opening: dict[str, Any] = {
            "op": "infer",
            "kms": headers.kms,
            "tenant": headers.tenant,
            "model": headers.model,
            "request_id": headers.request_id,
            "deadline_ms": self._deadline.remaining_ms,
        }
        if not await self._to_enclave(LinkType.OPEN, self._with_traceparent(opening)):
            return
        received = 0
        while data := await self._read():
            received += len(data)
            if received > MAX_BODY_BYTES:
                raise too_large()
            if not await self._to_enclave(LinkType.DATA, data):
                return
        await self._to_enclave(LinkType.END, b"")

    async def _read(self) -> bytes:
        try:
            async with asyncio.timeout(self._idle_timeout_s):
                return await self._client.read()
        except TimeoutError:
            raise ProblemError(
                "deadline-exceeded", f"The request's body stopped for {self._idle_timeout_s:g} s; send it whole."
            ) from None

    async def _to_enclave(self, kind: LinkType, payload: bytes | dict[str, Any]) -> bool:
        """Send; False when the enclave has closed, and why is then for `_receive` to find out."""
        try:
            await self._link.send(kind, payload, timeout_s=self._idle_timeout_s)
        except TimeoutError:
            self.fail("host-failed", f"The host's enclave has taken nothing for {self._idle_timeout_s:g} s.")
        except (LinkError, OSError):
            return False
        return True

    # Enclave to client and worker.

    async def _receive(self, group: asyncio.TaskGroup) -> None:
        """Handle what the enclave sends, until END."""
        while True:
            try:
                message = await self._link.receive(self._deadline.remaining_s + SLACK_S)
            except LINK_FAILURES:
                self.fail("host-failed", "The connection to the host's enclave broke.")
            if message is None:
                self.fail("host-failed", "The host's enclave closed the connection before the response was complete.")
            match message.type:
                case LinkType.DATA:
                    await self._to_client(message.payload)
                case LinkType.END if self._begun:
                    return
                case LinkType.PROBLEM if not self._begun:
                    raise problem_of(message)
                case LinkType.ABORT:
                    self.fail("host-failed", "The host's enclave broke the response off.")
                case LinkType.SPANS:
                    self._forward_spans(message.payload)
                case LinkType.HOP_DATA | LinkType.HOP_END | LinkType.HOP_ABORT:
                    await self._to_worker(message, group)
                case _:
                    self.fail("host-failed", f"The host's enclave sent {message.type.name} where it has no place.")

    async def _to_client(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True  # set first: a failed begin may have sent some of the head
            await self._client.begin()
        try:
            async with asyncio.timeout(self._idle_timeout_s):
                await self._client.write(data)
        except TimeoutError:
            raise StreamBroken(f"The client has taken nothing for {self._idle_timeout_s:g} s.") from None

    async def _to_worker(self, message: LinkMessage, group: asyncio.TaskGroup) -> None:
        """Pass the enclave's hop bytes on, over a connection opened at the first."""
        if self._hop_over:
            return  # the hop has failed, and the enclave has been told
        if message.type is LinkType.HOP_ABORT:
            self._hop_over = True
            if self._worker is not None:
                self._worker.abort()
            return
        try:
            if self._worker is None:
                self._worker = await self._open_worker()
                opening = {
                    "op": "infer",
                    "request_id": self._headers.request_id,
                    "deadline_ms": self._deadline.remaining_ms,
                }
                await self._worker.send(LinkType.OPEN, self._with_traceparent(opening), timeout_s=self._idle_timeout_s)
                self._worker_task = group.create_task(self._from_worker(self._worker), name="from-worker")
            await self._worker.send(message.type, message.payload, timeout_s=self._idle_timeout_s)
        except LINK_FAILURES as error:
            if self._worker_task is None or isinstance(error, TimeoutError):
                await self._abort_hop("host-failed")
                if self._worker is not None:
                    self._worker.abort()
            # else: the worker has closed, and `_from_worker` finds its last word, or none

    async def _from_worker(self, worker: LinkStream) -> None:
        """Pass the worker's hop bytes to the enclave; anything but a clean HOP_END becomes HOP_ABORT."""
        try:
            while True:
                try:
                    message = await worker.receive(self._deadline.remaining_s + SLACK_S)
                except LINK_FAILURES:
                    message = None
                if message is None or message.type is LinkType.ABORT:
                    await self._abort_hop("host-failed")
                    return
                match message.type:
                    case LinkType.HOP_DATA:
                        if not await self._to_enclave(LinkType.HOP_DATA, message.payload):
                            return
                    case LinkType.HOP_END:
                        await self._to_enclave(LinkType.HOP_END, b"")
                        return
                    case LinkType.SPANS:
                        self._forward_spans(message.payload)
                    case LinkType.PROBLEM:
                        code = problem_of(message).code
                        await self._abort_hop(code if code in HOP_REASONS else "host-failed")
                        return
                    case _:
                        await self._abort_hop("host-failed")
                        return
        finally:
            worker.abort()

    async def _abort_hop(self, reason: str) -> None:
        if not self._hop_over:
            self._hop_over = True
            await self._to_enclave(LinkType.HOP_ABORT, {"reason": reason})

    def _with_traceparent(self, opening: dict[str, Any]) -> dict[str, Any]:
        return opening | {"traceparent": self._traceparent} if self._traceparent else opening


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first plain exception of a group."""
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
