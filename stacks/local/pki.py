"""Two local authorities: one for TLS on loopback, and one that stands in for AWS Nitro's.

Neither is trusted by anything but this machine's local stack. Keys lie in files that only their owner reads.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, HashAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dataplane.protocol.errors import SettingsError

CA_LIFETIME = timedelta(days=30)
"""A local stack lives for days; a new one makes new authorities."""

SERVER_LIFETIME = timedelta(days=7)
CLOCK_SKEW = timedelta(minutes=5)
LOOPBACK_NAMES = ("localhost",)
LOOPBACK_ADDRESSES = ("127.0.0.1", "::1")
SERVER_AND_CLIENT = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


class PkiError(SettingsError):
    """Key or certificate files that can't be read or do not belong together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    def certificate_pem(self) -> bytes:
        """Return the certificate in PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    def key_pem(self) -> bytes:
        """Return the unencrypted private key in PEM (PKCS 8)."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def save(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Write `<name>.pem` and `<name>.key.pem` (mode 0600) and return both paths."""
        directory.mkdir(parents=True, exist_ok=True)
        certificate, key = directory / f"{name}.pem", directory / f"{name}.key.pem"
        certificate.write_bytes(self.certificate_pem())
        descriptor = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self.key_pem())
        return certificate, key

    @classmethod
    def load(cls, certificate: Path, key: Path) -> Authority:
        """Read both files; `PkiError` if one can't be read or they do not belong together."""
        try:
            loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
            private = load_pem_private_key(key.read_bytes(), None)
        except (OSError, ValueError) as error:
            raise PkiError(f"{certificate} and {key} can't be read as certificate and key; make them anew.") from error
        if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != loaded.public_key():
            raise PkiError(f"{key} is not the key of {certificate}; make both anew.")
        return cls(certificate=loaded, key=private)


def create_ca(*, now: datetime | None = None) -> Authority:
    """Make the authority of the local stack's TLS certificates (P-256)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "MRGC local stack CA")])
    return _self_signed(name, key, now or datetime.now(UTC), CA_LIFETIME, SHA256())


def create_server_certificate(
    ca: Authority,
    *,
    names: Sequence[str] = LOOPBACK_NAMES,
    addresses: Sequence[str] = LOOPBACK_ADDRESSES,
    usages: Sequence[x509.ObjectIdentifier] = SERVER_AND_CLIENT,
    now: datetime | None = None,
) -> Authority:
    """Make a TLS certificate for these names and addresses, for servers and for clients unless `usages` says less."""
    key = ec.generate_private_key(ec.SECP256R1())
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0] if names else addresses[0])])
    builder = (
        _builder(subject, ca.certificate.subject, key.public_key(), now or datetime.now(UTC), SERVER_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(sign=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()), critical=False)
    )
    return Authority(certificate=builder.sign(ca.key, SHA256()), key=key)


def create_nsm_root(*, now: datetime | None = None) -> Authority:
    """Make the root that stands in for AWS Nitro's (P-384, SHA-384, the genuine one's extensions)."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "local.mrgc.nitro-enclaves.invalid")])
    return _self_signed(name, key, now or datetime.now(UTC), CA_LIFETIME, SHA384())


def issue_nsm_ca(
    issuer: Authority, common_name: str, *, path_length: int, lifetime: timedelta, now: datetime
) -> Authority:
    """Make one CA of a document's chain: regional, zonal or instance (`path_length` 0), with its extensions."""
    key = ec.generate_private_key(ec.SECP384R1())
    last = path_length == 0
    builder = (
        _builder(_nitro_name(common_name), issuer.certificate.subject, key.public_key(), now, lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(key_usage(sign=not last, issue=True, revoke=not last), critical=True)
    )
    if not last:
        builder = builder.add_extension(_nitro_crl_points(), critical=False)
    return Authority(certificate=builder.sign(issuer.key, SHA384()), key=key)


def issue_nsm_leaf(issuer: Authority, common_name: str, *, lifetime: timedelta, now: datetime) -> Authority:
    """Make the certificate that signs documents."""
    key = ec.generate_private_key(ec.SECP384R1())
    builder = (
        _builder(_nitro_name(common_name), issuer.certificate.subject, key.public_key(), now, lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(sign=True, commit=True), critical=False)
    )
    return Authority(certificate=builder.sign(issuer.key, SHA384()), key=key)


def key_usage(*, sign: bool = False, issue: bool = False, revoke: bool = False, commit: bool = False) -> x509.KeyUsage:
    """Return a key usage: signatures, issuing certificates, revocation lists, signatures that can't be denied."""
    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=commit,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=issue,
        crl_sign=revoke,
        encipher_only=False,
        decipher_only=False,
    )


def _nitro_crl_points() -> x509.CRLDistributionPoints:
    """An address that leads nowhere, because genuine ones have one; nobody asks for it."""
    address = x509.UniformResourceIdentifier("http://crl.nitro-enclaves.invalid/none.crl")
    return x509.CRLDistributionPoints(
        [x509.DistributionPoint(full_name=[address], relative_name=None, reasons=None, crl_issuer=None)]
    )


def _nitro_name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "MRGC local stack, not Amazon"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64]),  # ub-common-name of RFC 5280
        ]
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(int.from_bytes(secrets.token_bytes(16)) >> 1 | 1)
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + lifetime)
    )


def _self_signed(
    name: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, lifetime: timedelta, digest: HashAlgorithm
) -> Authority:
    builder = (
        _builder(name, name, key.public_key(), now, lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(key_usage(sign=True, issue=True, revoke=True), critical=True)
    )
    certificate = builder.sign(key, digest)  # type: ignore[arg-type]  # a union of concrete hashes in its stubs
    return Authority(certificate=certificate, key=key)
