"""KMS keys in memory: their material, what they seal, and the replicas of multi-region ones.

A ciphertext is `u8 1 || material id (16) || iv (12) || AES-256-GCM(plaintext, aad = material id || encryption
context)`. The material's id stands for the key in every region, as a multi-region key's ciphertext opens in each.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stacks.local.aws.errors import AwsError

MAX_CIPHERTEXT_BYTES = 6_144
MAX_KEYS = 1_024
"""Keys of all regions together; a local cluster has a handful."""

_VERSION = b"\x01"
_ID_BYTES, _IV_BYTES = 16, 12
_HEAD_BYTES = len(_VERSION) + _ID_BYTES + _IV_BYTES


@dataclass(slots=True, kw_only=True)
class KmsKey:
    """One key in one region; replicas share `material_id` and `key_id`."""

    key_id: str
    account: str
    region: str
    policy_text: str = field(repr=False)
    policy: Mapping[str, Any] = field(repr=False)
    description: str
    created_s: float
    material_id: bytes = field(repr=False)
    primary_region: str | None

    @property
    def arn(self) -> str:
        """The key's ARN in its region."""
        return f"arn:aws:kms:{self.region}:{self.account}:key/{self.key_id}"

    @property
    def multi_region(self) -> bool:
        """Whether this is a multi-region key, primary or replica."""
        return self.primary_region is not None


class KeyStore:
    """Every key of every region and account."""

    def __init__(self) -> None:
        """Start without keys."""
        self._keys: dict[tuple[str, str], KmsKey] = {}
        self._materials: dict[bytes, AESGCM] = {}

    def create(
        self,
        *,
        account: str,
        region: str,
        policy_text: str,
        policy: Mapping[str, Any],
        description: str,
        multi_region: bool,
        now_s: float,
    ) -> KmsKey:
        """Make a key with fresh material."""
        material_id = secrets.token_bytes(_ID_BYTES)
        self._materials[material_id] = AESGCM(secrets.token_bytes(32))
        key_id = f"mrk-{uuid4().hex}" if multi_region else str(uuid4())
        return self._add(
            KmsKey(
                key_id=key_id,
                account=account,
                region=region,
                policy_text=policy_text,
                policy=policy,
                description=description,
                created_s=now_s,
                material_id=material_id,
                primary_region=region if multi_region else None,
            )
        )

    def replicate(
        self, key: KmsKey, *, region: str, policy_text: str, policy: Mapping[str, Any], description: str, now_s: float
    ) -> KmsKey:
        """Make a replica in another region: the same id and material, its own policy."""
        if (region, key.key_id) in self._keys:
            raise AwsError("AlreadyExistsException", f"A replica of {key.key_id} exists in {region}.")
        return self._add(
            KmsKey(
                key_id=key.key_id,
                account=key.account,
                region=region,
                policy_text=policy_text,
                policy=policy,
                description=description,
                created_s=now_s,
                material_id=key.material_id,
                primary_region=key.primary_region,
            )
        )

    def _add(self, key: KmsKey) -> KmsKey:
        if len(self._keys) >= MAX_KEYS:
            raise AwsError("LimitExceededException", f"There are {MAX_KEYS} keys; the local KMS takes no more.")
        self._keys[key.region, key.key_id] = key
        return key

    def find(self, reference: str, *, region: str, account: str) -> KmsKey:
        """Return the key that a `KeyId` names in this region: an ARN, or an id of the caller's account."""
        key_id, owner = reference, account
        if reference.startswith("arn:"):
            parts = reference.split(":")
            if len(parts) != 6 or not parts[5].startswith("key/"):  # noqa: PLR2004 - arn:partition:service:region:account:resource
                raise AwsError("NotFoundException", f"Invalid arn {reference[:200]}")
            if parts[3] != region:
                raise AwsError("NotFoundException", f"Invalid arn {parts[3]}")
            key_id, owner = parts[5].removeprefix("key/"), parts[4]
        key = self._keys.get((region, key_id))
        if key is None or key.account != owner:
            raise AwsError("NotFoundException", f"Key 'arn:aws:kms:{region}:{owner}:key/{key_id[:128]}' does not exist")
        return key

    def of_ciphertext(self, blob: bytes, *, region: str) -> KmsKey | None:
        """Return the key of this region whose material sealed `blob`, if there is one."""
        if not _HEAD_BYTES < len(blob) <= MAX_CIPHERTEXT_BYTES or blob[:1] != _VERSION:
            raise AwsError("InvalidCiphertextException", "The ciphertext was not made by this KMS.")
        material_id = blob[1 : 1 + _ID_BYTES]
        return next(
            (key for key in self._keys.values() if key.region == region and key.material_id == material_id), None
        )

    def seal(self, key: KmsKey, plaintext: bytes, context: Mapping[str, str]) -> bytes:
        """Return the ciphertext of `plaintext` under this key and encryption context."""
        iv = secrets.token_bytes(_IV_BYTES)
        sealed = self._materials[key.material_id].encrypt(iv, plaintext, _aad(key.material_id, context))
        return _VERSION + key.material_id + iv + sealed

    def open(self, key: KmsKey, blob: bytes, context: Mapping[str, str]) -> bytes:
        """Return the plaintext; `InvalidCiphertextException` for another context, or altered bytes."""
        iv, sealed = blob[1 + _ID_BYTES : _HEAD_BYTES], blob[_HEAD_BYTES:]
        try:
            return self._materials[key.material_id].decrypt(iv, sealed, _aad(key.material_id, context))
        except InvalidTag:
            raise AwsError(
                "InvalidCiphertextException", "The ciphertext or its encryption context is not as it was sealed."
            ) from None


def _aad(material_id: bytes, context: Mapping[str, str]) -> bytes:
    return material_id + json.dumps(dict(context), sort_keys=True, separators=(",", ":")).encode()
