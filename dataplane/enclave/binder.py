"""Binding a worker: a challenge over the host link, the judgement of its answer, and what a change of worker ends."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence

from cryptography import x509

from dataplane.enclave.binding import (
    CHALLENGE_BYTES,
    MAX_ANSWER_BYTES,
    BindingError,
    Measurements,
    WorkerBinding,
    judge_answer,
)
from dataplane.enclave.hostclock import LOOK_TIMEOUT_S, WatchedNsm
from dataplane.enclave.inbound import Inbound
from dataplane.enclave.infer import EnclaveState
from dataplane.mesh.linkio import LinkStream
from dataplane.mesh.logs import place_of
from dataplane.protocol.errors import AttestationError, LinkError, MrgcError, ProblemError
from dataplane.protocol.link import LinkType

CALL_TIMEOUT_S = 10.0
"""Longest of the short operations; `bind` asks the worker, which may make a NitroTPM document (seconds)."""

SEND_TIMEOUT_S = 10.0
"""How long the parent may take none of what it is sent."""

logger = logging.getLogger(__name__)


class WorkerBinder:
    """Changes `state.worker`, and nobody else does.

    `host_measurements` are the host images that level 2 takes, `configurations` the digests that a worker may have (any
    where there is none).
    """

    def __init__(
        self,
        state: EnclaveState,
        *,
        nsm: WatchedNsm,
        host_measurements: Measurements,
        configurations: frozenset[bytes],
        roots: Sequence[x509.Certificate] | None,
        clock_ms: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        """Bind nobody yet; `roots` are those of the workers' documents (AWS's alone when None)."""
        self._state = state
        self._nsm = nsm
        self.host_measurements = host_measurements
        self.configurations = configurations
        self._roots = roots
        self._clock_ms = clock_ms
        self._monotonic = monotonic

    async def bind(self, link: LinkStream, inbound: Inbound) -> WorkerBinding:
        """Challenge the worker and take its key; a worker that fails leaves the enclave without one."""
        await self._look()
        try:
            worker = await self._challenge(link, inbound)
        except BaseException:
            # Whatever it was, the worker is not proven: the one before it, its keys and its level go first. Under a
            # wrong clock nothing was judged: what is bound stays bound, as if nobody had asked, and serves nothing.
            if not self._state.host_clock.fault:
                self._wash(None)
            raise
        self._wash(worker)
        logger.info("a GPU worker is bound", extra={"assurance": self._state.level, "epoch": worker.epoch.hex()})
        return worker

    async def _challenge(self, link: LinkStream, inbound: Inbound) -> WorkerBinding:
        """Send a challenge and judge the answer; a refusal is told as the host's failure."""
        challenge, challenged_s = os.urandom(CHALLENGE_BYTES), self._monotonic()
        await link.send(LinkType.HOP_DATA, challenge, timeout_s=SEND_TIMEOUT_S)
        await link.send(LinkType.HOP_END, timeout_s=SEND_TIMEOUT_S)
        answer = bytearray()
        while True:
            message = await inbound.next(CALL_TIMEOUT_S)
            if message is None or message.type is LinkType.HOP_ABORT:
                raise ProblemError("host-failed", "The GPU worker did not answer the challenge.", retry_after_s=1)
            if message.type is LinkType.HOP_END:
                break
            if message.type is not LinkType.HOP_DATA or len(answer) + len(message.payload) > MAX_ANSWER_BYTES:
                raise LinkError("The worker's answer to the challenge is too long, or something else came instead.")
            answer += message.payload
        # The document's age is told by the host's clock, which may have jumped since.
        self._state.host_clock.check()
        try:
            return judge_answer(
                bytes(answer),
                challenge=challenge,
                own_pcr4=self._state.identity.pcr4,
                allowed=self.host_measurements,
                now_ms=self._clock_ms(),
                challenged_s=challenged_s,
                configurations=self.configurations,
                roots=self._roots,
            )
        except (BindingError, AttestationError) as error:
            logger.error("the GPU worker was refused: %s", error)  # noqa: TRY400 - the sentence says it all
            raise ProblemError("host-failed", f"The GPU worker was refused: {error}") from None
        except Exception as error:  # noqa: BLE001 - told as the host's failure, logged without its text
            logger.error("an unexpected %s ended one binding", place_of(error))  # noqa: TRY400 - never its text
            raise ProblemError("host-failed", "The GPU worker's answer could not be judged.") from None

    async def _look(self) -> None:
        """Look at the hypervisor's time; a module that gives none shows in `host_clock`."""
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                await self._nsm.look()
        except (MrgcError, TimeoutError) as error:
            logger.error("the security module gave no time (%s)", type(error).__name__)  # noqa: TRY400 - it says all

    def _wash(self, worker: WorkerBinding | None) -> None:
        """Change the worker. No data key outlives a car wash, a worker that was refused, or another configuration.

        A binding that only renews the last one keeps them: they are between tenant and enclave, the worker never has
        one, and dropping them every ten minutes would send every session to KMS at once.
        """
        old, self._state.worker = self._state.worker, worker
        if worker is None or not worker.same_host(old):
            self._state.keyring.wash()
