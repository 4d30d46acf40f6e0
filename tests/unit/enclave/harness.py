"""A whole enclave over a Unix socket, with what stands around it: a parent, a worker that speaks the hop, a KMS."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from dataplane.enclave.credentials import HostCredentials, RelayedCredentials
from dataplane.enclave.hostclock import WatchedNsm
from dataplane.enclave.identity import read_identity
from dataplane.enclave.memory import ByteBudget
from dataplane.enclave.replay import ReplayWindow
from dataplane.enclave.server import EnclaveServer
from dataplane.mesh.address import UnixAddress, connect
from dataplane.mesh.linkio import LinkStream
from dataplane.protocol import cbor
from dataplane.protocol.envelope import Opened, RequestSealer, ResponseOpener
from dataplane.protocol.errors import ProblemError
from dataplane.protocol.header import RequestHeader, encryption_context
from dataplane.protocol.hop import HopHead, HopMessage, HopRequestOpener, HopTail
from dataplane.protocol.link import LinkMessage, LinkType
from dataplane.protocol.message import RequestMessage, ResponseHead
from dataplane.protocol.receipt import Receipt
from dataplane.protocol.wash import Wash
from observability.tracing import Telemetry
from stacks.local.nsm import SoftwareNsm
from stacks.local.pki import Authority, create_nsm_root

DEADLINE_S = 5.0
PCRS = {0: b"\x10" * 48, 1: b"\x11" * 48, 2: b"\x12" * 48}
KEY_ARN = "arn:aws:kms:us-east-1:111122223333:key/mrk-00000000000000000000000000000001"
CONFIG_DIGEST = b"\x07" * 32
WASH = Wash(id=b"w" * 16, time_ms=1_700_000_000_000)


@dataclass
class HeldKms:
    """Opens what it wrapped: a key is kept under its ciphertext with the ARN and context that it belongs to."""

    keys: dict[bytes, tuple[bytes, str, dict[str, str]]] = field(default_factory=dict, repr=False)
    calls: int = 0
    refuse: ProblemError | None = None
    gate: asyncio.Event | None = None
    cancelled: int = 0

    def wrap(self, context: Mapping[str, str], key_arn: str = KEY_ARN) -> tuple[bytes, bytes]:
        cek, wrapped = os.urandom(32), os.urandom(180)
        self.keys[wrapped] = (cek, key_arn, dict(context))
        return cek, wrapped

    async def decrypt(self, *, key_arn: str, context: Mapping[str, str], ciphertext: bytes, deadline_s: float) -> bytes:
        self.calls += 1
        if self.gate is not None:
            try:
                async with asyncio.timeout(deadline_s):
                    await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if self.refuse is not None:
            raise self.refuse
        cek, arn, bound = self.keys.get(ciphertext, (b"", "", {}))
        if arn != key_arn or bound != dict(context):
            raise ProblemError("kms-denied", "KMS refused this enclave the data key.")
        return cek


@dataclass
class HopWorker:
    """A worker's key and one way of answering; `seen` are the messages that it opened."""

    chunks: tuple[bytes, ...] = (b"to", b"ken")
    status: int = 200
    problem: str | None = None
    cut_after: int | None = None
    pause: asyncio.Event | None = None
    document: Callable[[bytes, HopWorker], bytes | None] = lambda _challenge, _worker: None
    epoch: bytes = field(default_factory=lambda: os.urandom(16))
    key: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate, repr=False)
    seen: list[HopMessage] = field(default_factory=list, repr=False)
    wash: Wash | None = WASH

    @property
    def public_key(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    def answer_challenge(self, challenge: bytes) -> bytes:
        return cbor.encode(
            {
                "public_key": self.public_key,
                "epoch": self.epoch,
                "wash": None if self.wash is None else self.wash.as_map(),
                "config_digest": CONFIG_DIGEST,
                "document": self.document(challenge, self),
            }
        )

    async def generate(self, request: bytes) -> AsyncIterator[bytes]:
        """Yield the sealed answer to one hop request, piece by piece."""
        opener = HopRequestOpener({self.epoch: self.key}.get, CONFIG_DIGEST)
        opener.feed(request)
        opener.finish()
        self.seen.append(HopMessage.decode(opener.message() or b""))
        sealer = opener.response_sealer(os.urandom(32))
        head = HopHead(
            status=self.status, content_type="text/event-stream", engine="synthetic", model_digest="sha256:ab"
        )
        yield sealer.prefix() + sealer.seal(head.encode())
        for number, chunk in enumerate(self.chunks):
            if self.cut_after == number:
                return
            if number and self.pause is not None:
                await self.pause.wait()
            yield sealer.seal(chunk)
        if self.cut_after is not None:
            return
        wash = None if self.wash is None else self.wash.as_map()
        yield sealer.seal(HopTail(usage={"completion_tokens": 2}, wash=wash).encode(), final=True)


@dataclass
class Outcome:
    """What came back: opened frames, how it ended, spans, and the types of all messages in order."""

    opener: ResponseOpener | None
    opened: list[Opened] = field(default_factory=list)
    types: list[LinkType] = field(default_factory=list)
    last: LinkMessage | None = None
    spans: bytes = b""
    raw: bytes = b""
    received: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, data: bytes) -> None:
        self.raw += data
        if self.opener is not None:
            self.opened += self.opener.feed(data)
        self.received.set()

    @property
    def problem(self) -> str:
        assert self.last is not None, "the enclave closed without a word"
        assert self.last.type is LinkType.PROBLEM, f"{self.last.type.name} came instead of a problem"
        return str(self.last.map()["code"])

    @property
    def ended(self) -> LinkType | None:
        return None if self.last is None else self.last.type

    @property
    def last_map(self) -> dict[str, Any]:
        assert self.last is not None, "the enclave closed without a word"
        return self.last.map()

    @property
    def detail(self) -> str:
        return str(self.last_map["detail"])

    @property
    def done(self) -> bool:
        return self.opener is not None and self.opener.done

    @property
    def head(self) -> ResponseHead:
        return ResponseHead.decode(self.opened[0].data)

    @property
    def body(self) -> bytes:
        return b"".join(each.data for each in self.opened[1:] if not each.final)

    @property
    def receipt(self) -> Receipt:
        assert self.opened[-1].final, "the response has no final frame"
        return Receipt.decode(self.opened[-1].data)


class Enclave:
    """A running enclave, its KMS and its worker, and the tenant's and parent's side of requests."""

    def __init__(self, tmp_path: Path, *, nsm: SoftwareNsm | None = None, **options: Any) -> None:
        self.address = UnixAddress(str(tmp_path / "enclave.sock"))
        self.offset_ms = 0
        self.advance_s = 0.0
        self.root: Authority = options.pop("root", None) or create_nsm_root()
        self.nsm = nsm or SoftwareNsm(
            root=self.root, pcrs=PCRS, instance_id="i-0aaaabbbbccccdddd", clock_ms=self.true_ms
        )
        self.watched = WatchedNsm(self.nsm, clock_ms=self.now_ms, monotonic=self.now_s)
        self.kms = HeldKms()
        self.worker = HopWorker()
        self.credentials = options.pop("credentials", None) or RelayedCredentials(clock_ms=self.now_ms)
        self.server = EnclaveServer(
            address=self.address,
            nsm=self.watched,
            identity=read_identity(self.watched),
            kms=options.pop("decryptor", self.kms),
            credentials=self.credentials,
            telemetry=Telemetry.relayed("enclave", region="us-east-1"),
            clock_ms=self.now_ms,
            monotonic=self.now_s,
            attestation_roots=[self.root.certificate],
            **options,
        )

    def true_ms(self) -> int:
        """The hypervisor's time, which documents have."""
        return int((time.time() + self.advance_s) * 1000)

    def now_ms(self) -> int:
        """The host's clock: wrong by `offset_ms`."""
        return self.true_ms() + self.offset_ms

    def now_s(self) -> float:
        """The enclave's monotonic clock; `advance_s` lets time pass on all clocks."""
        return time.monotonic() + self.advance_s

    # The tenant.

    def session(self, tenant: str = "tenant-a", expires_in_s: int = 600) -> tuple[dict[str, str], bytes, bytes]:
        """Return context, data key and wrapped data key."""
        context = encryption_context(tenant, os.urandom(16).hex(), self.now_ms() // 1000 + expires_in_s)
        return context, *self.kms.wrap(context)

    def seal(
        self,
        body: bytes = b'{"prompt": "hello"}',
        *,
        tenant: str = "tenant-a",
        session: tuple[dict[str, str], bytes, bytes] | None = None,
        path: str = "/v1/chat/completions",
        content_type: str = "application/json",
        message: bytes | None = None,
        **changes: Any,
    ) -> tuple[bytes, RequestSealer, RequestHeader]:
        """Return a sealed body, what opens the answer, and the header."""
        context, cek, wrapped = session or self.session(tenant)
        fields: dict[str, Any] = {
            "rid": os.urandom(16),
            "iat": self.now_ms(),
            "tenant": tenant,
            "model": "tiny",
            "kms": KEY_ARN,
            "ctx": context,
            "wrapped": wrapped,
            "assurance": 0,
            "pad": 0,
        }
        header = RequestHeader(**(fields | changes))
        sealer = RequestSealer(header, cek)
        if message is None:
            message = RequestMessage(path=path, content_type=content_type, body=body).encode()
        return sealer.prefix() + b"".join(sealer.seal_message(message)), sealer, header

    # The parent.

    @contextlib.asynccontextmanager
    async def link(self) -> AsyncIterator[LinkStream]:
        async with asyncio.timeout(DEADLINE_S):
            link = LinkStream(*await connect(self.address, timeout_s=1))
            try:
                yield link
            finally:
                link.abort()

    async def call(self, **fields: Any) -> LinkMessage:
        """One short operation; returns REPLY or PROBLEM."""
        async with self.link() as link:
            await link.send(LinkType.OPEN, fields, timeout_s=1)
            reply = await link.receive(DEADLINE_S)
            assert reply is not None, "every operation is answered"
            return reply

    async def bind(self, answer: bytes | None = None) -> LinkMessage:
        """Relay a challenge to the worker (or answer it with `answer`)."""
        async with self.link() as link:
            await link.send(LinkType.OPEN, {"op": "bind"}, timeout_s=1)
            challenge = await link.receive(DEADLINE_S)
            end = await link.receive(DEADLINE_S)
            assert challenge is not None, "the enclave challenges"
            assert end is not None, "the challenge has an end"
            assert (challenge.type, end.type) == (LinkType.HOP_DATA, LinkType.HOP_END), "as the host link says"
            reply = self.worker.answer_challenge(challenge.payload) if answer is None else answer
            await link.send(LinkType.HOP_DATA, reply, timeout_s=1)
            await link.send(LinkType.HOP_END, timeout_s=1)
            message = await link.receive(DEADLINE_S)
            assert message is not None, "a binding is answered"
            return message

    @staticmethod
    def opening(header: RequestHeader, **changes: Any) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "op": "infer",
            "kms": header.kms,
            "tenant": header.tenant,
            "model": header.model,
            "request_id": "r-1",
            "deadline_ms": 4_000,
        }
        return {key: value for key, value in (fields | changes).items() if value is not None}

    async def infer(
        self,
        sealed: tuple[bytes, RequestSealer, RequestHeader],
        *,
        body: bytes | None = None,
        outcome: Outcome | None = None,
        **opening: Any,
    ) -> Outcome:
        """Send a request as the parent does, relay its hop to the worker, and return what comes back."""
        data, sealer, header = sealed
        outcome = outcome or Outcome(None)
        with contextlib.suppress(Exception):
            outcome.opener = sealer.response_opener()
        async with self.link() as link:
            await link.send(LinkType.OPEN, self.opening(header, **opening), timeout_s=1)
            sending = asyncio.create_task(self._upload(link, data if body is None else body))
            try:
                await self._receive(link, outcome)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        return outcome

    async def _upload(self, link: LinkStream, data: bytes) -> None:
        await link.send(LinkType.DATA, data, timeout_s=DEADLINE_S)
        await link.send(LinkType.END, timeout_s=DEADLINE_S)

    async def _receive(self, link: LinkStream, outcome: Outcome) -> None:
        request = b""
        answering: asyncio.Task[None] | None = None
        try:
            while True:
                message = await link.receive(DEADLINE_S)
                if message is None:
                    return
                outcome.types.append(message.type)
                match message.type:
                    case LinkType.HOP_DATA:
                        request += message.payload
                    case LinkType.HOP_END:
                        answering = asyncio.create_task(self._work(link, request))
                    case LinkType.DATA:
                        outcome.add(message.payload)
                    case LinkType.SPANS:
                        outcome.spans += message.payload
                    case _:
                        outcome.last = message
                        return
        finally:
            if answering is not None:
                answering.cancel()
                await asyncio.gather(answering, return_exceptions=True)

    async def _work(self, link: LinkStream, request: bytes) -> None:
        if self.worker.problem is not None:
            await link.send(LinkType.HOP_ABORT, {"reason": self.worker.problem}, timeout_s=1)
            return
        async for piece in self.worker.generate(request):
            await link.send(LinkType.HOP_DATA, piece, timeout_s=1)
        if self.worker.cut_after is None:
            await link.send(LinkType.HOP_END, timeout_s=1)
        else:
            await link.send(LinkType.HOP_ABORT, {"reason": "host-failed"}, timeout_s=1)


@contextlib.asynccontextmanager
async def enclave(tmp_path: Path, *, bound: bool = True, **options: Any) -> AsyncIterator[Enclave]:
    """Run an enclave with credentials and, unless told otherwise, a bound worker."""
    running = Enclave(tmp_path, **options)
    running.credentials.replace(
        HostCredentials(
            access_key_id="AKIA-TEST",
            secret_access_key="aws-secret-value",
            session_token="aws-token-value",
            expires_ms=running.now_ms() + 3_600_000,
        )
    )
    await running.server.start()
    try:
        if bound:
            assert (await running.bind()).type is LinkType.REPLY, "the worker must be taken"
        yield running
    finally:
        await running.server.close(drain_s=0.05)


__all__ = [
    "CONFIG_DIGEST",
    "KEY_ARN",
    "PCRS",
    "ByteBudget",
    "Enclave",
    "HeldKms",
    "HopWorker",
    "Outcome",
    "ReplayWindow",
    "enclave",
]
