"""KMS's CiphertextForRecipient: CMS in BER, from a host that may have written it."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dataplane.protocol.recipient import RecipientError, open_enveloped_data, parse_enveloped_data
from stacks.local.cms import seal_for_recipient

DATA = Path(__file__).parents[2] / "data" / "kms-recipient"
KEY = rsa.generate_private_key(65537, 2048)
SEEDS = [
    (DATA / "kms_cms_indefinite.ber").read_bytes(),
    (DATA / "kms_cms_implicit_ctx.ber").read_bytes(),
    seal_for_recipient(bytes(32), KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)),
    b"\x30\x80" * 3000,
    b"\x30\x84\xff\xff\xff\xff" + b"\x24\x80" * 2000,
]
MAX_LEN = 6200


def target(data: bytes) -> None:
    """Take it apart, and open what has the form."""
    try:
        parts = parse_enveloped_data(data)
    except RecipientError:
        return
    assert len(parts.iv) == 16, "AES-CBC's"
    try:
        open_enveloped_data(data, KEY)
    except RecipientError:
        return
