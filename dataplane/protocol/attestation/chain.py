"""The certificate chain of an attestation document, from a pinned root down to the key that signed it.

Not the web's rules: no names to match, no revocation lists (AWS says not to check them), P-384 and SHA-384 throughout.
`cryptography` parses certificates and checks each signature; what a path must satisfy (RFC 5280, section 6.1) is here.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384

from dataplane.protocol.errors import AttestationError

NOT_BEFORE_SKEW = timedelta(seconds=60)
"""How far a certificate's start may lie after the document's time: the NSM's clock and its CA's differ by seconds."""

# What `cryptography` raises on a certificate that it can't read, wholly or in part; they have no common base.
_BROKEN = (
    ValueError,
    TypeError,
    UserWarning,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


def verify_chain(
    certificate: bytes, cabundle: Sequence[bytes], *, roots: Sequence[x509.Certificate], at_ms: int
) -> ec.EllipticCurvePublicKey:
    """Return the leaf's public key if a chain leads to it from one of `roots`, valid at `at_ms` (ms since 1970).

    `cabundle` is root first. Its entry 0 is what the sender calls the root and is ignored: only `roots` count.
    Raises `AttestationError` with reason `chain`.
    """
    with warnings.catch_warnings():
        # What the library reads with a warning (a serial number of zero, a country of seven letters) is refused.
        warnings.simplefilter("error", UserWarning)
        return _verify(certificate, cabundle, roots=roots, at_ms=at_ms)


def _verify(
    certificate: bytes, cabundle: Sequence[bytes], *, roots: Sequence[x509.Certificate], at_ms: int
) -> ec.EllipticCurvePublicKey:
    """Walk from the root to the leaf."""
    path = [_load(entry) for entry in [*cabundle[1:], certificate]]
    root = _issuing_root(path[0], roots)
    moment = datetime.fromtimestamp(at_ms // 1000, UTC)
    chain = [root, *path]
    for position, current in enumerate(chain):
        try:
            _check_dates(current, moment)
            # Intermediate CAs below this one, the leaf not counted (RFC 5280, section 4.2.1.9).
            _check_rights(current, ca=position < len(path), below=len(path) - 1 - position)
            key = _public_key(current)
            if position:
                current.verify_directly_issued_by(chain[position - 1])
        except InvalidSignature:
            raise _refuse(current, "was not signed by the certificate above it") from None
        except _BROKEN:
            raise _refuse(current, "does not follow from the certificate above it, or can't be read") from None
    return key


def _issuing_root(first: x509.Certificate, roots: Sequence[x509.Certificate]) -> x509.Certificate:
    """Return the pinned root that issued the first certificate below it."""
    for root in roots:
        try:
            first.verify_directly_issued_by(root)
        except (InvalidSignature, *_BROKEN):
            continue
        return root
    raise AttestationError("The attestation document's chain does not start at a pinned root.", reason="chain")


def _load(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except _BROKEN:
        raise AttestationError(
            "The attestation document holds a certificate that is not X.509.", reason="chain"
        ) from None


def _public_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """Return the P-384 key of a certificate that was itself signed with ECDSA and SHA-384."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _refuse(certificate, "has a key that is not P-384")
    if not isinstance(certificate.signature_hash_algorithm, SHA384):
        raise _refuse(certificate, "is not signed with SHA-384")
    return key


def _check_dates(certificate: x509.Certificate, moment: datetime) -> None:
    if certificate.not_valid_before_utc > moment + NOT_BEFORE_SKEW:
        raise _refuse(certificate, "was not yet valid at the document's time")
    if certificate.not_valid_after_utc < moment:
        raise _refuse(certificate, "was no longer valid at the document's time")


def _check_rights(certificate: x509.Certificate, *, ca: bool, below: int) -> None:
    """Check basic constraints and key usage, and that no critical extension goes unheeded."""
    constraints, usage = _rights(certificate)
    if usage is None:
        raise _refuse(certificate, "does not say what its key is for")
    if not ca:
        if constraints is not None and constraints.ca:
            raise _refuse(certificate, "signs the document but belongs to a CA")
        if not usage.digital_signature:
            raise _refuse(certificate, "signs the document but its key is not for signatures")
        return
    if constraints is None or not constraints.ca or not usage.key_cert_sign:
        raise _refuse(certificate, "issued another but is no CA")
    if constraints.path_length is not None and constraints.path_length < below:
        raise _refuse(certificate, f"allows {constraints.path_length} CAs below it and has {below}")


def _rights(certificate: x509.Certificate) -> tuple[x509.BasicConstraints | None, x509.KeyUsage | None]:
    """Return the two extensions that give rights; a critical one of another kind is refused."""
    constraints: x509.BasicConstraints | None = None
    usage: x509.KeyUsage | None = None
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.BasicConstraints):
            constraints = extension.value
        elif isinstance(extension.value, x509.KeyUsage):
            usage = extension.value
        elif extension.critical:
            raise _refuse(certificate, "has a critical extension that is not understood")
    return constraints, usage


def _refuse(certificate: x509.Certificate, detail: str) -> AttestationError:
    try:
        names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        name = repr(names[0].value)[:80] if names else "without a name"
    except _BROKEN:
        name = "without a readable name"
    return AttestationError(f"The attestation document's certificate {name} {detail}.", reason="chain")
