"""Attestation documents for whoever asks: one a second, however many ask, so that the enclave has time for data keys.

The first asker after a quiet second is served at once and alone. Those who come within the next second share one
document, whose nonce is made of all of theirs (dataplane/protocol/attestation/nonces.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from dataplane.protocol.attestation.nonces import MAX_SHARED_NONCES, format_nonces, shared_nonce
from dataplane.protocol.errors import ProblemError

PERIOD_S = 1.0
"""Least time between the starts of two documents. The module signs one in about 100 ms, so a tenth of its time at most
goes to those who ask."""

RETRY_AFTER_S = 1
"""When there is room again: the next document takes all who wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedDocument:
    """A document, and the value of `X-MRGC-Nonces` where it serves several."""

    document: bytes
    nonces: str | None


@dataclass(slots=True)
class _Batch:
    nonces: set[bytes] = field(default_factory=set)
    askers: int = 0
    ready: asyncio.Future[SharedDocument] = field(default_factory=asyncio.Future)


class SharedAttestations:
    """Asks the enclave for documents by `attest(nonce)`; `monotonic` and `sleep` are the clock. `close` when done."""

    def __init__(
        self,
        attest: Callable[[bytes], Awaitable[bytes]],
        *,
        monotonic: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        period_s: float = PERIOD_S,
    ) -> None:
        """Ask for nothing yet."""
        self._attest = attest
        self._monotonic = monotonic
        self._sleep = sleep
        self._period_s = period_s
        self._started: float | None = None
        self._next: _Batch | None = None
        self._maker: asyncio.Task[None] | None = None
        self.made = 0
        """Documents that the enclave was asked for."""

    async def document(self, nonce: bytes) -> SharedDocument:
        """Return a document made after this call, over `nonce` or over a list with it.

        Raises what `attest` raises, and `ProblemError` `overloaded` when the next document serves
        `MAX_SHARED_NONCES` others already.
        """
        batch = self._next
        if batch is None:
            batch = self._next = _Batch()
        if batch.askers >= MAX_SHARED_NONCES:
            raise ProblemError(
                "overloaded",
                f"The enclave's next attestation document serves {MAX_SHARED_NONCES} others already; try again.",
                retry_after_s=RETRY_AFTER_S,
            )
        batch.askers += 1
        batch.nonces.add(nonce)
        if self._maker is None:
            self._maker = asyncio.create_task(self._make(), name="attestations")
        # Shielded: one asker who leaves must not take the document from the others.
        return await asyncio.shield(batch.ready)

    async def close(self) -> None:
        """Let whoever waits go, with `CancelledError`."""
        maker, self._maker = self._maker, None
        if maker is not None:
            maker.cancel()
            await asyncio.gather(maker, return_exceptions=True)

    async def _make(self) -> None:
        """Make documents until nobody waits for one."""
        batch: _Batch | None = None
        try:
            while self._next is not None:
                if self._started is not None:
                    await self._sleep(max(0.0, self._started + self._period_s - self._monotonic()))
                self._started = self._monotonic()
                batch, self._next = self._next, None
                await self._serve(batch)
                batch = None
        finally:
            self._maker = None
            for left in (batch, self._next):
                if left is not None:
                    left.ready.cancel()
            self._next = None

    async def _serve(self, batch: _Batch) -> None:
        self.made += 1
        try:
            document = await self._attest(shared_nonce(batch.nonces))
        except Exception as error:  # noqa: BLE001 - every asker gets it, and each raises it as its own
            batch.ready.set_exception(error)
            batch.ready.exception()  # seen, even where every asker has left
        else:
            batch.ready.set_result(SharedDocument(document=document, nonces=format_nonces(batch.nonces)))
