"""One attestation document for several askers: the nonce that it carries, and what each asker checks.

A single nonce stays as it is. Several become the SHA-256 of the nonces, sorted and joined, and the list goes with the
document (`X-MRGC-Nonces`). An asker who finds its own fresh nonce in a list whose hash the document carries knows that
the document was made after that nonce: the nonce is part of what was hashed, and it could not be guessed before.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from dataplane.protocol.errors import AttestationError

NONCES_HEADER = "X-MRGC-Nonces"
"""Names the nonces, in hex with commas between, of a document that serves several askers."""

MIN_NONCE_BYTES = 16
MAX_NONCE_BYTES = 64
"""Lengths of one asker's nonce (docs/protocol.md, "HTTP")."""

MAX_SHARED_NONCES = 32
"""Askers whom one document serves. The longest header is 32 * 128 digits and 31 commas, 4,127 bytes: half of the 8,190
that common HTTP libraries take for a header field."""

MAX_HEADER_CHARS = MAX_SHARED_NONCES * 2 * MAX_NONCE_BYTES + MAX_SHARED_NONCES - 1

_NONCE = rf"(?:[0-9a-f]{{2}}){{{MIN_NONCE_BYTES},{MAX_NONCE_BYTES}}}"
_NONCES = re.compile(rf"{_NONCE}(?:,{_NONCE})*", re.ASCII)


def shared_nonce(nonces: Iterable[bytes]) -> bytes:
    """Return what a document for all these askers carries: the nonce itself, or 32 bytes where there are several.

    The same nonce twice counts once. Raises `ValueError` for none or more than `MAX_SHARED_NONCES`.
    """
    distinct = sorted(set(nonces))
    if not 1 <= len(distinct) <= MAX_SHARED_NONCES:
        message = f"a document serves 1 to {MAX_SHARED_NONCES} nonces, not {len(distinct)}"
        raise ValueError(message)
    return distinct[0] if len(distinct) == 1 else hashlib.sha256(b"".join(distinct)).digest()


def format_nonces(nonces: Iterable[bytes]) -> str | None:
    """Return the value of `X-MRGC-Nonces`, or None where one nonce stands for itself and nothing is to be said."""
    distinct = sorted(set(nonces))
    return ",".join(nonce.hex() for nonce in distinct) if len(distinct) > 1 else None


def expected_nonce(own: bytes, header: str | None) -> bytes:
    """Return the nonce that a document must carry for an asker who sent `own` and got `header` (None: no header).

    Raises `AttestationError` (`nonce`) for a list that is none, is too long, names fewer than two, is not sorted, or
    does not hold `own`.
    """
    if header is None:
        return own
    if len(header) > MAX_HEADER_CHARS or not _NONCES.fullmatch(header):
        raise AttestationError(
            f"{NONCES_HEADER} is no list of at most {MAX_SHARED_NONCES} nonces in hex; the document is not taken.",
            reason="nonce",
        )
    nonces = [bytes.fromhex(text) for text in header.split(",")]
    if len(nonces) < 2 or nonces != sorted(set(nonces)):  # noqa: PLR2004 - one nonce needs no list
        raise AttestationError(
            f"{NONCES_HEADER} must name at least two nonces, sorted, each once; the document is not taken.",
            reason="nonce",
        )
    if len(nonces) > MAX_SHARED_NONCES:
        raise AttestationError(
            f"{NONCES_HEADER} names {len(nonces)} nonces; a document serves at most {MAX_SHARED_NONCES}.",
            reason="nonce",
        )
    if own not in nonces:
        raise AttestationError(
            f"{NONCES_HEADER} does not name the nonce that was asked with; the document was made for others.",
            reason="nonce",
        )
    return shared_nonce(nonces)
