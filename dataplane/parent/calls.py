"""The short operations that a parent performs over the host link: one connection, one question, one REPLY.

`docs/host-link.md` has the operations. Every call ends within its time limit and closes its connections.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from dataplane.mesh.address import Address, AddressError, connect
from dataplane.mesh.linkio import LinkStream
from dataplane.parent.credentials import Credentials
from dataplane.parent.view import EnclaveReport, ReplyError, WorkerReport
from dataplane.protocol.errors import PROBLEMS, LinkError, ProblemError
from dataplane.protocol.link import LinkMessage, LinkType

CONNECT_TIMEOUT_S = 2.0
"""Local sockets answer in microseconds; two seconds is a process that is stuck."""
CALL_TIMEOUT_S = 3.0
"""Health and stats are answered from memory."""
ATTEST_TIMEOUT_S = 5.0
"""The NSM signs in about 100 ms, one document at a time, and several may wait."""
BIND_TIMEOUT_S = 15.0
"""Two documents, and the worker may be finishing a car wash."""
MAX_DETAIL = 400
"""Characters of a problem's detail that are passed on."""

LinkOpener = Callable[[], Awaitable[LinkStream]]


def opener(address: Address, *, timeout_s: float = CONNECT_TIMEOUT_S) -> LinkOpener:
    """A function that opens a host link at `address`; it raises AddressError when nobody answers."""

    async def open_link() -> LinkStream:
        return LinkStream(*await connect(address, timeout_s=timeout_s))

    return open_link


def problem_of(message: LinkMessage) -> ProblemError:
    """The error that a PROBLEM message carries; one that makes no sense is `host-failed`."""
    try:
        fields = message.map()
    except LinkError:
        fields = {}
    code, detail, retry_after_s = fields.get("code"), fields.get("detail"), fields.get("retry_after_s")
    if not isinstance(code, str) or code not in PROBLEMS or not isinstance(detail, str):
        return ProblemError("host-failed", "The host sent a problem that cannot be read.", retry_after_s=1)
    if isinstance(retry_after_s, bool) or not isinstance(retry_after_s, int) or retry_after_s < 0:
        retry_after_s = None
    return ProblemError(code, detail[:MAX_DETAIL], retry_after_s=retry_after_s)


class HostCalls:
    """The operations `health`, `attest`, `credentials` and `bind` of the enclave and `stats` of the worker.

    Each raises ProblemError when the other side refuses, and ReplyError, LinkError, AddressError or TimeoutError when
    it does not answer as it should: `FAILURES` below.
    """

    def __init__(self, *, open_enclave: LinkOpener, open_worker: LinkOpener) -> None:
        self._open_enclave = open_enclave
        self._open_worker = open_worker

    async def enclave_health(self) -> EnclaveReport:
        """How the enclave is."""
        return EnclaveReport.from_reply(await _ask(self._open_enclave, {"op": "health"}, CALL_TIMEOUT_S))

    async def worker_stats(self) -> WorkerReport:
        """How the worker is."""
        return WorkerReport.from_reply(await _ask(self._open_worker, {"op": "stats"}, CALL_TIMEOUT_S))

    async def attest(self, nonce: bytes) -> bytes:
        """A fresh attestation document over `nonce`."""
        reply = await _ask(self._open_enclave, {"op": "attest", "nonce": nonce}, ATTEST_TIMEOUT_S)
        document = reply.get("document")
        if not isinstance(document, bytes) or not document:
            raise ReplyError("The enclave's attest reply has no document.")
        return document

    async def hand_over(self, credentials: Credentials) -> None:
        """Give the enclave the instance role's credentials."""
        reply = await _ask(
            self._open_enclave,
            {
                "op": "credentials",
                "access_key_id": credentials.access_key_id,
                "secret_access_key": credentials.secret_access_key,
                "session_token": credentials.session_token,
                "expires_ms": credentials.expires_ms,
            },
            CALL_TIMEOUT_S,
        )
        if reply.get("ok") is not True:
            raise ReplyError("The enclave did not take the credentials.")

    async def bind(self) -> tuple[int, bytes]:
        """Let the enclave challenge the worker; returns the assurance level and the worker epoch it now accepts."""
        async with asyncio.timeout(BIND_TIMEOUT_S), _opened(self._open_enclave) as enclave:
            await enclave.send(LinkType.OPEN, {"op": "bind"}, timeout_s=CALL_TIMEOUT_S)
            challenge = await _hop_bytes(enclave)
            try:
                async with _opened(self._open_worker) as worker:
                    await worker.send(LinkType.OPEN, {"op": "bind"}, timeout_s=CALL_TIMEOUT_S)
                    await _send_hop(worker, challenge)
                    answer = await _hop_bytes(worker)
            except FAILURES:
                await enclave.send(LinkType.HOP_ABORT, {"reason": "host-failed"}, timeout_s=CALL_TIMEOUT_S)
                raise
            await _send_hop(enclave, answer)
            reply = await _reply(enclave, BIND_TIMEOUT_S)
        assurance, epoch = reply.get("assurance"), reply.get("epoch")
        if type(assurance) is not int or assurance not in (0, 1, 2) or not isinstance(epoch, bytes):
            raise ReplyError("The enclave's bind reply has no assurance and epoch.")
        return assurance, epoch


FAILURES = (ProblemError, ReplyError, LinkError, AddressError, TimeoutError, OSError)
"""What a call may raise when the other side is not well."""

MAX_HOP_BYTES = 65_536
"""Bytes of one bind message: a NitroTPM document of at most 16 KiB and some keys."""


@contextlib.asynccontextmanager
async def _opened(open_link: LinkOpener) -> AsyncIterator[LinkStream]:
    link = await open_link()
    try:
        yield link
    finally:
        link.abort()  # the exchange is over or lost: nothing that is still buffered matters


async def _ask(open_link: LinkOpener, question: Mapping[str, Any], timeout_s: float) -> Mapping[str, Any]:
    async with asyncio.timeout(timeout_s), _opened(open_link) as link:
        await link.send(LinkType.OPEN, question, timeout_s=timeout_s)
        return await _reply(link, timeout_s)


async def _reply(link: LinkStream, timeout_s: float) -> Mapping[str, Any]:
    while True:
        message = await _message(link, timeout_s)
        if message.type is LinkType.REPLY:
            return message.map()
        if message.type is not LinkType.SPANS:
            raise LinkError(f"The host link carried {message.type.name} where a REPLY was due.")


async def _message(link: LinkStream, timeout_s: float) -> LinkMessage:
    """The next message; a PROBLEM, an ABORT or the end of the stream is raised."""
    message = await link.receive(timeout_s)
    if message is None:
        raise LinkError("The host link was closed before the answer was complete.")
    if message.type is LinkType.PROBLEM:
        raise problem_of(message)
    if message.type in (LinkType.ABORT, LinkType.HOP_ABORT):
        raise LinkError("The host link's other side gave the exchange up.")
    return message


async def _hop_bytes(link: LinkStream) -> bytes:
    received = bytearray()
    while True:
        message = await _message(link, BIND_TIMEOUT_S)
        if message.type is LinkType.HOP_END:
            return bytes(received)
        if message.type is not LinkType.HOP_DATA:
            raise LinkError(f"The host link carried {message.type.name} where hop data was due.")
        received += message.payload
        if len(received) > MAX_HOP_BYTES:
            raise LinkError(f"A bind message is over {MAX_HOP_BYTES} bytes.")


async def _send_hop(link: LinkStream, data: bytes) -> None:
    await link.send(LinkType.HOP_DATA, data, timeout_s=CALL_TIMEOUT_S)
    await link.send(LinkType.HOP_END, b"", timeout_s=CALL_TIMEOUT_S)
