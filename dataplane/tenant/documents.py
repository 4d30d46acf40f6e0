"""The attestation documents that show whose a receipt's key is: asked for after the answer, verified, kept."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from cryptography import x509

from dataplane.protocol.attestation.nonces import expected_nonce
from dataplane.protocol.attestation.verify import AttestationPolicy, verify
from dataplane.protocol.errors import AttestationError, MrgcError
from dataplane.protocol.receipt import Receipt, enclave_user_data
from dataplane.tenant.bundle import KeptDocument
from dataplane.tenant.client import wall_clock_ms
from dataplane.tenant.errors import ReceiptError
from dataplane.tenant.fetch import DEADLINE_S, fetch_document, fresh_nonce
from dataplane.tenant.retry import RetryPolicy

MAX_HELD = 256
"""Documents held, one an enclave start; each has about 5 KiB."""

PAUSE_S = 30.0
"""After a key's document could not be had, how long nobody asks for it again."""

T = TypeVar("T")


class DocumentSource:
    """Asks the cluster for the document of one enclave, and takes it only for the receipt that it is wanted for."""

    def __init__(
        self,
        *,
        endpoint: str,
        tls: ssl.SSLContext | None,
        credentials: Mapping[str, str],
        roots: Sequence[x509.Certificate] | None = None,
        clock_ms: Callable[[], int] = wall_clock_ms,
        monotonic: Callable[[], float] = time.monotonic,
        nonce: Callable[[], bytes] = fresh_nonce,
        deadline_s: float = DEADLINE_S,
        retry: RetryPolicy | None = None,
    ) -> None:
        """Ask `endpoint` with `credentials` (HTTP headers), and verify under `roots` (AWS's when None)."""
        self._endpoint = endpoint
        self._tls = tls
        self._credentials = credentials
        self._roots = roots
        self._clock_ms = clock_ms
        self._monotonic = monotonic
        self._nonce = nonce
        self._deadline_s = deadline_s
        self._retry = retry

    async def fetch(self, receipt: Receipt) -> KeptDocument:
        """Return a document over a nonce made here, of the enclave that holds the receipt's key.

        Raises `AttestationError` for a document that does not hold, `ReceiptError` for one of another enclave (it may
        have started anew since), `RequestError` when none came.
        """
        kept = await fetch_document(
            endpoint=self._endpoint,
            tls=self._tls,
            headers=self._credentials,
            instance=receipt.instance,
            monotonic=self._monotonic,
            nonce=self._nonce,
            deadline_s=self._deadline_s,
            retry=self._retry,
        )
        self._check(kept, receipt)
        return kept

    def _check(self, kept: KeptDocument, receipt: Receipt) -> None:
        policy = AttestationPolicy(
            allowed_pcrs=[{0: receipt.pcr0}],
            nonce=expected_nonce(kept.nonce, kept.nonces),
            user_data=enclave_user_data(receipt.key or b""),
        )
        try:
            shown = verify(kept.document, now_ms=self._clock_ms(), policy=policy, roots=self._roots)
        except AttestationError as error:
            if error.reason not in {"pcr", "user-data"}:
                raise
            raise _other() from None
        if shown.instance_id != receipt.instance:
            raise _other()


def _other() -> ReceiptError:
    return ReceiptError(
        "The document that came is another enclave's than the receipt's: that one started anew, or another was asked."
    )


class HeldDocuments:
    """One document a receipt key: fetched when a key is first seen, and held."""

    def __init__(self, source: DocumentSource, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Fetch from `source`."""
        self._source = source
        self._monotonic = monotonic
        self._held: dict[bytes, KeptDocument] = {}
        self._failed: dict[bytes, float] = {}

    async def of(self, receipt: Receipt) -> KeptDocument | None:
        """Return the document that names the receipt's key, or None where it could not be had (now, or lately)."""
        key = receipt.key or b""
        if key in self._held:
            return self._held[key]
        now = self._monotonic()
        if now < self._failed.get(key, now):
            return None
        try:
            document = await self._source.fetch(receipt)
        except MrgcError:
            _put(self._failed, key, self._monotonic() + PAUSE_S)
            return None
        _put(self._held, key, document)
        return document


def _put(held: dict[bytes, T], key: bytes, value: T) -> None:
    """Set an entry, and drop the oldest past `MAX_HELD`."""
    held.pop(key, None)
    held[key] = value
    while len(held) > MAX_HELD:
        del held[next(iter(held))]
