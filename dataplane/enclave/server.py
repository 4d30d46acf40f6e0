"""The enclave's server: one operation per connection of the host link, and what it shares between them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dataplane.enclave.binder import CALL_TIMEOUT_S, SEND_TIMEOUT_S, WorkerBinder
from dataplane.enclave.binding import MAX_BINDING_AGE_S, Measurements
from dataplane.enclave.checks import deadline_s
from dataplane.enclave.credentials import HostCredentials, RelayedCredentials
from dataplane.enclave.datakeys import DataKeyCache
from dataplane.enclave.hostclock import WatchedNsm
from dataplane.enclave.identity import EnclaveIdentity
from dataplane.enclave.inbound import Inbound, ParentGoneError
from dataplane.enclave.infer import EnclaveState, Inference
from dataplane.enclave.keyring import Keyring
from dataplane.enclave.kms import KmsDecryptor
from dataplane.enclave.memory import ByteBudget
from dataplane.enclave.receipting import ReceiptSigner
from dataplane.enclave.replay import ReplayWindow
from dataplane.enclave.salt import SECRET_BYTES
from dataplane.mesh.address import Address, start_server
from dataplane.mesh.admission import Admission
from dataplane.mesh.linkio import LinkStream
from dataplane.mesh.logs import place_of
from dataplane.protocol.errors import LinkError, MrgcError, OpenError, ProblemError
from dataplane.protocol.link import MAX_PAYLOAD_BYTES, LinkType
from observability import names
from observability.disclosure import Where, disclosed
from observability.tracing import Telemetry

MAX_CONNECTIONS = 512
"""Connections at once: 200 streams and as many that start, with room for the parent's own questions. A connection
holds at most 512 KiB in its buffers (reader 128 KiB twice, decoder 128 KiB, writer 128 KiB), so 256 MiB in all."""

OPEN_TIMEOUT_S = 5.0
"""How long a connection may take to say what it wants."""

KMS_TIMEOUT_S = 8.0
"""Longest wait for a data key; see kms.py for what one call may take."""

LINGER_S = 2.0
"""How long a connection that was answered is read on, unheeded: closing a socket with unread bytes would reset it, and
the answer could be lost on its way through the proxy."""

FORGET_PERIOD_S = 1.0
"""How often lapsed entries of the replay window are dropped without a request asking: its buckets are seconds."""

OVER_LIMIT = ProblemError("overloaded", "The enclave has as many connections as it takes.", retry_after_s=1)
MIN_NONCE = 16
MAX_NONCE = 64
MAX_WAITING_ATTESTS = 1
"""Documents that may wait while one is made; more are refused at once. The parent makes one serve all who ask, so two
at a time are a parent that does otherwise, and the module is there for data keys (nsm_gate.py)."""

logger = logging.getLogger(__name__)


class EnclaveServer:
    """Serves `infer`, `health`, `attest`, `credentials` and `bind` (docs/host-link.md)."""

    def __init__(
        self,
        *,
        address: Address,
        nsm: WatchedNsm,
        identity: EnclaveIdentity,
        kms: KmsDecryptor,
        credentials: RelayedCredentials,
        telemetry: Telemetry,
        clock_ms: Callable[[], int],
        monotonic: Callable[[], float],
        host_measurements: Measurements = (),
        configurations: frozenset[bytes] = frozenset(),
        attestation_roots: Sequence[x509.Certificate] | None = None,
        max_connections: int = MAX_CONNECTIONS,
        replay: ReplayWindow | None = None,
        memory: ByteBudget | None = None,
        receipt_key: Ed25519PrivateKey | None = None,
    ) -> None:
        """Bind nothing yet; the cache-salt secret and the receipt key are made here and never leave.

        `receipt_key` is for tests, which then know the key.
        """
        self._address = address
        self._nsm = nsm
        self._credentials = credentials
        self._max_connections = max_connections
        self._telemetry = telemetry
        self._clock_ms = clock_ms
        self._monotonic = monotonic
        self.state = EnclaveState(
            identity=identity,
            nsm_level=nsm.assurance,
            signer=ReceiptSigner(identity=identity, clock_ms=clock_ms, key=receipt_key),
            keyring=Keyring(
                kms=kms,
                cache=DataKeyCache(),
                clock_ms=clock_ms,
                monotonic=monotonic,
                call_timeout_s=KMS_TIMEOUT_S,
            ),
            replay=ReplayWindow() if replay is None else replay,
            memory=ByteBudget() if memory is None else memory,
            telemetry=telemetry,
            salt_secret=os.urandom(SECRET_BYTES),
            clock_ms=clock_ms,
            monotonic=monotonic,
            host_clock=nsm.clock,
        )
        self.binder = WorkerBinder(
            self.state,
            nsm=nsm,
            host_measurements=host_measurements,
            configurations=configurations,
            roots=attestation_roots,
            clock_ms=clock_ms,
            monotonic=monotonic,
        )
        self._attests = Admission(max_in_flight=1, max_queue=MAX_WAITING_ATTESTS)
        self._server: asyncio.Server | None = None
        self._background: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen; raises `AddressError`."""
        self._server = await start_server(self._accept, self._address)
        self._background = [
            asyncio.create_task(self.state.keyring.sweep(), name="enclave.sweep"),
            asyncio.create_task(self._forget(), name="enclave.forget"),
            asyncio.create_task(self._nsm.keep_looking(), name="enclave.clock"),
        ]

    async def close(self, *, drain_s: float) -> None:
        """Accept no more, give requests `drain_s` seconds, cancel the rest, forget every key."""
        if self._server is not None:
            self._server.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=drain_s)
        owned = [*self._tasks, *self._background]
        for task in owned:
            task.cancel()
        await asyncio.gather(*owned, return_exceptions=True)
        await self.state.keyring.close()

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._tasks)

    async def _forget(self) -> None:
        """Drop what has lapsed of the replay window, slice by slice; runs until cancelled."""
        while True:
            await asyncio.sleep(FORGET_PERIOD_S)
            more = True
            # Never by a wrong clock: the window keeps the latest time it was told, and would refuse until then.
            while more and not self.state.host_clock.fault:
                more = self.state.replay.sweep(self._clock_ms())
                await asyncio.sleep(0)

    # One connection.

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:  # pragma: no cover - asyncio runs handlers in tasks
            raise RuntimeError("a connection handler runs in a task")
        self._tasks.add(task)
        link = LinkStream(reader, writer)
        inbound = Inbound(link)
        try:
            if len(self._tasks) > self._max_connections:
                await self._send_problem(link, OVER_LIMIT)
            else:
                await self._serve(link, inbound)
        except asyncio.CancelledError:
            # Ours, from `close`. The parent has to see a break, not an end.
            link.abort()
        except (ParentGoneError, LinkError) as error:
            logger.debug("a connection ended early: %s", type(error).__name__)
            link.abort()
        except Exception as error:  # noqa: BLE001 - one connection's bug must not harm the others
            logger.error("an unexpected %s ended one connection", place_of(error))  # noqa: TRY400 - never its text
            link.abort()
        finally:
            await inbound.close()
            await link.close()
            self._tasks.discard(task)

    async def _serve(self, link: LinkStream, inbound: Inbound) -> None:
        try:
            fields = await self._opening(inbound)
            operation = fields.get("op")
            if operation == "infer":
                await self._infer(link, inbound, fields)
                return
            async with asyncio.timeout(CALL_TIMEOUT_S):
                reply = await self._call(operation, fields, link, inbound)
            await link.send(LinkType.REPLY, reply, timeout_s=SEND_TIMEOUT_S)
        except ProblemError as problem:
            await self._send_problem(link, problem)
        except TimeoutError:
            await self._send_problem(
                link, ProblemError("deadline-exceeded", f"The operation took over {CALL_TIMEOUT_S:g} s.")
            )
        await self._linger(inbound)

    async def _opening(self, inbound: Inbound) -> dict[str, Any]:
        """Return the operation that a connection is for."""
        message = await inbound.next(OPEN_TIMEOUT_S)
        if message is None or message.type is not LinkType.OPEN:
            raise LinkError("The first message of a connection must be OPEN, and come at once.")
        return message.map()

    async def _linger(self, inbound: Inbound) -> None:
        """Read on until the parent has closed."""
        with contextlib.suppress(TimeoutError, LinkError, ParentGoneError):
            async with asyncio.timeout(LINGER_S):
                while True:
                    await inbound.next()

    async def _infer(self, link: LinkStream, inbound: Inbound, fields: Mapping[str, Any]) -> None:
        """Serve one request, then send its spans and how it ended."""
        self.state.requests += 1
        limit_s = deadline_s(fields)
        inference = Inference(self.state, link, inbound, fields, deadline_s=limit_s)
        problem: ProblemError | None = None
        traceparent = fields.get("traceparent")
        with self._telemetry.span(
            names.ENCLAVE_REQUEST,
            traceparent=traceparent if isinstance(traceparent, str) else None,
        ) as span:
            try:
                async with asyncio.timeout(limit_s):
                    await inference.run(span)
            except ProblemError as error:
                # Without its traceback, whose frames would hold the message for as long as the connection lingers.
                error.__traceback__ = error.__context__ = error.__cause__ = None
                problem = error
            except TimeoutError:
                problem = ProblemError(
                    "deadline-exceeded", "The deadline passed before the enclave's answer was complete."
                )
            except (ParentGoneError, LinkError):
                raise
            except OpenError as error:
                logger.warning("the worker's answer does not open: %s", type(error).__name__)
                problem = ProblemError("host-failed", "The GPU worker's answer does not open.", retry_after_s=1)
            except Exception as error:  # noqa: BLE001 - told as the host's failure, logged without its text
                logger.error("an unexpected %s ended one request", place_of(error))  # noqa: TRY400 - never its text
                problem = ProblemError("host-failed", "The enclave failed within this request.", retry_after_s=1)
            if problem is not None:
                span.set_attribute(names.PROBLEM, problem.code)
        spans = self._telemetry.take(span.get_span_context().trace_id)
        if spans is not None and len(spans) <= MAX_PAYLOAD_BYTES:
            await link.send(LinkType.SPANS, spans, timeout_s=SEND_TIMEOUT_S)
        if problem is None:
            await link.send(LinkType.END, timeout_s=SEND_TIMEOUT_S)
        elif inference.started:
            await link.send(LinkType.ABORT, {"reason": problem.code}, timeout_s=SEND_TIMEOUT_S)
        else:
            await self._send_problem(link, problem)
        await self._linger(inbound)

    async def _send_problem(self, link: LinkStream, problem: ProblemError) -> None:
        content: dict[str, object] = {"code": problem.code, "detail": problem.detail}
        if problem.retry_after_s is not None:
            content["retry_after_s"] = problem.retry_after_s
        await link.send(LinkType.PROBLEM, content, timeout_s=SEND_TIMEOUT_S)

    # The short operations.

    async def _call(
        self, operation: object, fields: Mapping[str, Any], link: LinkStream, inbound: Inbound
    ) -> dict[str, object]:
        match operation:
            case "health":
                return self.health()
            case "attest":
                return {"document": await self._attest(fields.get("nonce"))}
            case "credentials":
                self._credentials.replace(HostCredentials.from_map(fields))
                return {"ok": True}
            case "bind":
                worker = await self.binder.bind(link, inbound)
                return {"assurance": self.state.level, "epoch": worker.epoch}
            case _:
                raise ProblemError("not-found", "The enclave knows no such operation.")

    def health(self) -> dict[str, object]:
        """Return what the parent's health page and registry record are made from."""
        state, now_s = self.state, self._monotonic()
        age_s = None if state.worker is None else state.worker.age_s(now_s)
        fresh = age_s is not None and age_s < MAX_BINDING_AGE_S
        reply = {
            "ready": fresh and self._credentials.usable and not state.host_clock.fault,
            "credentials": self._credentials.usable,
            "worker": state.worker is not None,
            "assurance": state.level,
            "data_keys": len(state.keyring),
            "replay_entries": len(state.replay),
            "pcr0": state.identity.pcr0,
            "worker_epoch": state.worker.epoch if state.worker is not None else None,
            "binding_age_ms": None if age_s is None else int(age_s * 1000),
            "clock_skew_ms": state.host_clock.skew_ms,
            "kms_calls": state.keyring.kms_calls,
            "requests": state.requests,
        }
        return disclosed(Where.HEALTH, reply)

    async def _attest(self, nonce: object) -> bytes:
        if not isinstance(nonce, bytes) or not MIN_NONCE <= len(nonce) <= MAX_NONCE:
            raise ProblemError(
                "malformed-envelope", f"An attestation's nonce is {MIN_NONCE} to {MAX_NONCE} bytes; send such a one."
            )
        shown = self.state.signer.user_data
        try:
            async with self._attests.slot(timeout_s=CALL_TIMEOUT_S):
                # The module's device blocks for milliseconds.
                return await asyncio.to_thread(self._nsm.attest, nonce=nonce, user_data=shown, public_key=None)
        except ProblemError:
            raise
        except MrgcError as error:
            logger.error("no attestation document: %s", error)  # noqa: TRY400 - the sentence says it all
            raise ProblemError(
                "host-failed", "The enclave's security module gave no document.", retry_after_s=1
            ) from None
