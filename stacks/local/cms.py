"""`CiphertextForRecipient` as KMS writes it: CMS EnvelopedData, BER with indefinite lengths, one recipient.

The definite parts (recipient, algorithms) are asn1crypto's; the indefinite shell around them is written here, because
DER libraries do not write it. The form is that of the samples in tests/data/kms-recipient.
"""

from __future__ import annotations

import hashlib
import secrets

from asn1crypto import algos, cms, core
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import load_der_public_key

from dataplane.protocol.errors import MrgcError

RSA_SIZES = (2048, 3072, 4096)
"""Bits of a recipient's key that KMS takes."""

_BLOCK_BITS = 128
_SEQUENCE, _CONTEXT_0, _END = b"\x30\x80", b"\xa0\x80", b"\x00\x00"


class RecipientKeyError(MrgcError):
    """The attestation document's public key is not one that KMS encrypts for."""


def seal_for_recipient(plaintext: bytes, public_key: bytes) -> bytes:
    """Encrypt for the RSA key `public_key` (SubjectPublicKeyInfo in DER); `RecipientKeyError` for another kind."""
    try:
        key = load_der_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm):
        raise RecipientKeyError("The attestation document's public key is not DER.") from None
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size not in RSA_SIZES:
        raise RecipientKeyError("The attestation document's public key is not RSA of 2048, 3072 or 4096 bits.")
    content_key, iv = secrets.token_bytes(32), secrets.token_bytes(16)
    padder = PKCS7(_BLOCK_BITS).padder()
    encryptor = Cipher(AES256(content_key), CBC(iv)).encryptor()
    ciphertext = encryptor.update(padder.update(plaintext) + padder.finalize()) + encryptor.finalize()
    wrapped = key.encrypt(content_key, OAEP(mgf=MGF1(algorithm=SHA256()), algorithm=SHA256(), label=None))
    recipients = cms.RecipientInfos([_recipient(hashlib.sha256(public_key).digest(), wrapped)])
    algorithm = algos.EncryptionAlgorithm({"algorithm": "aes256_cbc", "parameters": iv})
    octets = _CONTEXT_0 + core.OctetString(ciphertext).dump() + _END
    content = _SEQUENCE + cms.ContentType("data").dump() + algorithm.dump() + octets + _END
    enveloped = _SEQUENCE + cms.CMSVersion("v2").dump() + recipients.dump() + content + _END
    message: bytes = _SEQUENCE + cms.ContentType("enveloped_data").dump() + _CONTEXT_0 + enveloped + _END + _END
    return message


def _recipient(identifier: bytes, wrapped: bytes) -> cms.RecipientInfo:
    sha256 = {"algorithm": "sha256", "parameters": core.Null()}
    oaep = {
        "hash_algorithm": sha256,
        "mask_gen_algorithm": {"algorithm": "mgf1", "parameters": sha256},
    }
    recipient = cms.KeyTransRecipientInfo(
        {
            "version": "v2",
            "rid": cms.RecipientIdentifier(name="subject_key_identifier", value=identifier),
            "key_encryption_algorithm": {"algorithm": "rsaes_oaep", "parameters": oaep},
            "encrypted_key": wrapped,
        }
    )
    return cms.RecipientInfo(name="ktri", value=recipient)
