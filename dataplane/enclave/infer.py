"""One inference request in the enclave: open, have the worker answer, seal.

The order of checks is the protocol's: envelope's form, headers, time, assurance, KMS, frames, replay, content. What
fails up to the replay check is a problem in clear; what fails after, about the message, goes inside the sealed
response; what fails of the host is a problem while nothing has been sent, and an abort after.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.trace import Span

from dataplane.enclave.answer import WRITE_STALL_S, Answer, error_body
from dataplane.enclave.binding import WorkerBinding, assurance_level
from dataplane.enclave.checks import check_assurance, check_header, read_message
from dataplane.enclave.hostclock import HostClock
from dataplane.enclave.identity import EnclaveIdentity
from dataplane.enclave.inbound import Inbound
from dataplane.enclave.keyring import Keyring
from dataplane.enclave.kms import decrypt_target
from dataplane.enclave.memory import ByteBudget, Reservation
from dataplane.enclave.receipting import ReceiptSigner, RequestReceipt
from dataplane.enclave.replay import ReplayWindow
from dataplane.enclave.salt import cache_salt
from dataplane.enclave.tenant_key import TenantKey
from dataplane.mesh.linkio import LinkStream
from dataplane.protocol.envelope import Opened, RequestOpener, ResponseOpener
from dataplane.protocol.errors import PROBLEMS, LinkError, OpenError, ProblemError
from dataplane.protocol.header import IAT_MAX_AGE_MS, RequestHeader
from dataplane.protocol.hop import HopHead, HopMessage, HopTail, seal_hop
from dataplane.protocol.link import LinkMessage, LinkType
from dataplane.protocol.message import MessageError, ResponseHead
from dataplane.protocol.receipt import Receipt
from dataplane.protocol.suite import MAX_HOP_MESSAGE_BYTES, MAX_MESSAGE_BYTES
from observability import names
from observability.tracing import Telemetry, traceparent_of

BODY_STALL_S = 30.0
"""How long the parent may send nothing while a body is incomplete."""

HOP_END_S = 2.0
"""How long the worker's HOP_END may follow its final frame; the frame is what counts."""

HOP_ALLOWANCE = MAX_HOP_MESSAGE_BYTES - MAX_MESSAGE_BYTES
"""How much longer than the tenant's message the worker's may be, bytes."""

HOP_SLICE_BYTES = 16 * 1024
"""Bytes of the worker's answer opened between two turns of the loop: 655 of the smallest frames, 3 ms."""

RETRY_AFTER_S = 1
HOP_CODES = frozenset({"host-failed", "overloaded", "no-capacity", "unknown-model-pool", "deadline-exceeded"})
"""What a worker may say about a request; anything else is `host-failed`."""

_SENTENCES = {
    "host-failed": "The GPU worker of this host failed before it answered.",
    "overloaded": "The GPU worker of this host has a full queue.",
    "no-capacity": "The GPU worker of this host can't load the model pool now.",
    "unknown-model-pool": "This host has no such model pool.",
    "deadline-exceeded": "The deadline passed before the GPU worker answered.",
}

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class EnclaveState:
    """What all requests of one enclave share; `worker` changes at every binding."""

    identity: EnclaveIdentity
    nsm_level: int
    signer: ReceiptSigner
    keyring: Keyring
    replay: ReplayWindow
    memory: ByteBudget
    telemetry: Telemetry
    salt_secret: bytes = field(repr=False)
    clock_ms: Callable[[], int]
    monotonic: Callable[[], float]
    host_clock: HostClock
    worker: WorkerBinding | None = None
    requests: int = 0

    @property
    def level(self) -> int:
        """The assurance level that a request gets now."""
        return assurance_level(self.nsm_level, host_attested=self.worker is not None and self.worker.host_attested)


class Inference:
    """One request on one connection. `started` says whether response bytes have left."""

    def __init__(
        self, state: EnclaveState, link: LinkStream, inbound: Inbound, fields: Mapping[str, Any], *, deadline_s: float
    ) -> None:
        """Serve the operation described by `fields` within `deadline_s` seconds (the caller cancels at its end)."""
        self._state = state
        self._link = link
        self._inbound = inbound
        self._fields = fields
        self._ends_s = state.monotonic() + deadline_s
        self._opener = RequestOpener()
        self._receipt = RequestReceipt(state.signer, monotonic=state.monotonic)
        self._answer: Answer | None = None
        self._level = 0
        self._proof: dict[str, int] = {}

    @property
    def started(self) -> bool:
        """Whether the request can no longer be tried elsewhere."""
        return self._answer is not None and self._answer.started

    async def run(self, span: Span) -> None:
        """Serve the request; `span` is the request's.

        Raises `ProblemError` for what the protocol names, `ParentGoneError`, `LinkError`, and `OpenError` for a
        worker's answer that does not open.
        """
        reservation = Reservation(self._state.memory)
        try:
            with (
                self._state.telemetry.span(names.ENCLAVE_OPEN, parent=span) as opening,
                self._receipt.timed(names.ENCLAVE_OPEN),
            ):
                header, worker = await self._open(reservation, opening)
            span.set_attributes(
                {names.TENANT: header.tenant, names.MODEL_POOL: header.model, names.ASSURANCE: self._level}
            )
            answer = self._answer = Answer(self._link, self._opener, monotonic=self._state.monotonic)
            try:
                # The newest binding, with its own age and level: the one at admission may have been replaced meanwhile.
                worker = self._bound(header)
                hop = await self._ask_worker(header, worker, span, reservation)
            except MessageError as error:
                await self._refuse(answer, worker, error)
                return
        finally:
            # Together: what is not accounted any more must not be held any more, however the request ended.
            self._opener.drop()
            reservation.close()
        with self._state.telemetry.span(names.ENCLAVE_SEAL, parent=span) as sealing:
            await self._relay(hop, answer, worker)
            sealing.set_attribute(names.FRAMES, answer.frames)

    # From the parent's bytes to an opened message.

    async def _open(self, reservation: Reservation, span: Span) -> tuple[RequestHeader, WorkerBinding]:
        """Read the envelope and open it with its data key; refuse it if it was served before."""
        state, opener = self._state, self._opener
        worker: WorkerBinding | None = None
        received = 0
        while (data := await self._body()) is not None:
            received += len(data)
            opener.feed(data)
            if worker is None and opener.header is not None:
                worker = self._admit(opener.header)
                held = state.keyring.held(
                    kms=opener.header.kms, context=opener.header.context, wrapped=opener.header.wrapped
                )
                if held is not None:
                    opener.unlock(held)
            reservation.hold(opener.held_bytes)
        opener.finish()
        header = opener.header
        if header is None or worker is None:
            raise ProblemError("malformed-envelope", "The body ends within the envelope's header.")
        span.set_attribute(names.CIPHERTEXT_BYTES, received)
        span.set_attribute(names.CACHED_KEY, opener.unlocked)
        if not opener.unlocked:
            for _ in opener.unlocking(await self._fetch_key(header, span)):
                await asyncio.sleep(0)
        if opener.message() is None:
            raise ProblemError("malformed-envelope", "The body ends before the final frame.")
        # With room for the worker's message, which is a little longer: past the replay window nothing may run out.
        reservation.hold(opener.held_bytes + HOP_ALLOWANCE)
        # The clock may have jumped while body and key came, and the window keeps the latest time that it is told.
        state.host_clock.check()
        # Only now is it known that the tenant made this message: whoever lacks the key can't fill the window.
        state.replay.record(
            key=TenantKey.parse(header.kms),
            tenant=header.tenant,
            rid=header.rid,
            expires_ms=header.iat + IAT_MAX_AGE_MS,
            now_ms=state.clock_ms(),
        )
        return header, worker

    async def _body(self) -> bytes | None:
        """Return the next bytes of the body, or None at its END."""
        message = await self._inbound.next(BODY_STALL_S)
        if message is None:
            raise ProblemError("deadline-exceeded", f"The body stopped for {BODY_STALL_S:g} s; send it whole.")
        if message.type is LinkType.DATA:
            return message.payload
        if message.type is LinkType.END:
            return None
        raise LinkError(f"The parent sent {message.type.name} within a request's body.")

    def _admit(self, header: RequestHeader) -> WorkerBinding:
        """Refuse what can be refused by the header alone; return the worker that the request would be sealed to."""
        # Before `iat` is judged: with a wrong clock a good request would be told `expired`.
        self._state.host_clock.check()
        check_header(header, self._fields, now_ms=self._state.clock_ms())
        return self._bound(header)

    def _bound(self, header: RequestHeader) -> WorkerBinding:
        """Return the worker that is bound now; refuse while clock, age or level do not allow to use it."""
        state = self._state
        state.host_clock.check()
        worker = state.worker
        if worker is None:
            raise ProblemError(
                "host-failed", "No GPU worker is bound to this host's enclave yet.", retry_after_s=RETRY_AFTER_S
            )
        now_s = state.monotonic()
        worker.check_age(now_s)
        # Level and age of this binding: another may come while the request runs, and the receipt speaks of this one.
        self._level = assurance_level(state.nsm_level, host_attested=worker.host_attested)
        self._proof = worker.proof(now_s)
        check_assurance(header, self._level)
        return worker

    async def _fetch_key(self, header: RequestHeader, parent: Span) -> bytes:
        region, _ = decrypt_target(header.kms, own_region=self._state.identity.region)
        with (
            self._state.telemetry.span(names.KMS_DECRYPT, parent=parent, attributes={names.KMS_REGION: region}),
            self._receipt.timed(names.KMS_DECRYPT),
        ):
            return await self._inbound.during(
                self._state.keyring.fetch(
                    kms=header.kms, context=header.context, wrapped=header.wrapped, expires_s=header.expires_s
                )
            )

    # To the worker and back.

    async def _ask_worker(
        self, header: RequestHeader, worker: WorkerBinding, span: Span, reservation: Reservation
    ) -> ResponseOpener:
        """Seal the request to the worker and send it; return what opens the answer.

        Nothing of the plaintext is left when it returns: the message lives in here, and a stream holds none of it
        while its answer is relayed. Raises `MessageError` for a message that no engine should see.
        """
        message = self._hop_message(header, span)
        reservation.hold(len(message))
        _, sealer = seal_hop(worker.public_key, worker.epoch, worker.config_digest, header.rid, pad=header.pad)
        self._receipt.asked()
        await self._send_hop(sealer.prefix())
        for frame in sealer.seal_message(message):
            await self._send_hop(frame)
        await self._link.send(LinkType.HOP_END, timeout_s=WRITE_STALL_S)
        return sealer.response_opener()

    def _hop_message(self, header: RequestHeader, span: Span) -> bytes:
        """Turn the tenant's message into the worker's, encoded; the opener lets go of its own."""
        state = self._state
        request = read_message(self._opener.take_message() or b"")
        return HopMessage(
            path=request.path,
            body=request.body,
            model=header.model,
            cache_salt=cache_salt(state.salt_secret, TenantKey.parse(header.kms), header.tenant),
            priority=0,
            deadline_ms=max(0, int((self._ends_s - state.monotonic()) * 1000)),
            traceparent=traceparent_of(span) or None,
        ).encode()

    async def _send_hop(self, data: bytes) -> None:
        await self._link.send(LinkType.HOP_DATA, data, timeout_s=WRITE_STALL_S)

    async def _relay(self, hop: ResponseOpener, answer: Answer, worker: WorkerBinding) -> None:
        """Seal what the worker answers, frame by frame as it comes, and the receipt after it."""
        digest: str | None = None
        ended = False
        while not hop.done:
            message = await self._inbound.next(answer.due_in_s)
            if message is None:
                await answer.flush()
                continue
            ended = self._hop_ended(message, hop)
            payload = b"" if ended else message.payload
            for start in range(0, len(payload), HOP_SLICE_BYTES):
                if start:
                    await asyncio.sleep(0)
                for opened in hop.feed(payload[start : start + HOP_SLICE_BYTES]):
                    digest = await self._pass_on(opened, digest, answer, worker)
        if not ended:
            # Nothing depends on it; left unread, it would make the close look like a break to the parent.
            await self._inbound.next(HOP_END_S)

    async def _pass_on(self, opened: Opened, digest: str | None, answer: Answer, worker: WorkerBinding) -> str:
        """Seal one frame's data to the tenant; return the model digest that the answer's head named."""
        if digest is None and not opened.final:
            head = HopHead.decode(opened.data)
            answer.head(ResponseHead(status=head.status, content_type=head.content_type))
            return head.model_digest
        if digest is None:
            raise OpenError("the worker's answer has a tail and no head")
        if opened.final:
            await self._finish(answer, worker, digest, HopTail.decode(opened.data))
        else:
            await answer.body(opened.data)
        return digest

    def _hop_ended(self, message: LinkMessage, hop: ResponseOpener) -> bool:
        """Say whether the worker's answer is over; raises for an answer that is cut or refused."""
        if message.type is LinkType.HOP_DATA:
            return False
        if message.type is LinkType.HOP_END:
            hop.finish()
            return True
        if message.type is LinkType.HOP_ABORT:
            reason = message.map().get("reason")
            code = reason if isinstance(reason, str) and reason in HOP_CODES else "host-failed"
            again = PROBLEMS[code].retry_elsewhere
            raise ProblemError(code, _SENTENCES[code], retry_after_s=RETRY_AFTER_S if again else None)
        raise LinkError(f"The parent sent {message.type.name} within the worker's answer.")

    async def _refuse(self, answer: Answer, worker: WorkerBinding, error: MessageError) -> None:
        """Answer a message that no engine should see, inside the sealed response."""
        head, body = error_body(error.status, str(error))
        answer.head(head)
        await answer.body(body)
        await self._finish(answer, worker, "", None)

    async def _finish(self, answer: Answer, worker: WorkerBinding, model_digest: str, tail: HopTail | None) -> None:
        def receipt(response: bytes) -> Receipt:
            return self._receipt.finish(
                request=self._opener.th,
                opened=self._opener.opened,
                response=response,
                level=self._level,
                proof=self._proof,
                worker=worker,
                model_digest=model_digest,
                tail=tail,
                first_byte_s=answer.first_byte_s,
            )

        await answer.finish(receipt)
