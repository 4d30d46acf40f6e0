"""Who this worker is to the enclave: an X25519 key, its epoch, and proof of the host where there is one.

Three things happen to a worker, and they differ. It starts: a first key. It is bound: a new key, and the ones before
are accepted for `PREVIOUS_KEY_S` more. Its host is washed: a new key, and none of before is accepted at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from dataplane.protocol.errors import ProblemError
from dataplane.protocol.hop import EPOCH_BYTES, HopHeader, HopRequestOpener, worker_binding_digest
from dataplane.protocol.wash import WASH_ID_BYTES, Wash
from dataplane.worker.tpm import Tpm, TpmError

CHALLENGE_BYTES: Final = 32
"""An enclave's challenge, the `nonce` of the NitroTPM document."""

PREVIOUS_KEY_S: Final = 65.0
"""How long a key is accepted after a binding has replaced it. The enclave seals to the newest key that it holds; what
it sealed just before has 2 s for the parent's connection and 30 s for either side of a send that stalls: 62 s at the
very worst, and milliseconds in practice. What comes later is `host-failed` before anything was answered."""

MAX_PREVIOUS: Final = 16
"""Keys kept of before, the newest ones. The parent tries a binding that got lost again after 1, 2, 4, 8, 10, 10, … s,
so ten attempts fall into `PREVIOUS_KEY_S`: the key that the enclave holds meanwhile is still among them."""


MAX_SERVED: Final = 262_144
"""Requests under one key: 436 a second for the ten minutes between two bindings, more than any host serves. An entry
takes 110 bytes, so a full memory 28 MiB."""

RETRY_AFTER_S: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One key's life; `until_s` (monotonic) is its end once another key has taken its place.

    `served` has the `enc` of each request that was sealed to it and served.
    """

    private_key: X25519PrivateKey = field(repr=False)
    epoch: bytes
    until_s: float | None = None
    served: set[bytes] = field(default_factory=set, repr=False)

    @property
    def public_key(self) -> bytes:
        """The 32 bytes that enclaves seal to."""
        return self.private_key.public_key().public_bytes_raw()


class WorkerIdentity:
    """Keeps the keys; private ones never leave this object and are never written anywhere."""

    def __init__(
        self,
        *,
        config_digest: bytes,
        clock_ms: Callable[[], int],
        monotonic: Callable[[], float],
        tpm: Tpm | None,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Make the first key. Without a TPM the worker proves nothing of its host (levels 0 and 1)."""
        self.config_digest = config_digest
        self._clock_ms = clock_ms
        self._monotonic = monotonic
        self._tpm = tpm
        self._random = random
        self._current = self._make()
        self._previous: tuple[Epoch, ...] = ()
        self._wash: Wash | None = None

    @property
    def epoch(self) -> bytes:
        """The current epoch's 16 bytes."""
        return self._current.epoch

    @property
    def accepted(self) -> tuple[bytes, ...]:
        """The epochs whose keys are accepted now, the current one first."""
        self._previous = self._live(self._monotonic())
        return (self._current.epoch, *(each.epoch for each in self._previous))

    @property
    def wash(self) -> dict[str, str | int] | None:
        """The last car wash as receipts carry it, None while there was none."""
        return None if self._wash is None else self._wash.as_map()

    def rotate(self) -> None:
        """Take a new key; what was sealed to the one before is accepted for `PREVIOUS_KEY_S` more."""
        self._take(self._make())

    def washed(self) -> None:
        """Note that the host was washed just now: a new key, and no key of before opens anything any more.

        The car wash itself is not part of this program yet, and nothing in it calls this.
        """
        self._wash = Wash(id=self._random(WASH_ID_BYTES), time_ms=self._clock_ms())
        self._previous = ()
        self._current = self._make()

    def opener(self) -> HopRequestOpener:
        """An opener for one hop request under any key that is accepted now."""
        return HopRequestOpener(self._key, self.config_digest)

    def serve_once(self, header: HopHeader) -> None:
        """Note that the hop request with this header, whose message has opened, is served now.

        The host carries hop requests and can send one again: run often enough, one request and its copies would fill
        the windows that totals are released by, and the totals would tell its figures. Raises `ProblemError`
        host-failed for a copy, or for a key that ended just now, and overloaded past `MAX_SERVED`.
        """
        found = self._find(header.epoch)
        if found is None or header.enc in found.served:
            raise ProblemError("host-failed", "The GPU worker has served this hop request, or its key has ended.")
        if len(found.served) >= MAX_SERVED:
            raise ProblemError(
                "overloaded",
                f"The GPU worker has served {MAX_SERVED} requests under this key; bind it again.",
                retry_after_s=RETRY_AFTER_S,
            )
        found.served.add(header.enc)

    async def bind(self, challenge: bytes) -> dict[str, object]:
        """Answer an enclave's challenge with a new key, which replaces the current one.

        The map holds `public_key`, `epoch`, `wash` (or None), `config_digest` and `document`: a NitroTPM document with
        the challenge as its nonce, or None without a TPM. Raises `ProblemError` host-failed; the key is then as it was.
        """
        if len(challenge) != CHALLENGE_BYTES:
            raise ProblemError(
                "host-failed", f"The enclave's challenge has {len(challenge)} bytes; it must have {CHALLENGE_BYTES}."
            )
        new, wash = self._make(), self._wash
        document: bytes | None = None
        if self._tpm is not None:
            binding = worker_binding_digest(new.public_key, new.epoch, self.config_digest, wash)
            try:
                document = await self._tpm.attest(nonce=challenge, user_data=binding)
            except TpmError as error:
                raise ProblemError("host-failed", "The host's NitroTPM did not attest the GPU worker.") from error
        if wash is not self._wash:
            raise ProblemError("host-failed", "The GPU worker was washed while it was being bound; bind it again.")
        self._take(new)
        return {
            "public_key": new.public_key,
            "epoch": new.epoch,
            "wash": None if wash is None else wash.as_map(),
            "config_digest": self.config_digest,
            "document": document,
        }

    def _take(self, new: Epoch) -> None:
        now_s = self._monotonic()
        old = self._current
        retired = replace(old, until_s=now_s + PREVIOUS_KEY_S)
        self._previous = (retired, *self._live(now_s))[:MAX_PREVIOUS]
        self._current = new

    def _key(self, epoch: bytes) -> X25519PrivateKey | None:
        """Return the key of an epoch that is accepted at this moment."""
        found = self._find(epoch)
        return None if found is None else found.private_key

    def _find(self, epoch: bytes) -> Epoch | None:
        self._previous = self._live(self._monotonic())
        return next((each for each in (self._current, *self._previous) if each.epoch == epoch), None)

    def _live(self, now_s: float) -> tuple[Epoch, ...]:
        return tuple(each for each in self._previous if each.until_s is not None and now_s < each.until_s)

    def _make(self) -> Epoch:
        return Epoch(private_key=X25519PrivateKey.generate(), epoch=self._random(EPOCH_BYTES))
