"""The attestation documents that show whose a receipt's key is: asked for after the answer, verified, kept."""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import aiohttp
from cryptography import x509

from dataplane.protocol.attestation.nonces import NONCES_HEADER, expected_nonce
from dataplane.protocol.attestation.verify import AttestationPolicy, verify
from dataplane.protocol.errors import AttestationError, MrgcError
from dataplane.protocol.receipt import Receipt, enclave_user_data
from dataplane.tenant.attest import DEADLINE_S, NONCE_BYTES
from dataplane.tenant.bundle import KeptDocument
from dataplane.tenant.client import wall_clock_ms
from dataplane.tenant.errors import ReceiptError
from dataplane.tenant.http import AttemptError, ClusterHttp, deadline_passed, read_at_most
from dataplane.tenant.retry import RetryPolicy

MAX_ANSWER_BYTES = 16_384
"""Longest document that a verifier reads."""

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
        nonce: Callable[[], bytes] = lambda: secrets.token_bytes(NONCE_BYTES),
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
        self._retry = retry or RetryPolicy()

    async def fetch(self, receipt: Receipt) -> KeptDocument:
        """Return a document over a nonce made here, of the enclave that holds the receipt's key.

        Raises `AttestationError` for a document that does not hold, `ReceiptError` for one of another enclave (it may
        have started anew since), `RequestError` when none came.
        """
        end = self._monotonic() + self._deadline_s
        async with ClusterHttp(endpoint=self._endpoint, tls=self._tls) as http:
            attempt = 0
            while True:
                attempt += 1
                nonce = self._nonce()
                try:
                    left_s = max(0.0, end - self._monotonic())
                    document, nonces = await self._get(http, receipt.instance, nonce, attempt, left_s)
                    break
                except AttemptError as failed:
                    wait_s = self._retry.delay_s(
                        attempt,
                        remaining_s=end - self._monotonic(),
                        random=lambda: secrets.randbelow(1000) / 1000,
                        retry_after_s=failed.error.retry_after_s,
                    )
                    if not failed.retry or wait_s is None:
                        raise failed.error from None
                await asyncio.sleep(wait_s)
        kept = KeptDocument(document=document, nonce=nonce, nonces=nonces)
        self._check(kept, receipt)
        return kept

    async def _get(
        self, http: ClusterHttp, instance: str, nonce: bytes, attempt: int, timeout_s: float
    ) -> tuple[bytes, str | None]:
        response = await http.open(
            "GET",
            "/attestation",
            headers=self._credentials,
            attempt=attempt,
            timeout_s=timeout_s,
            params={"nonce": nonce.hex(), "instance": instance},
        )
        try:
            async with asyncio.timeout(timeout_s):
                body = await read_at_most(response, MAX_ANSWER_BYTES)
        except (TimeoutError, aiohttp.ClientError, ConnectionError):
            raise deadline_passed(attempt) from None
        finally:
            response.close()
        if body is None:
            raise AttestationError(
                f"The endpoint answered with over {MAX_ANSWER_BYTES} bytes, longer than any document.", reason="size"
            )
        return body, response.headers.get(NONCES_HEADER)

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
