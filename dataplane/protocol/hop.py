"""The worker hop: the enclave seals a request to the GPU worker's key, and the answer comes back the same way.

HPKE (RFC 9180, base mode: X25519, HKDF-SHA256, AES-256-GCM) carries a fresh 32-byte secret to the worker; from there
on it is the tenant's envelope with other labels (`HOP_SUITE`). `info` binds the secret to the worker's epoch, its
configuration and the request.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from dataplane.protocol import cbor
from dataplane.protocol.envelope import EnvelopeOpener, RequestSealer
from dataplane.protocol.errors import ProblemError
from dataplane.protocol.frames import check_pad
from dataplane.protocol.hopmessage import HopHead, HopMessage, HopTail, hop_problem
from dataplane.protocol.keys import KEY_BYTES
from dataplane.protocol.suite import HOP_SUITE, MAX_HOP_HEADER_BYTES, VERSION
from dataplane.protocol.wash import Wash, wash_bytes

__all__ = [
    "CONFIG_DIGEST_BYTES",
    "EPOCH_BYTES",
    "PUBLIC_KEY_BYTES",
    "HopHead",
    "HopHeader",
    "HopMessage",
    "HopRequestOpener",
    "HopRequestSealer",
    "HopTail",
    "seal_hop",
    "worker_binding_digest",
]

EPOCH_BYTES: Final = 16
PUBLIC_KEY_BYTES: Final = 32
CONFIG_DIGEST_BYTES: Final = 32
RID_BYTES: Final = 16
WRAPPED_BYTES: Final = KEY_BYTES + 16
"""The secret and AES-GCM's tag."""
HOP_HEADER_ITEMS: Final = 1 + 2 * 6
"""The map and its six members."""

_HPKE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_INFO: Final = b"mrgc/1 worker hop"
_BINDING: Final = b"mrgc/1 worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class HopHeader:
    """What the parent sees of a hop request.

    `epoch` names the worker's key, `enc` and `wrapped` are HPKE's, and `pad` follows the tenant's header, or the
    parent would see the token lengths that the tenant asked to hide.
    """

    rid: bytes
    epoch: bytes
    enc: bytes
    wrapped: bytes = field(repr=False)
    pad: int = 0

    def encode(self) -> bytes:
        """Return the header as CBOR."""
        return cbor.encode(
            {
                "v": VERSION,
                "rid": self.rid,
                "epoch": self.epoch,
                "enc": self.enc,
                "wrapped": self.wrapped,
                "pad": self.pad,
            },
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a hop header; `ProblemError` host-failed if it is none."""
        try:
            fields = cbor.decode_map(data, max_bytes=MAX_HOP_HEADER_BYTES, max_items=HOP_HEADER_ITEMS, max_depth=1)
        except cbor.CborError as error:
            raise hop_problem(f"the hop header can't be read: {error}") from error
        if fields.keys() != {"v", "rid", "epoch", "enc", "wrapped", "pad"}:
            raise hop_problem("the hop header must have exactly v, rid, epoch, enc, wrapped and pad")
        version, pad = fields.pop("v"), fields["pad"]
        if type(version) is not int or version != VERSION:
            raise hop_problem(f"the hop header has another version, and only {VERSION} is spoken here")
        for name, length in (
            ("rid", RID_BYTES),
            ("epoch", EPOCH_BYTES),
            ("enc", PUBLIC_KEY_BYTES),
            ("wrapped", WRAPPED_BYTES),
        ):
            if not isinstance(fields[name], bytes) or len(fields[name]) != length:
                raise hop_problem(f"the hop header's {name} must be {length} bytes")
        if type(pad) is not int or not check_pad(pad):
            raise hop_problem("the hop header's pad must be 0 or a power of two from 16 to 4096")
        return cls(**fields)


class HopRequestSealer(RequestSealer):
    """The enclave's sealer of a hop request; `response_opener()` opens the worker's answer."""

    def __init__(self, header: HopHeader, secret: bytes) -> None:
        """Use `seal_hop`, which makes both."""
        super().__init__(header, secret, suite=HOP_SUITE)


def seal_hop(
    worker_public: bytes,
    epoch: bytes,
    config_digest: bytes,
    rid: bytes,
    *,
    pad: int = 0,
    random: Callable[[int], bytes] = os.urandom,
) -> tuple[HopHeader, HopRequestSealer]:
    """Start a hop request to the worker's X25519 key; `rid` is the tenant's, `pad` the tenant's header's.

    Raises `ProblemError` host-failed for lengths that a bound worker never has, or a key of low order.
    """
    info = _info(epoch, config_digest, rid)
    secret = random(KEY_BYTES)
    try:
        sealed = _HPKE.encrypt(secret, X25519PublicKey.from_public_bytes(worker_public), info)
    except ValueError as error:
        raise hop_problem("the GPU worker's public key can't be used; bind the worker again") from error
    header = HopHeader(
        rid=rid,
        epoch=epoch,
        enc=sealed[:PUBLIC_KEY_BYTES],
        wrapped=sealed[PUBLIC_KEY_BYTES:],
        pad=pad,
    )
    return header, HopRequestSealer(header, secret)


class HopRequestOpener(EnvelopeOpener[HopHeader]):
    """The worker's opener of a hop request: unlocks itself as soon as the header is there.

    Every fault is `ProblemError` host-failed: the tenant did nothing wrong, and another host may do better.
    """

    def __init__(self, key_of: Callable[[bytes], X25519PrivateKey | None], config_digest: bytes) -> None:
        """`key_of` gives the key of an epoch that the worker accepts when a header arrives, else None.

        `config_digest` is of the worker's configuration.
        """
        super().__init__(suite=HOP_SUITE, decode_header=HopHeader.decode)
        self._key_of = key_of
        self._config_digest = config_digest

    def feed(self, data: bytes) -> None:
        """Add bytes of the hop request; `ProblemError` host-failed as soon as they can't become a valid one."""
        super().feed(data)
        header = self.header
        if header is not None and not self.unlocked:
            self.unlock(self._secret(header))

    def _secret(self, header: HopHeader) -> bytes:
        private_key = self._key_of(header.epoch)
        if private_key is None:
            self._fail("host-failed", "the hop request is for another epoch of the GPU worker; bind the worker again")
        info = _info(header.epoch, self._config_digest, header.rid)
        try:
            secret = _HPKE.decrypt(header.enc + header.wrapped, private_key, info)
        except (InvalidTag, ValueError):
            self._fail("host-failed", "the hop request is not sealed to this GPU worker's key; bind the worker again")
        if len(secret) != KEY_BYTES:
            self._fail("host-failed", "the hop request carries a secret of the wrong length")
        return secret

    def _problem(self, code: str, detail: str) -> ProblemError:
        return hop_problem(f"{detail} (hop, {code})" if code != "host-failed" else detail)


def worker_binding_digest(public_key: bytes, epoch: bytes, config_digest: bytes, wash: Wash | None) -> bytes:
    """Return the `user_data` of the worker's NitroTPM document.

    SHA-256("mrgc/1 worker" || public key || epoch || configuration digest || wash id || u64 wash time), 24 zero bytes
    for the last two where the host was never washed; `ProblemError` host-failed for wrong lengths, because without
    fixed lengths the joined parts would be ambiguous.
    """
    _check_length("public key", public_key, PUBLIC_KEY_BYTES)
    _check_length("epoch", epoch, EPOCH_BYTES)
    _check_length("configuration digest", config_digest, CONFIG_DIGEST_BYTES)
    return hashlib.sha256(_BINDING + public_key + epoch + config_digest + wash_bytes(wash)).digest()


def _info(epoch: bytes, config_digest: bytes, rid: bytes) -> bytes:
    _check_length("epoch", epoch, EPOCH_BYTES)
    _check_length("configuration digest", config_digest, CONFIG_DIGEST_BYTES)
    _check_length("rid", rid, RID_BYTES)
    return _INFO + epoch + config_digest + rid


def _check_length(name: str, value: bytes, length: int) -> None:
    if len(value) != length:
        raise hop_problem(f"the GPU worker's {name} has {len(value)} bytes, and it must have {length}")
