"""Receipts: the key that this enclave made to sign them, and what one request adds to its receipt on the way.

The key is made when the enclave starts and never leaves it; its public half stands, hashed, in the `user_data` of every
attestation document that the enclave serves. A restart makes another key.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dataplane.enclave.binding import WorkerBinding
from dataplane.enclave.identity import EnclaveIdentity
from dataplane.protocol.hop import HopTail
from dataplane.protocol.receipt import MAX_SPANS, Receipt, SealedSpan, enclave_user_data

FIRST_BYTE: Final = "enclave.first_byte"
"""From the request's arrival to the first byte of its answer."""

_US: Final = 1_000_000
_MAX_UINT: Final = 2**64 - 1


class ReceiptSigner:
    """The enclave's receipt key and what every receipt says of the enclave itself."""

    def __init__(
        self, *, identity: EnclaveIdentity, clock_ms: Callable[[], int], key: Ed25519PrivateKey | None = None
    ) -> None:
        """Sign for `identity` with `key`; without one (always, but in tests) a key is made here."""
        self._key = Ed25519PrivateKey.generate() if key is None else key
        self._identity = identity
        self._clock_ms = clock_ms
        self.user_data: Final = enclave_user_data(self._key.public_key().public_bytes_raw())
        """What the `user_data` of this enclave's attestation documents must be (32 bytes)."""

    def sign(
        self,
        *,
        request: bytes,
        opened: bytes,
        response: bytes,
        level: int,
        proof: Mapping[str, int],
        worker: WorkerBinding,
        model_digest: str,
        usage: Mapping[str, int] | None,
        spans: Sequence[SealedSpan],
    ) -> Receipt:
        """Return the signed receipt of one answer, with this moment's time.

        `request` is `th`, `opened` what opened it and `response` the hash of what was answered, 32 bytes each; `level`
        is the assurance at which `worker` was asked, `proof` how old that binding was then. The fields are `Receipt`'s.
        """
        return Receipt(
            request=request,
            opened=opened,
            response=response,
            assurance=level,
            time=self._clock_ms(),
            pcr0=self._identity.pcr0,
            region=self._identity.region,
            instance=self._identity.instance_id,
            model_digest=model_digest,
            config_digest=worker.config_digest,
            # The binding's, which the worker's document covers; its hop tail says the same of the same key.
            wash=None if worker.wash is None else worker.wash.as_map(),
            proof=proof,
            usage=usage,
            spans=spans,
        ).signed(self._key)


class RequestReceipt:
    """What becomes one request's receipt: its times in the enclave, and at its end all the rest."""

    def __init__(self, signer: ReceiptSigner, *, monotonic: Callable[[], float]) -> None:
        """Begin now: every span starts at its distance from this moment."""
        self._signer = signer
        self._monotonic = monotonic
        self._begun_s = monotonic()
        self._spans: list[SealedSpan] = []
        self._asked_us = 0

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Record the block as a span; one that raises is not recorded, for then there is no receipt."""
        start_us = self._now_us()
        yield
        self._spans.append((name, start_us, self._now_us() - start_us))

    def asked(self) -> None:
        """Note that the worker is asked now: its own spans count from here."""
        self._asked_us = self._now_us()

    def finish(
        self,
        *,
        request: bytes,
        opened: bytes,
        response: bytes,
        level: int,
        proof: Mapping[str, int],
        worker: WorkerBinding,
        model_digest: str,
        tail: HopTail | None,
        first_byte_s: float | None,
    ) -> Receipt:
        """Return the signed receipt; `tail` is None where no worker was asked.

        `first_byte_s` is when the first byte left, on the monotonic clock (None: none has left). The worker's spans
        follow the enclave's own, as many as `MAX_SPANS` leaves room for.
        """
        own = list(self._spans)
        if first_byte_s is not None:
            own.append((FIRST_BYTE, 0, self._us(first_byte_s)))
        theirs = () if tail is None else tail.spans
        moved = [(name, min(start + self._asked_us, _MAX_UINT), took) for name, start, took in theirs]
        return self._signer.sign(
            request=request,
            opened=opened,
            response=response,
            level=level,
            proof=proof,
            worker=worker,
            model_digest=model_digest,
            usage=None if tail is None else tail.usage,
            spans=(*own, *moved)[:MAX_SPANS],
        )

    def _now_us(self) -> int:
        return self._us(self._monotonic())

    def _us(self, moment_s: float) -> int:
        return max(0, round((moment_s - self._begun_s) * _US))
