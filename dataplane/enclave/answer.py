"""The sealed response of one request, written as it comes: head, gathered body, receipt."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable

from dataplane.mesh.linkio import LinkStream
from dataplane.protocol.envelope import RequestOpener
from dataplane.protocol.gather import FrameGatherer
from dataplane.protocol.keys import SALT_BYTES
from dataplane.protocol.link import LinkType
from dataplane.protocol.message import ResponseHead
from dataplane.protocol.receipt import Receipt

WRITE_STALL_S = 30.0
"""How long the parent may refuse to take bytes before it counts as gone."""

JSON = "application/json"


class Answer:
    """Seals and sends one response.

    The head waits for the first byte of the body, so that a worker that fails before its first token leaves the
    request to be tried on another host: `started` says whether that chance is gone.
    """

    def __init__(self, link: LinkStream, opener: RequestOpener, *, monotonic: Callable[[], float]) -> None:
        """Answer the request that `opener` has opened, under a fresh salt."""
        self._link = link
        self._monotonic = monotonic
        self._sealer = opener.response_sealer(secrets.token_bytes(SALT_BYTES))
        self._gatherer = FrameGatherer()
        self._transcript = hashlib.sha256()
        self._waiting = b""
        self.started = False
        self.first_byte_s: float | None = None
        """When the first byte left, on the monotonic clock."""
        self.frames = 0

    def head(self, head: ResponseHead) -> None:
        """Prepare the first frame; it leaves with the first bytes of the body, or the receipt."""
        self._waiting = self._sealer.prefix() + self._seal(head.encode())

    async def body(self, data: bytes) -> None:
        """Take body bytes and send the frames that are due."""
        for chunk in self._gatherer.push(data, self._monotonic()):
            await self._send(self._seal(chunk))

    @property
    def due_in_s(self) -> float | None:
        """Seconds until `flush` has to be called, or None while nothing is gathered."""
        due = self._gatherer.due_at
        return None if due is None else max(0.0, due - self._monotonic())

    async def flush(self) -> None:
        """Send what is gathered."""
        data = self._gatherer.flush(self._monotonic())
        if data:
            await self._send(self._seal(data))

    async def finish(self, receipt: Callable[[bytes], Receipt]) -> None:
        """Send the rest and the receipt, the final frame.

        `receipt` is called with the response's hash: SHA-256 over the data of every frame before it, the head included.
        """
        data = self._gatherer.flush()
        sealed = self._seal(data) if data else b""
        self.frames += 1
        final = receipt(self._transcript.digest()).encode()
        await self._send(sealed + self._sealer.seal(final, final=True))

    def _seal(self, data: bytes) -> bytes:
        self.frames += 1
        self._transcript.update(data)
        return self._sealer.seal(data)

    async def _send(self, sealed: bytes) -> None:
        out, self._waiting = self._waiting + sealed, b""
        if not self.started:
            self.first_byte_s = self._monotonic()
        self.started = True
        await self._link.send(LinkType.DATA, out, timeout_s=WRITE_STALL_S)


def error_body(status: int, message: str) -> tuple[ResponseHead, bytes]:
    """Return head and body of a refusal of the message's content, in OpenAI's error shape."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return ResponseHead(status=status, content_type=JSON), json.dumps({"error": error}).encode()
