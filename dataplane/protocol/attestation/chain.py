"""The certificate chain of an attestation document, from a pinned root down to the key that signed it.

Not the web's rules: no names to match, no revocation lists (AWS says not to check them), P-384 and SHA-384 throughout.
Each certificate is held to AWS's profile (`certificate.py`); what a path must satisfy is here: every name, key
identifier and signature is of the one above, path lengths count down to zero, all are valid at the time asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384

from dataplane.protocol.attestation.certificate import NitroCertificate, read_certificate
from dataplane.protocol.attestation.der import DerError
from dataplane.protocol.errors import AttestationError

NOT_BEFORE_SKEW_MS = 60_000
"""How far a certificate's start may lie after the time asked for: the NSM's clock and its CA's differ by seconds."""

_UNCOMPRESSED = b"\4"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedChain:
    """The leaf's key, and when every certificate from the root down is valid (ms since 1970, both ends included)."""

    key: ec.EllipticCurvePublicKey
    not_before_ms: int
    not_after_ms: int

    def check_valid_at(self, moment_ms: int) -> None:
        """Return if all of the chain is valid at that time, by the verifier's clock (60 s of skew at the start)."""
        if self.not_before_ms > moment_ms + NOT_BEFORE_SKEW_MS:
            raise _chain("The attestation document's chain has a certificate that is not yet valid by this clock.")
        if self.not_after_ms < moment_ms:
            raise _chain("The attestation document's chain has a certificate that is no longer valid by this clock.")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Issuer:
    """What a certificate is checked against: the one above it, or a pinned root."""

    name: bytes
    key: ec.EllipticCurvePublicKey
    key_id: bytes | None
    not_before_ms: int
    not_after_ms: int


def verify_chain(
    certificate: bytes, cabundle: Sequence[bytes], *, roots: Sequence[x509.Certificate], at_ms: int
) -> VerifiedChain:
    """Return the leaf's public key if a chain leads to it from one of `roots`, valid at `at_ms` (ms since 1970).

    `cabundle` is root first. Its entry 0 is what the sender calls the root and is ignored: only `roots` count.
    Raises `AttestationError` with reason `chain`.
    """
    path = [_read(entry) for entry in [*cabundle[1:], certificate]]
    for position, current in enumerate(path):
        _check_dates(current, at_ms)
        _check_place(current, below=len(path) - 1 - position)
    root = issuer = _issuing_root(path[0], roots, at_ms)
    for position, current in enumerate(path):
        # The first one's issuer was found by its signature.
        if position:
            _check_issued(current, issuer)
        issuer = _Issuer(
            name=current.subject,
            key=_key(current),
            key_id=current.subject_key_id,
            not_before_ms=current.not_before_ms,
            not_after_ms=current.not_after_ms,
        )
    return VerifiedChain(
        key=issuer.key,
        not_before_ms=max(root.not_before_ms, *(one.not_before_ms for one in path)),
        not_after_ms=min(root.not_after_ms, *(one.not_after_ms for one in path)),
    )


def _read(entry: bytes) -> NitroCertificate:
    try:
        return read_certificate(entry)
    except DerError as error:
        raise _chain(f"The attestation document holds a certificate that {error}.") from None


def _check_dates(certificate: NitroCertificate, at_ms: int) -> None:
    if certificate.not_before_ms > at_ms + NOT_BEFORE_SKEW_MS:
        raise _refuse(certificate, "was not yet valid at the document's time")
    if certificate.not_after_ms < at_ms:
        raise _refuse(certificate, "was no longer valid at the document's time")


def _check_place(certificate: NitroCertificate, *, below: int) -> None:
    """Check that a CA allows exactly the CAs that are below it, as AWS's do, and that the last one is none."""
    if below == 0:
        if certificate.path_length is not None:
            raise _refuse(certificate, "signs the document but belongs to a CA")
    elif certificate.path_length is None:
        raise _refuse(certificate, "issued another but is no CA")
    elif certificate.path_length != below - 1:
        raise _refuse(certificate, f"allows {certificate.path_length} CAs below it and has {below - 1}")


def _issuing_root(first: NitroCertificate, roots: Sequence[x509.Certificate], at_ms: int) -> _Issuer:
    """Return the pinned root that issued the first certificate below it, and was valid at that time itself."""
    for root in roots:
        issuer = _anchor(root)
        if issuer is None or not issuer.not_before_ms - NOT_BEFORE_SKEW_MS <= at_ms <= issuer.not_after_ms:
            continue
        try:
            _check_issued(first, issuer)
        except AttestationError:
            continue
        return issuer
    raise _chain("The attestation document's chain does not start at a pinned root that was valid at its time.")


def _anchor(root: x509.Certificate) -> _Issuer | None:
    """Read a pinned root; None where it is no CA with a P-384 key.

    A root is the caller's, and no document's; the library reads it, and whatever it raises means that there is no root.
    """
    try:
        key = root.public_key()
        constraints = root.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = root.extensions.get_extension_for_class(x509.KeyUsage).value
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
            return None
        if not constraints.ca or not usage.key_cert_sign:
            return None
        return _Issuer(
            name=root.subject.public_bytes(),
            key=key,
            key_id=_root_key_id(root),
            not_before_ms=int(root.not_valid_before_utc.timestamp()) * 1000,
            not_after_ms=int(root.not_valid_after_utc.timestamp()) * 1000,
        )
    except Exception:  # noqa: BLE001 - the library's exceptions have no common base
        return None


def _root_key_id(root: x509.Certificate) -> bytes | None:
    try:
        return root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return None


def _check_issued(certificate: NitroCertificate, issuer: _Issuer) -> None:
    """Check that the issuer's name, key identifier (where both say it) and signature are on a certificate."""
    if certificate.issuer != issuer.name:
        raise _refuse(certificate, "names another issuer than the certificate above it")
    if certificate.authority_key_id and issuer.key_id and certificate.authority_key_id != issuer.key_id:
        raise _refuse(certificate, "names another key than that of the certificate above it")
    try:
        issuer.key.verify(certificate.signature, certificate.signed, ec.ECDSA(SHA384()))
    except InvalidSignature:
        raise _refuse(certificate, "was not signed by the certificate above it") from None
    except Exception:  # noqa: BLE001 - whatever the library raises, nothing was verified
        raise _refuse(certificate, "has a signature that can't be checked") from None


def _key(certificate: NitroCertificate) -> ec.EllipticCurvePublicKey:
    """Return the certificate's key; the library checks that the point lies on the curve."""
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), _UNCOMPRESSED + certificate.point)
    except Exception:  # noqa: BLE001 - whatever the library raises, there is no key
        raise _refuse(certificate, "has a key that is no point of P-384") from None


def _refuse(certificate: NitroCertificate, detail: str) -> AttestationError:
    return _chain(f"The attestation document's certificate {certificate.common_name!r} {detail}.")


def _chain(sentence: str) -> AttestationError:
    return AttestationError(sentence, reason="chain")
