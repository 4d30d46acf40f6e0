"""A client of a GPU worker's socket: asks as an enclave does, for tests and benchmarks without the rest of the path."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

from dataplane.mesh.address import Address, connect
from dataplane.mesh.linkio import LinkStream
from dataplane.protocol import cbor
from dataplane.protocol.envelope import ResponseOpener
from dataplane.protocol.errors import LinkError
from dataplane.protocol.hop import RID_BYTES, HopHead, HopMessage, HopTail, seal_hop
from dataplane.protocol.link import MAX_PAYLOAD_BYTES, LinkType

TIMEOUT_S: Final = 60.0
"""Longest silence that the client bears; a first request may wait for a model to load."""

DEADLINE_MS: Final = 60_000


@dataclass(slots=True)
class Answered:
    """Everything that one `infer` gave back: an answer, or a problem, or an answer that was aborted."""

    head: HopHead | None = None
    chunks: list[bytes] = field(default_factory=list, repr=False)
    tail: HopTail | None = None
    spans: bytes | None = field(default=None, repr=False)
    problem: dict[str, Any] | None = None
    aborted: dict[str, Any] | None = None

    @property
    def body(self) -> bytes:
        """The answer's body."""
        return b"".join(self.chunks)

    @property
    def json(self) -> Any:
        """The answer's body, read as JSON."""
        return json.loads(self.body)


class Exchange:
    """One request under way: iterate over its body; leaving the connection aborts it."""

    def __init__(self, link: LinkStream, opener: ResponseOpener) -> None:
        """Made by `WorkerClient.begin`."""
        self.link = link
        self._opener = opener
        self.answered = Answered()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body's pieces as they come; the rest is in `answered`. Raises `LinkError` when the worker just leaves."""
        answered = self.answered
        while (received := await self.link.receive(TIMEOUT_S)) is not None:
            match received.type:
                case LinkType.PROBLEM:
                    answered.problem = received.map()
                    return
                case LinkType.ABORT:
                    answered.aborted = received.map()
                    return
                case LinkType.SPANS:
                    answered.spans = received.payload
                case LinkType.HOP_END:
                    self._opener.finish()
                    return
                case _:
                    for opened in self._opener.feed(received.payload):
                        if answered.head is None:
                            answered.head = HopHead.decode(opened.data)
                        elif opened.final:
                            answered.tail = HopTail.decode(opened.data)
                        else:
                            answered.chunks.append(opened.data)
                            yield opened.data
        raise LinkError("the worker closed the connection before its answer had ended")


class WorkerClient:
    """Binds to a worker once, then asks it; without verifying who it is, which is the enclave's business."""

    def __init__(self, address: Address) -> None:
        """`address` is the worker's socket."""
        self.address = address
        self.binding: dict[str, Any] = {}

    async def link(self) -> LinkStream:
        """A fresh connection."""
        return LinkStream(*await connect(self.address, timeout_s=TIMEOUT_S))

    async def stats(self) -> dict[str, Any]:
        """The worker's figures."""
        link = await self.link()
        try:
            await link.send(LinkType.OPEN, {"op": "stats"}, timeout_s=TIMEOUT_S)
            reply = await link.receive(TIMEOUT_S)
        finally:
            await link.close()
        if reply is None or reply.type != LinkType.REPLY:
            raise LinkError("the worker did not answer stats with a REPLY")
        return reply.map()

    async def bind(self, challenge: bytes = bytes(32)) -> dict[str, Any]:
        """The worker's key and what proves it, or the PROBLEM's map."""
        link = await self.link()
        try:
            await link.send(LinkType.OPEN, {"op": "bind"}, timeout_s=TIMEOUT_S)
            await link.send(LinkType.HOP_DATA, challenge, timeout_s=TIMEOUT_S)
            await link.send(LinkType.HOP_END, timeout_s=TIMEOUT_S)
            received = b""
            while (message := await link.receive(TIMEOUT_S)) is not None and message.type == LinkType.HOP_DATA:
                received += message.payload
        finally:
            await link.close()
        if message is not None and message.type == LinkType.PROBLEM:
            return message.map()
        self.binding = cbor.decode_map(received, max_bytes=MAX_PAYLOAD_BYTES)
        return self.binding

    async def begin(self, message: HopMessage, *, deadline_ms: int = DEADLINE_MS) -> Exchange:
        """Send a whole request."""
        binding = self.binding or await self.bind()
        rid = os.urandom(RID_BYTES)
        _, sealer = seal_hop(binding["public_key"], binding["epoch"], binding["config_digest"], rid)
        link = await self.link()
        opening = {"op": "infer", "request_id": rid.hex(), "deadline_ms": deadline_ms}
        await link.send(LinkType.OPEN, opening, timeout_s=TIMEOUT_S)
        sealed = sealer.prefix() + b"".join(sealer.seal_message(message.encode()))
        await link.send(LinkType.HOP_DATA, sealed, timeout_s=TIMEOUT_S)
        await link.send(LinkType.HOP_END, timeout_s=TIMEOUT_S)
        return Exchange(link, sealer.response_opener())

    async def infer(self, message: HopMessage, *, deadline_ms: int = DEADLINE_MS) -> Answered:
        """Send a request and collect its answer."""
        exchange = await self.begin(message, deadline_ms=deadline_ms)
        try:
            async for _ in exchange.chunks():
                pass
        finally:
            await exchange.link.close()
        return exchange.answered

    async def ask(self, path: str, body: object, *, pool: str = "tiny", **more: Any) -> Answered:
        """Ask with a JSON body, or with raw bytes; `more` are other fields of the hop message."""
        return await self.infer(hop_message(path, body, pool=pool, **more))


def hop_message(path: str, body: object, *, pool: str = "tiny", **more: Any) -> HopMessage:
    """A hop message with everyday fields."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    everyday: dict[str, Any] = {"cache_salt": "salt-a", "priority": 0, "deadline_ms": DEADLINE_MS, "traceparent": None}
    return HopMessage(path=path, body=raw, model=pool, **(everyday | more))
