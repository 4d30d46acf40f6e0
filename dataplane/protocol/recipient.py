"""`CiphertextForRecipient` of KMS: CMS EnvelopedData (RFC 5652, section 6) in BER, with indefinite lengths.

RSA-OAEP with SHA-256 carries an AES-256-CBC key. The message is not authenticated and CBC is malleable: use it only
under TLS that ends in the same process, and use what it carries only as an AEAD key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from asn1crypto import cms
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.padding import PKCS7

from dataplane.protocol.errors import MrgcError

MAX_RECIPIENT_BYTES = 6_144
"""Longest `CiphertextForRecipient` (KMS API reference, Decrypt)."""

_BLOCK = 16
_MAX_RSA_BYTES = 512
_MAX_SKI_BYTES = 64
# What asn1crypto raises on bytes that are not the structure asked for; none of it is documented as a family.
_UNREADABLE = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError)


class RecipientError(MrgcError):
    """A `CiphertextForRecipient` that can't be read or opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvelopedData:
    """The parts of a message for one recipient; `ski` is the recipient's subjectKeyIdentifier."""

    encrypted_key: bytes = field(repr=False)
    iv: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)
    ski: bytes


def parse_enveloped_data(ber: bytes) -> EnvelopedData:
    """Take a message apart, refusing other algorithms, other recipients than one, and odd lengths.

    Raises `RecipientError`.
    """
    if len(ber) > MAX_RECIPIENT_BYTES:
        raise RecipientError(f"KMS sent {len(ber)} bytes for the recipient; at most {MAX_RECIPIENT_BYTES} are read.")
    try:
        return _parse(cms.ContentInfo.load(ber, strict=True))
    except _UNREADABLE:
        raise RecipientError(
            "What KMS sent for the recipient is not CMS EnvelopedData of its documented form."
        ) from None


def open_enveloped_data(ber: bytes, private_key: rsa.RSAPrivateKey) -> bytes:
    """Return the plaintext of a message for the holder of `private_key`.

    Raises `RecipientError`, with one sentence for every failure: which step failed would be an oracle.
    """
    parts = parse_enveloped_data(ber)
    try:
        key = private_key.decrypt(
            parts.encrypted_key, OAEP(mgf=MGF1(algorithm=SHA256()), algorithm=SHA256(), label=None)
        )
        decryptor = Cipher(AES256(key), CBC(parts.iv)).decryptor()
        padded = decryptor.update(parts.ciphertext) + decryptor.finalize()
        unpadder = PKCS7(_BLOCK * 8).unpadder()
        return unpadder.update(padded) + unpadder.finalize()
    except ValueError:
        raise RecipientError("What KMS sent for the recipient does not open with this enclave's key.") from None


def _parse(info: Any) -> EnvelopedData:
    """Read asn1crypto's ContentInfo; `ValueError` (or what asn1crypto raises) where it is not as documented."""
    _expect(info["content_type"].native, "enveloped_data")
    enveloped = info["content"]
    recipients = enveloped["recipient_infos"]
    _expect(len(recipients), 1)
    _expect(recipients[0].name, "ktri")
    recipient = recipients[0].chosen
    _expect(recipient["rid"].name, "subject_key_identifier")
    algorithm = recipient["key_encryption_algorithm"]
    _expect(algorithm["algorithm"].native, "rsaes_oaep")
    oaep = algorithm["parameters"].native
    _expect(oaep["hash_algorithm"]["algorithm"], "sha256")
    _expect(oaep["mask_gen_algorithm"]["algorithm"], "mgf1")
    _expect(oaep["mask_gen_algorithm"]["parameters"]["algorithm"], "sha256")
    _expect(oaep["p_source_algorithm"]["parameters"], b"")
    content = enveloped["encrypted_content_info"]
    _expect(content["content_encryption_algorithm"]["algorithm"].native, "aes256_cbc")
    parts = EnvelopedData(
        encrypted_key=_octets(recipient["encrypted_key"].native, most=_MAX_RSA_BYTES),
        iv=_octets(content["content_encryption_algorithm"]["parameters"].native, most=_BLOCK),
        ciphertext=_octets(content["encrypted_content"].native, most=MAX_RECIPIENT_BYTES),
        ski=_octets(recipient["rid"].native, most=_MAX_SKI_BYTES),
    )
    _expect(len(parts.iv), _BLOCK)
    _expect(len(parts.ciphertext) % _BLOCK, 0)
    return parts


def _octets(value: object, *, most: int) -> bytes:
    if not isinstance(value, bytes) or not 0 < len(value) <= most:
        raise ValueError("unexpected length")
    return value


def _expect(value: object, expected: object) -> None:
    if value != expected:
        raise ValueError("unexpected value")
