"""Who this worker is to the enclave: an X25519 key, its epoch, and proof of the host where there is one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dataplane.protocol.errors import ProblemError
from dataplane.protocol.hop import EPOCH_BYTES, HopRequestOpener, worker_binding_digest
from dataplane.worker.tpm import Tpm, TpmError

CHALLENGE_BYTES: Final = 32
"""An enclave's challenge, the `nonce` of the NitroTPM document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One key's lifetime: from the start, or a car wash, to the next."""

    private_key: X25519PrivateKey = field(repr=False)
    epoch: bytes
    wash_ms: int

    @property
    def public_key(self) -> bytes:
        """The 32 bytes that enclaves seal to."""
        return self.private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


class WorkerIdentity:
    """Keeps the current epoch; private keys never leave this object and are never written anywhere."""

    def __init__(
        self,
        *,
        config_digest: bytes,
        clock_ms: Callable[[], int],
        tpm: Tpm | None,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Start the first epoch. Without a TPM the worker proves nothing of its host (levels 0 and 1)."""
        self.config_digest = config_digest
        self._clock_ms = clock_ms
        self._tpm = tpm
        self._random = random
        self._current = self._make()

    @property
    def epoch(self) -> bytes:
        """The current epoch's 16 bytes."""
        return self._current.epoch

    @property
    def wash(self) -> dict[str, str | int]:
        """Id and time of the last car wash (the start counts as one), as receipts carry them."""
        return {"id": self._current.epoch.hex(), "time": self._current.wash_ms}

    def rotate(self) -> None:
        """Start a new epoch: enclaves that are bound to the old key are refused until they bind again."""
        self._current = self._make()

    def opener(self) -> HopRequestOpener:
        """An opener for one hop request under the current key."""
        return HopRequestOpener(self._current.private_key, self._current.epoch, self.config_digest)

    async def bind(self, challenge: bytes) -> dict[str, object]:
        """Answer an enclave's challenge.

        The map holds `public_key`, `epoch`, `wash_ms`, `config_digest` and `document`: a NitroTPM document with the
        challenge as its nonce, or None without a TPM. Raises `ProblemError` host-failed.
        """
        if len(challenge) != CHALLENGE_BYTES:
            raise ProblemError(
                "host-failed", f"The enclave's challenge has {len(challenge)} bytes; it must have {CHALLENGE_BYTES}."
            )
        current = self._current
        document: bytes | None = None
        if self._tpm is not None:
            binding = worker_binding_digest(current.public_key, current.epoch, self.config_digest)
            try:
                document = await self._tpm.attest(nonce=challenge, user_data=binding)
            except TpmError as error:
                raise ProblemError("host-failed", "The host's NitroTPM did not attest the GPU worker.") from error
        return {
            "public_key": current.public_key,
            "epoch": current.epoch,
            "wash_ms": current.wash_ms,
            "config_digest": self.config_digest,
            "document": document,
        }

    def _make(self) -> Epoch:
        return Epoch(private_key=X25519PrivateKey.generate(), epoch=self._random(EPOCH_BYTES), wash_ms=self._clock_ms())
