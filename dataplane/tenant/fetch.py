"""Fetching an attestation document over a nonce made here, again and again until one comes or the deadline is near."""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time
from collections.abc import Callable, Mapping

from dataplane.protocol.attestation.nonces import NONCES_HEADER
from dataplane.tenant.bundle import KeptDocument
from dataplane.tenant.http import AttemptError, ClusterHttp
from dataplane.tenant.retry import RetryPolicy

NONCE_BYTES = 32
"""Fresh for every attempt; the router takes 16 to 64."""

DEADLINE_S = 20.0


def fresh_nonce() -> bytes:
    """Return a nonce that nobody could have asked with before."""
    return secrets.token_bytes(NONCE_BYTES)


async def fetch_document(
    *,
    endpoint: str,
    tls: ssl.SSLContext | None,
    headers: Mapping[str, str],
    instance: str | None = None,
    monotonic: Callable[[], float] = time.monotonic,
    nonce: Callable[[], bytes] = fresh_nonce,
    deadline_s: float = DEADLINE_S,
    retry: RetryPolicy | None = None,
) -> KeptDocument:
    """Return the document of the enclave on host `instance` (of any when None), with its nonces; nothing is verified.

    `headers` are the tenant's credentials, if any. Raises RequestError when none came within `deadline_s`.
    """
    policy = retry or RetryPolicy()
    end = monotonic() + deadline_s
    async with ClusterHttp(endpoint=endpoint, tls=tls) as http:
        attempt = 0
        while True:
            attempt += 1
            fresh = nonce()
            try:
                document, answered = await http.fetch(
                    "/attestation",
                    headers=headers,
                    attempt=attempt,
                    timeout_s=max(0.0, end - monotonic()),
                    params={"nonce": fresh.hex()} | ({} if instance is None else {"instance": instance}),
                )
                return KeptDocument(document=document, nonce=fresh, nonces=answered.get(NONCES_HEADER))
            except AttemptError as failed:
                wait_s = policy.delay_s(
                    attempt,
                    remaining_s=end - monotonic(),
                    random=lambda: secrets.randbelow(1000) / 1000,
                    retry_after_s=failed.error.retry_after_s,
                )
                if not failed.retry or wait_s is None:
                    raise failed.error from None
            await asyncio.sleep(wait_s)
