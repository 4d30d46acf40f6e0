"""A cluster for the tenant's tests: one HTTP server that opens envelopes and does as each test plans."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dataplane.protocol.envelope import RequestOpener, ResponseSealer
from dataplane.protocol.errors import ProblemError
from dataplane.protocol.header import RequestHeader
from dataplane.protocol.message import RequestMessage, ResponseHead
from dataplane.protocol.receipt import Receipt, enclave_user_data
from dataplane.tenant.client import TenantClient, wall_clock_ms
from dataplane.tenant.retry import RetryPolicy
from dataplane.tenant.session import KmsSession
from observability.tracing import Telemetry
from stacks.local.nsm import SoftwareNsm

KEY_ARN = "arn:aws:kms:us-east-1:111122223333:key/mrk-00000000000000000000000000000001"
TENANT = "tenant-a"
API_KEY = "api-key-of-tenant-a"
DIGEST = "sha256:" + "ab" * 32
CONFIG = b"\x07" * 32
PCR0 = b"\x11" * 48
INSTANCE = "i-0123456789abcdef0"


class FakeKms:
    """Gives random data keys, counts calls, and fails or waits when told to."""

    def __init__(self) -> None:
        self.keys: dict[bytes, bytes] = {}
        self.contexts: list[dict[str, str]] = []
        self.fail: Exception | None = None
        self.wait_s = 0.0

    def generate_data_key(self, **kwargs: Any) -> Any:
        time.sleep(self.wait_s)
        self.contexts.append(kwargs["EncryptionContext"])
        if self.fail is not None:
            raise self.fail
        assert kwargs["KeyId"] == KEY_ARN, "the tenant's own key is asked"
        assert kwargs["KeySpec"] == "AES_256", "a 256-bit key is asked for"
        cek, wrapped = secrets.token_bytes(32), secrets.token_bytes(184)
        self.keys[wrapped] = cek
        return {"Plaintext": cek, "CiphertextBlob": wrapped}


@dataclass
class Answer:
    """One sealed response, and how it goes wrong."""

    pieces: tuple[bytes, ...] = (b"{}",)
    status: int = 200
    content_type: str = "application/json"
    assurance: int = 0
    request: bytes | None = None
    cut_after: int | None = None
    end_early: bool = False
    tamper: bool = False
    trailing: bytes = b""
    hang_after: int | None = None
    pause_s: float = 0.0
    receipt: Callable[[Receipt, Ed25519PrivateKey], bytes] = lambda receipt, key: receipt.signed(key).encode()
    """Makes the final frame's data from what an honest enclave would sign, and its key."""


@dataclass
class Refuse:
    """A problem document."""

    problem: ProblemError


@dataclass
class Raw:
    """A plain HTTP answer that is none of ours."""

    status: int
    body: bytes = b"<html>bad gateway</html>"


class Drop:
    """Close the connection without an answer."""


Step = Answer | Refuse | Raw | Drop


@dataclass
class Seen:
    """What the router and, once opened, the enclave saw of one attempt."""

    headers: dict[str, str]
    header: RequestHeader
    message: RequestMessage
    peer: object


@dataclass
class FakeCluster:
    """The server: `steps` are taken one an attempt, then `otherwise`."""

    kms: FakeKms = field(default_factory=FakeKms)
    steps: deque[Step] = field(default_factory=deque)
    otherwise: Callable[[RequestMessage], Step] = field(default=lambda _message: Answer())
    models: list[dict[str, Any]] = field(
        default_factory=lambda: [{"id": "tiny", "engine": "synthetic", "assurance": 0, "hosts": 2}]
    )
    pcr0: bytes = PCR0
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate, repr=False)
    attestation: Callable[[bytes], bytes] = field(default=lambda _nonce: b"")
    attestation_headers: Callable[[bytes], dict[str, str]] = field(default=lambda _nonce: {})
    asked: list[dict[str, str]] = field(default_factory=list)
    """The queries of every GET /attestation."""
    receipts: list[bytes] = field(default_factory=list)
    """The final frames' data, in the order in which they were sent."""
    seen: list[Seen] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def infer(self, request: web.Request) -> web.StreamResponse:
        """Open the envelope as an enclave would, then do the next step."""
        opener = RequestOpener()
        opener.feed(await request.read())
        header = opener.header
        assert header is not None, "the whole header was sent"
        opener.unlock(self.kms.keys[header.wrapped])
        opener.finish()
        opened = opener.message()
        assert opened is not None, "the whole message was sent"
        message = RequestMessage.decode(opened)
        peer = request.transport.get_extra_info("peername") if request.transport else None
        self.seen.append(Seen(dict(request.headers), header, message, peer))
        self.arrived.set()
        step = self.steps.popleft() if self.steps else self.otherwise(message)
        match step:
            case Refuse(problem):
                return web.Response(status=problem.status, body=problem.to_json(), headers=problem.headers())
            case Raw(status, body):
                return web.Response(status=status, body=body)
            case Drop():
                assert request.transport is not None, "the client still waits"
                request.transport.abort()
                return web.Response()
            case Answer():
                sealer = opener.response_sealer(secrets.token_bytes(32))
                try:
                    return await self._answer(request, step, sealer, opener)
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise

    async def _answer(
        self, request: web.Request, step: Answer, sealer: ResponseSealer, opener: RequestOpener
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={
                "Content-Type": "application/octet-stream",
                "X-MRGC-Region": "us-east-1",
                "X-MRGC-Instance": "i-router-says",
            }
        )
        await response.prepare(request)
        await response.write(sealer.prefix())
        head = ResponseHead(status=step.status, content_type=step.content_type).encode()
        await response.write(sealer.seal(head))
        for number, piece in enumerate(step.pieces):
            if step.cut_after == number:
                assert request.transport is not None, "the client still reads"
                request.transport.abort()
                return response
            if step.hang_after == number:
                await asyncio.sleep(60)
            frame = bytearray(sealer.seal(piece))
            if step.tamper:
                frame[-1] ^= 1
            await response.write(bytes(frame))
            await asyncio.sleep(step.pause_s)
        if not step.end_early:
            receipt = Receipt(
                request=step.request or opener.th,
                opened=opener.opened,
                response=hashlib.sha256(head + b"".join(step.pieces)).digest(),
                time=wall_clock_ms(),
                assurance=step.assurance,
                pcr0=self.pcr0,
                region="us-east-1",
                instance=INSTANCE,
                model_digest=DIGEST,
                config_digest=CONFIG,
                wash={"id": "wash-1", "time": 1_700_000_000_000},
            )
            data = step.receipt(receipt, self.key)
            self.receipts.append(data)
            await response.write(sealer.seal(data, final=True) + step.trailing)
        await response.write_eof()
        return response

    def documents_of(self, nsm: SoftwareNsm) -> None:
        """Serve documents of `nsm` that name this cluster's receipt key."""
        shown = enclave_user_data(self.key.public_key().public_bytes_raw())
        self.attestation = lambda nonce: nsm.attest(nonce=nonce, user_data=shown, public_key=None)

    async def list_models(self, request: web.Request) -> web.Response:
        """The authenticated list."""
        if request.headers.get("Authorization") != f"Bearer {API_KEY}":
            problem = ProblemError("unauthenticated", "The API key is wrong; give the tenant's own.")
            return web.Response(status=problem.status, body=problem.to_json(), headers=problem.headers())
        return web.json_response({"models": self.models})

    async def attest(self, request: web.Request) -> web.Response:
        """A document over the given nonce."""
        self.asked.append(dict(request.query))
        nonce = bytes.fromhex(request.query["nonce"])
        return web.Response(
            body=self.attestation(nonce), content_type="application/cbor", headers=self.attestation_headers(nonce)
        )

    def client(self, **changes: Any) -> TenantClient:
        """A client of this cluster, quick to retry; `changes` replace its arguments."""
        telemetry = changes.pop("telemetry", None) or Telemetry.from_environment("tenant", environ={})
        session = changes.pop("session", None) or KmsSession(
            tenant=TENANT,
            key_arn=KEY_ARN,
            kms=self.kms,
            clock_ms=wall_clock_ms,
            monotonic=time.monotonic,
            telemetry=telemetry,
        )
        arguments: dict[str, Any] = {
            "endpoint": self.url,
            "tls": None,
            "api_key": API_KEY,
            "session": session,
            "telemetry": telemetry,
            "assurance": 0,
            "retry": RetryPolicy(max_attempts=4, base_s=0.001, cap_s=0.004),
        }
        return TenantClient(**(arguments | changes))


@asynccontextmanager
async def running(cluster: FakeCluster, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[FakeCluster]:
    """Serve `cluster` on loopback for the length of a test."""
    app = web.Application(client_max_size=8 << 20)
    app.add_routes(
        [
            web.post("/inference", cluster.infer),
            web.get("/models", cluster.list_models),
            web.get("/attestation", cluster.attest),
        ]
    )
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    scheme = "http" if tls is None else "https"
    cluster.url = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield cluster
    finally:
        await runner.cleanup()


def chat_events(*words: str, done: bool = True) -> tuple[bytes, ...]:
    """A chat stream as an engine writes it, one event a word."""
    chunks = [
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "tiny",
            "system_fingerprint": "synthetic-1",
            "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}],
        }
        for word in words
    ]
    events = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks]
    return (*events, b"data: [DONE]\n\n") if done else tuple(events)
