"""Verification of an attestation document, in the protocol's order; the first failure names itself.

Size, COSE, fields, chain, signature, age, debug, PCRs, nonce, user data, public key (docs/attestation.md). A signature
has a second valid form (r, n - s), so a document's hash is never an identity and never a replay guard.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384

from dataplane.protocol.attestation.chain import verify_chain
from dataplane.protocol.attestation.document import (
    PCR_BYTES,
    SIGNATURE_BYTES,
    AttestationDocument,
    CoseSign1,
    parse_cose,
    parse_payload,
)
from dataplane.protocol.errors import AttestationError

MAX_AGE_MS = 300_000
"""Five minutes, as KMS has it."""

MAX_FUTURE_MS = 60_000
"""How far the signer's clock may run ahead of ours."""

AWS_NITRO_ROOT_G1_FILE = "aws_nitro_root_g1.pem"
AWS_NITRO_ROOT_G1_SHA256 = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"
"""SHA-256 of the root's DER, as AWS publishes it with the root."""

_DEBUG_PCRS = (0, 1, 2)
_TPM_BOUND = (frozenset({4, 12}), frozenset({7}))


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationPolicy:
    """What a document must say.

    `allowed_pcrs` are the acceptable measurements, each a map of index to 48 bytes; a document passes if every register
    of one of them is equal. An empty list allows nothing. `nonce`, `user_data` and `public_key` are compared where
    they are not None. With `tpm` the document must be NitroTPM's, and each measurement must bind PCR4 with PCR12, or
    PCR7: PCR4 alone is bypassed through the kernel command line (GHSA-xrv8-2pf5-f3q7). Times are ms.
    """

    allowed_pcrs: Sequence[Mapping[int, bytes]]
    nonce: bytes | None = None
    user_data: bytes | None = None
    public_key: bytes | None = None
    tpm: bool = False
    max_age_ms: int = MAX_AGE_MS
    max_future_ms: int = MAX_FUTURE_MS

    def __post_init__(self) -> None:
        """Refuse a measurement that would allow every image (`AttestationError`, reason `pcr`)."""
        for measurement in self.allowed_pcrs:
            if not measurement:
                raise AttestationError("An allowed measurement names no PCR; it must name at least PCR0.", reason="pcr")
            if any(len(value) != PCR_BYTES or not any(value) for value in measurement.values()):
                raise AttestationError(
                    f"An allowed measurement has a PCR that is not {PCR_BYTES} bytes, or is zero.", reason="pcr"
                )
            if self.tpm and not any(bound <= measurement.keys() for bound in _TPM_BOUND):
                raise AttestationError(
                    "An allowed NitroTPM measurement must bind PCR4 with PCR12, or PCR7.", reason="pcr"
                )


@cache
def aws_nitro_root_g1() -> x509.Certificate:
    """Return the pinned root of AWS Nitro, G1, which ships with this package."""
    pem = resources.files(__package__).joinpath(AWS_NITRO_ROOT_G1_FILE).read_bytes()
    root = x509.load_pem_x509_certificate(pem)
    if root.fingerprint(SHA256()).hex() != AWS_NITRO_ROOT_G1_SHA256:
        raise AttestationError("The AWS Nitro root shipped with this package is not the published one.", reason="chain")
    return root


def verify(
    document: bytes, *, now_ms: int, policy: AttestationPolicy, roots: Sequence[x509.Certificate] | None = None
) -> AttestationDocument:
    """Return what a document says if all of it holds at `now_ms`, under `roots` (by default AWS's alone).

    Raises `AttestationError`, whose `reason` names the first check that failed.
    """
    parsed = authenticate(
        document, now_ms=now_ms, roots=roots, max_age_ms=policy.max_age_ms, max_future_ms=policy.max_future_ms
    )
    _check_policy(parsed, policy)
    return parsed


def verify_kept(
    document: bytes, *, policy: AttestationPolicy, roots: Sequence[x509.Certificate] | None = None
) -> AttestationDocument:
    """Return what a document says that was kept, judged at its own time: everything that `verify` checks but its age.

    No clock is asked, so this proves that the document was genuine when it was made, and never that what it describes
    still runs; `policy.max_age_ms` and `policy.max_future_ms` are not used. What the document is trusted for must come
    from its fields (`timestamp_ms`, `user_data`). Raises `AttestationError` as `verify` does, never for `age`.
    """
    parsed = _authenticate(document, roots=roots)
    _check_policy(parsed, policy)
    return parsed


def authenticate(
    document: bytes,
    *,
    now_ms: int,
    roots: Sequence[x509.Certificate] | None = None,
    max_age_ms: int = MAX_AGE_MS,
    max_future_ms: int = MAX_FUTURE_MS,
) -> AttestationDocument:
    """Return what a document says if it is genuine and fresh, whatever its measurements; `verify` is the rest.

    Raises `AttestationError` with reason `size`, `cose`, `field`, `chain`, `signature` or `age`.
    """
    parsed = _authenticate(document, roots=roots)
    _check_age(now_ms - parsed.timestamp_ms, max_age_ms=max_age_ms, max_future_ms=max_future_ms)
    return parsed


def _authenticate(document: bytes, *, roots: Sequence[x509.Certificate] | None) -> AttestationDocument:
    """Check form, chain and signature at the document's own time."""
    cose = parse_cose(document)
    parsed = parse_payload(cose.payload)
    trusted = (aws_nitro_root_g1(),) if roots is None else roots
    key = verify_chain(parsed.certificate, parsed.cabundle, roots=trusted, at_ms=parsed.timestamp_ms)
    _check_signature(cose, key)
    return parsed


def _check_age(age_ms: int, *, max_age_ms: int, max_future_ms: int) -> None:
    if age_ms > max_age_ms:
        raise AttestationError(
            f"The attestation document is {age_ms // 1000} s old; at most {max_age_ms // 1000} s are accepted.",
            reason="age",
        )
    if -age_ms > max_future_ms:
        raise AttestationError(
            f"The attestation document is {-age_ms // 1000} s ahead of this clock; at most {max_future_ms // 1000} s "
            "are accepted.",
            reason="age",
        )


def _check_policy(parsed: AttestationDocument, policy: AttestationPolicy) -> None:
    """Check that the document is no debug enclave's and says what the policy wants."""
    check_not_debug(parsed)
    _check_pcrs(parsed, policy)
    _check_equal(parsed.nonce, policy.nonce, reason="nonce")
    _check_equal(parsed.user_data, policy.user_data, reason="user-data")
    _check_equal(parsed.public_key, policy.public_key, reason="public-key")


def check_not_debug(document: AttestationDocument) -> None:
    """Refuse a debug enclave: genuine chain and signature, and registers that measure nothing.

    Raises `AttestationError` with reason `debug` (a register of PCR0 to PCR2 is zero) or `pcr` (one is missing).
    """
    for index in _DEBUG_PCRS:
        value = document.pcrs.get(index)
        if value is None:
            raise AttestationError(f"The attestation document has no PCR{index}.", reason="pcr")
        if not any(value):
            raise AttestationError(
                f"The attestation document's PCR{index} is zero: it comes from a debug enclave, which proves nothing.",
                reason="debug",
            )


def _check_signature(cose: CoseSign1, key: ec.EllipticCurvePublicKey) -> None:
    half = SIGNATURE_BYTES // 2
    r, s = int.from_bytes(cose.signature[:half]), int.from_bytes(cose.signature[half:])
    try:
        key.verify(encode_dss_signature(r, s), cose.signed_bytes(), ec.ECDSA(SHA384()))
    except (InvalidSignature, ValueError):
        raise AttestationError(
            "The attestation document's signature is not its certificate's.", reason="signature"
        ) from None


def _check_pcrs(document: AttestationDocument, policy: AttestationPolicy) -> None:
    wanted = "nitrotpm_pcrs" if policy.tpm else "pcrs"
    if document.pcr_field != wanted:
        raise AttestationError(
            f"The attestation document measures {document.pcr_field}; {wanted} are expected.", reason="pcr"
        )
    for measurement in policy.allowed_pcrs:
        if all(document.pcrs.get(index) == value for index, value in measurement.items()):
            return
    raise AttestationError(
        f"The attestation document's measurements are not among the {len(policy.allowed_pcrs)} allowed.", reason="pcr"
    )


def _check_equal(given: bytes | None, expected: bytes | None, *, reason: str) -> None:
    if expected is None:
        return
    if given is None or not hmac.compare_digest(given, expected):
        what = reason.replace("-", " ")
        raise AttestationError(f"The attestation document's {what} is not the expected one.", reason=reason)
