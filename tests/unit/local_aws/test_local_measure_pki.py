"""Measurements follow the sources; authorities are written so that only their owner reads their keys."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509

from dataplane.mesh.tls import client_context, server_context
from dataplane.protocol.attestation.document import PCR_BYTES
from stacks.local.measure import MeasureError, measure
from stacks.local.pki import Authority, PkiError, create_ca, create_nsm_root, create_server_certificate


def sources(root: Path) -> Path:
    """Write a small tree that has what is measured."""
    for name in ("dataplane/enclave/a.py", "dataplane/protocol/b.py", "dataplane/mesh/c.py", "uv.lock"):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# {name}\n")
    return root


def test_this_checkout_is_measured_the_same_twice() -> None:
    first = measure()
    assert first == measure()
    assert sorted(first) == [0, 1, 2]
    assert all(len(value) == PCR_BYTES and any(value) for value in first.values())


@pytest.mark.parametrize(
    ("change", "registers"),
    [
        ("dataplane/enclave/a.py", {0, 2}),
        ("dataplane/protocol/b.py", {0, 2}),
        ("dataplane/mesh/c.py", {0}),
        ("uv.lock", {1}),
        ("dataplane/router/d.py", set()),
        ("dataplane/enclave/notes.txt", set()),
    ],
)
def test_a_changed_file_changes_its_registers_and_no_other(tmp_path: Path, change: str, registers: set[int]) -> None:
    before = measure(sources(tmp_path))
    file = tmp_path / change
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("changed\n")
    after = measure(tmp_path)
    assert {index for index in before if before[index] != after[index]} == registers


def test_a_renamed_file_changes_the_measurement(tmp_path: Path) -> None:
    before = measure(sources(tmp_path))
    (tmp_path / "dataplane/enclave/a.py").rename(tmp_path / "dataplane/enclave/z.py")
    assert measure(tmp_path)[0] != before[0]


def test_nothing_to_measure_is_an_error_and_not_a_constant(tmp_path: Path) -> None:
    with pytest.raises(MeasureError):
        measure(tmp_path)


def test_keys_are_saved_for_their_owner_alone_and_read_back(tmp_path: Path) -> None:
    for name, authority in (("ca", create_ca()), ("nsm", create_nsm_root())):
        certificate, key = authority.save(tmp_path, name)
        assert key.stat().st_mode & 0o777 == 0o600
        assert Authority.load(certificate, key).certificate == authority.certificate
        assert "PRIVATE" not in repr(authority)


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    certificate, _ = create_ca().save(tmp_path, "one")
    _, key = create_ca().save(tmp_path, "two")
    with pytest.raises(PkiError, match="not the key"):
        Authority.load(certificate, key)
    with pytest.raises(PkiError, match="can't be read"):
        Authority.load(tmp_path / "missing.pem", key)


def test_a_server_certificate_is_good_for_loopback_under_its_authority(tmp_path: Path) -> None:
    ca = create_ca()
    authority, _ = ca.save(tmp_path, "ca")
    certificate, key = create_server_certificate(ca).save(tmp_path, "server")
    server, client = server_context(certificate, key), client_context(authority)
    for name in ("127.0.0.1", "localhost", "::1"):
        handshake(client, server, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(client, server, "example.com")
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    loaded.verify_directly_issued_by(ca.certificate)


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    """Run a TLS handshake through memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=name)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (near, far):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
