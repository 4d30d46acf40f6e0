"""Data keys for requests: from the cache, or from KMS once however many requests of a session wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from dataplane.enclave.datakeys import DataKeyCache, key_name
from dataplane.enclave.kms import KmsDecryptor

SWEEP_PERIOD_S = 15.0
"""How often lapsed keys are dropped without a request asking: a key outlives its time in memory by at most this."""


class Keyring:
    """Single flight in front of `KmsDecryptor`, the cache behind it; owns the calls in flight."""

    def __init__(
        self,
        *,
        kms: KmsDecryptor,
        cache: DataKeyCache,
        clock_ms: Callable[[], int],
        monotonic: Callable[[], float],
        call_timeout_s: float,
    ) -> None:
        """Let one call take `call_timeout_s` seconds; how long a caller waits is the caller's business."""
        self._kms = kms
        self._cache = cache
        self._clock_ms = clock_ms
        self._monotonic = monotonic
        self._call_timeout_s = call_timeout_s
        self._flights: dict[tuple[int, bytes], asyncio.Task[bytes]] = {}

    def __len__(self) -> int:
        """Keys held."""
        return len(self._cache)

    @property
    def kms_calls(self) -> int:
        """How many times KMS was asked."""
        return self._kms.calls

    def held(self, *, kms: str, context: Mapping[str, str], wrapped: bytes) -> bytes | None:
        """Return a data key that is held already."""
        name = key_name(kms=kms, context=context, wrapped=wrapped)
        return self._cache.get(name, now_s=self._monotonic(), now_ms=self._clock_ms())

    async def fetch(self, *, kms: str, context: Mapping[str, str], wrapped: bytes, expires_s: int) -> bytes:
        """Return the data key, asking KMS unless somebody already does; raises `KmsDecryptor.decrypt`'s problems.

        A failure is told to everyone who waits and is not remembered. Cancelling one caller leaves the call to the
        others, and to the cache.
        """
        name = key_name(kms=kms, context=context, wrapped=wrapped)
        # With the generation in its name, whoever comes after a wash asks anew.
        place = (self._cache.generation, name)
        flight = self._flights.get(place)
        if flight is None:
            flight = asyncio.create_task(self._ask(name, kms, context, wrapped, expires_s), name="keyring.decrypt")
            self._flights[place] = flight
            flight.add_done_callback(lambda done: self._landed(place, done))
        return await asyncio.shield(flight)

    def wash(self) -> None:
        """Forget every key; a call in flight still serves those who wait for it, and is not kept."""
        self._cache.drop_all()

    async def sweep(self, *, period_s: float = SWEEP_PERIOD_S) -> None:
        """Drop lapsed keys every `period_s` seconds; runs until cancelled."""
        while True:
            await asyncio.sleep(period_s)
            self._cache.sweep(now_s=self._monotonic(), now_ms=self._clock_ms())

    async def close(self) -> None:
        """Cancel the calls in flight and forget every key."""
        flights = [*self._flights.values()]
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        self._cache.drop_all()

    async def _ask(self, name: bytes, kms: str, context: Mapping[str, str], wrapped: bytes, expires_s: int) -> bytes:
        generation = self._cache.generation
        cek = await self._kms.decrypt(key_arn=kms, context=context, ciphertext=wrapped, deadline_s=self._call_timeout_s)
        self._cache.put(
            name,
            cek,
            expires_ms=expires_s * 1000,
            generation=generation,
            now_s=self._monotonic(),
            now_ms=self._clock_ms(),
        )
        return cek

    def _landed(self, place: tuple[int, bytes], flight: asyncio.Task[bytes]) -> None:
        del self._flights[place]
        if not flight.cancelled():
            flight.exception()  # seen, even when nobody waits any more
