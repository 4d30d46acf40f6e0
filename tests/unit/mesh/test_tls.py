import asyncio
import datetime as dt
import ipaddress
import ssl
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dataplane.mesh.tls import client_context, server_context
from dataplane.protocol.errors import SettingsError

YEAR = dt.timedelta(days=365)


class Identity(NamedTuple):
    certificate: Path
    key: Path


class Authority:
    """A certificate authority that lives for one test."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = folder / f"{name}.pem"
        certificate = self._sign(self._name, self._key.public_key(), ca=True)
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._sign(subject, key.public_key(), ca=False)
        identity = Identity(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        identity.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        identity.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return identity

    def _sign(self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey, *, ca: bool) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - YEAR)
            .not_valid_after(now + YEAR)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )


async def greet(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[bytes, str | None]:
    """What a client reads from a TLS server, and the version spoken."""

    async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=server)
    async with listener, asyncio.timeout(10):
        port = listener.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        try:
            version = writer.get_extra_info("ssl_object").version()
            return await reader.read(), version
        finally:
            writer.close()


async def test_both_sides_that_show_certificates_talk_in_tls_1_3(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    host, peer = authority.issue("host"), authority.issue("peer")
    server = server_context(host.certificate, host.key, client_authority=authority.file)
    client = client_context(authority.file, certificate=peer.certificate, key=peer.key)
    assert await greet(server, client) == (b"hello", "TLSv1.3"), "mutual TLS, and no older version"


async def test_a_client_without_a_certificate_reads_nothing_where_one_is_asked_for(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    host = authority.issue("host")
    server = server_context(host.certificate, host.key, client_authority=authority.file)
    # In TLS 1.3 the client learns of the refusal after its own handshake: as an error or as an empty stream.
    try:
        answer, _ = await greet(server, client_context(authority.file))
    except (ssl.SSLError, ConnectionError):
        answer = b""
    assert answer == b"", "a stranger is told nothing"


async def test_a_client_refuses_a_server_of_another_authority(tmp_path: Path) -> None:
    host = Authority(tmp_path, "authority").issue("host")
    stranger = Authority(tmp_path, "stranger")
    with pytest.raises(ssl.SSLCertVerificationError):
        await greet(server_context(host.certificate, host.key), client_context(stranger.file))


def test_the_systems_authorities_are_trusted_when_none_is_named() -> None:
    context = client_context()
    assert context.verify_mode is ssl.CERT_REQUIRED, "a client always verifies"
    assert context.check_hostname, "and checks the name"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    with pytest.raises(SettingsError, match=r"missing\.pem cannot be read"):
        server_context(missing, missing)
    with pytest.raises(SettingsError, match=r"missing\.pem cannot be read"):
        client_context(missing)


def test_files_that_hold_something_else_are_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    one, other = authority.issue("one"), authority.issue("other")
    with pytest.raises(SettingsError, match="do not make a TLS identity"):
        server_context(one.certificate, other.key)
    with pytest.raises(SettingsError, match="no readable authority"):
        client_context(one.key)


def test_half_of_a_client_identity_is_refused(tmp_path: Path) -> None:
    identity = Authority(tmp_path, "authority").issue("peer")
    with pytest.raises(SettingsError, match="come together"):
        client_context(certificate=identity.certificate)
