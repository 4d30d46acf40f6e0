"""Asks the cluster for a fresh attestation document and verifies it, trusting nobody on the way."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cryptography import x509

from dataplane.protocol.attestation.document import AttestationDocument
from dataplane.protocol.attestation.nonces import expected_nonce
from dataplane.protocol.attestation.verify import AttestationPolicy, verify
from dataplane.protocol.errors import AttestationError, MrgcError, SettingsError
from dataplane.tenant.client import wall_clock_ms
from dataplane.tenant.fetch import DEADLINE_S, fetch_document, fresh_nonce
from dataplane.tenant.retry import RetryPolicy

NOT_SHOWN = (
    "that this connection ends in that enclave, or that the same enclave answers later requests: "
    "the tenant's key policy sees to it that no other image opens them"
)
"""What a verified document leaves open. It is signed over a nonce, and over no key of this connection."""


def load_root(path: Path) -> x509.Certificate:
    """A root certificate from a PEM file; SettingsError when there is none in it."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}); name the root's PEM file.") from None
    except Exception:  # noqa: BLE001 - the library's exceptions have no common base
        raise SettingsError(f"{path} holds no PEM certificate; name the root's PEM file.") from None


def shown_registers(document: AttestationDocument, measurements: Sequence[Mapping[int, bytes]]) -> dict[str, str]:
    """The registers that decided, PCR index to hex: those of the first measurement that the document has."""
    for measurement in measurements:
        if all(document.pcrs.get(index) == value for index, value in measurement.items()):
            return {str(index): measurement[index].hex() for index in sorted(measurement)}
    return {}


async def attest(
    *,
    endpoint: str,
    tls: ssl.SSLContext | None,
    api_key: str | None,
    tenant: str | None,
    measurements: Sequence[Mapping[int, bytes]],
    roots: Sequence[x509.Certificate] | None = None,
    clock_ms: Callable[[], int] = wall_clock_ms,
    monotonic: Callable[[], float] = time.monotonic,
    nonce: Callable[[], bytes] = fresh_nonce,
    deadline_s: float = DEADLINE_S,
    retry: RetryPolicy | None = None,
) -> AttestationDocument:
    """Fetch one enclave's document over a nonce made here, and verify it against `roots` (AWS's when None).

    What that leaves open is NOT_SHOWN. Raises AttestationError for a document that does not hold, RequestError when
    none came.
    """
    headers = {} if api_key is None or tenant is None else {"Authorization": f"Bearer {api_key}", "X-Tenant-ID": tenant}
    kept = await fetch_document(
        endpoint=endpoint,
        tls=tls,
        headers=headers,
        monotonic=monotonic,
        nonce=nonce,
        deadline_s=deadline_s,
        retry=retry,
    )
    # One document may serve several who asked within a second; then its nonce is made of all of theirs.
    expected = expected_nonce(kept.nonce, kept.nonces)
    try:
        return verify(
            kept.document,
            roots=roots,
            now_ms=clock_ms(),
            policy=AttestationPolicy(allowed_pcrs=measurements, nonce=expected),
        )
    except MrgcError:
        raise
    except Exception as error:  # noqa: BLE001 - a fault of the verifier is no verified document
        raise AttestationError(
            f"The attestation document could not be judged ({type(error).__name__}).", reason="cose"
        ) from None
