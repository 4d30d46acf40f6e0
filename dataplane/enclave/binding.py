"""The worker that this enclave seals to: its key, and what was proven about its host.

The enclave sends a challenge; the worker answers with its X25519 key, its epoch and, where its host has a NitroTPM, a
document over both. Pure: the answer, the clock and the measurements are arguments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from dataplane.protocol import cbor
from dataplane.protocol.attestation.document import MAX_DOCUMENT_BYTES, PCR_BYTES, instance_pcr4
from dataplane.protocol.attestation.verify import AttestationPolicy, verify
from dataplane.protocol.errors import AttestationError, MrgcError, OpenError, ProblemError, SettingsError
from dataplane.protocol.hop import worker_binding_digest
from dataplane.protocol.wash import Wash

CHALLENGE_BYTES = 32
MAX_ANSWER_BYTES = MAX_DOCUMENT_BYTES + 512
"""A document, 80 bytes of keys and digests, a wash of about 60 bytes, and the maps around them."""

ANSWER_ITEMS = 1 + 2 * 5 + 2 * 2
"""The map and its five members."""

PUBLIC_KEY_BYTES = 32
EPOCH_BYTES = 16
DIGEST_BYTES = 32
MAX_BINDING_AGE_S = 900.0
"""Longest that one proof of a worker and its host is used, counted by the enclave's own monotonic clock from the
moment that the challenge left. The parent binds again after ten minutes (`dataplane/parent/keeper.py`)."""

RETRY_AFTER_S = 1
_KEYS = frozenset({"public_key", "epoch", "wash", "config_digest", "document"})

Measurements = Sequence[Mapping[int, bytes]]


class BindingError(MrgcError):
    """A worker's answer to the challenge that can't be taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerBinding:
    """A worker's hop key with what it is bound to.

    `wash` is its host's last car wash, `bound_s` when it was challenged (monotonic), `document_s` how old its document
    was then in seconds, None where it proved nothing.
    """

    public_key: bytes
    epoch: bytes
    config_digest: bytes
    wash: Wash | None
    host_attested: bool
    bound_s: float
    document_s: float | None = None

    def age_s(self, now_s: float) -> float:
        """Seconds since the challenge."""
        return now_s - self.bound_s

    def proof(self, now_s: float) -> dict[str, int]:
        """The ages of binding and document in whole seconds, as a receipt's `proof` has them."""
        age_s = self.age_s(now_s)
        ages = {"binding": max(0, int(age_s))}
        if self.document_s is not None:
            ages["document"] = max(0, int(age_s + self.document_s))
        return ages

    def check_age(self, now_s: float) -> None:
        """Refuse a binding that is too old to seal anything to; raises `ProblemError` host-failed."""
        if not 0 <= self.age_s(now_s) < MAX_BINDING_AGE_S:
            raise ProblemError(
                "host-failed",
                f"The GPU worker's binding is older than {MAX_BINDING_AGE_S / 60:g} minutes and was not renewed.",
                retry_after_s=RETRY_AFTER_S,
            )

    def same_host(self, other: WorkerBinding | None) -> bool:
        """Whether another binding is to the same host in the same state: no car wash, no other configuration."""
        return other is not None and (self.wash, self.config_digest, self.host_attested) == (
            other.wash,
            other.config_digest,
            other.host_attested,
        )


def assurance_level(nsm_level: int, *, host_attested: bool) -> int:
    """Return 0 with a software NSM, 1 with a genuine one alone, 2 where the worker's host is proven as well."""
    if nsm_level == 0:
        return 0
    return 2 if host_attested else 1


def judge_answer(
    answer: bytes,
    *,
    challenge: bytes,
    own_pcr4: bytes,
    allowed: Measurements,
    now_ms: int,
    challenged_s: float = 0.0,
    configurations: frozenset[bytes] = frozenset(),
    roots: Sequence[x509.Certificate] | None = None,
) -> WorkerBinding:
    """Read a worker's answer and verify its document if it has one and this image has measurements to compare with.

    `challenged_s` (monotonic) is when the challenge left. A non-empty `configurations` is what workers may have, at
    every level; without one no host is attested. Raises `BindingError` for a malformed answer or another configuration,
    and `AttestationError` for a document that does not hold: a worker that shows a bad document is refused, not taken
    at a lower level.
    """
    fields = _read(answer)
    document = fields["document"]
    if configurations and fields["config_digest"] not in configurations:
        raise BindingError(
            f"The worker's configuration {fields['config_digest'].hex()} is not among those that this enclave image "
            "allows; `mrgc worker configuration` on the host says what it is made of."
        )
    attested = document is not None and bool(allowed)
    document_s: float | None = None
    if attested:
        digest = worker_binding_digest(fields["public_key"], fields["epoch"], fields["config_digest"], fields["wash"])
        policy = AttestationPolicy(allowed_pcrs=allowed, nonce=challenge, user_data=digest, tpm=True)
        shown = verify(document, now_ms=now_ms, policy=policy, roots=roots)
        document_s = max(0.0, (now_ms - shown.timestamp_ms) / 1000)
        if instance_pcr4(shown.instance_id) != own_pcr4:
            raise AttestationError(
                "The worker's document comes from another instance than this enclave's.", reason="instance"
            )
    return WorkerBinding(
        public_key=fields["public_key"],
        epoch=fields["epoch"],
        config_digest=fields["config_digest"],
        wash=fields["wash"],
        host_attested=attested and bool(configurations),
        bound_s=challenged_s,
        document_s=document_s,
    )


def _read(answer: bytes) -> dict[str, Any]:
    try:
        fields = cbor.decode_map(answer, max_bytes=MAX_ANSWER_BYTES, max_items=ANSWER_ITEMS, max_depth=2)
    except cbor.CborError as error:
        raise BindingError(f"The worker's answer to the challenge can't be read: {error}.") from None
    if fields.keys() != _KEYS:
        raise BindingError(f"The worker's answer to the challenge must have exactly {', '.join(sorted(_KEYS))}.")
    lengths = {"public_key": PUBLIC_KEY_BYTES, "epoch": EPOCH_BYTES, "config_digest": DIGEST_BYTES}
    for name, length in lengths.items():
        if not isinstance(fields[name], bytes) or len(fields[name]) != length:
            raise BindingError(f"The worker's {name} is not {length} bytes.")
    if fields["wash"] is not None:
        try:
            fields["wash"] = Wash.from_map(fields["wash"], "worker's binding")
        except OpenError as error:
            raise BindingError(f"The worker's wash can't be read: {error}.") from None
    if fields["document"] is not None and not isinstance(fields["document"], bytes):
        raise BindingError("The worker's document is neither bytes nor absent.")
    return fields


def read_host_measurements(path: Path) -> Measurements:
    """Read the host images that this enclave image allows: `{"allowed": [{"4": "hex", "12": "hex"}, …]}`.

    What a measurement must bind is `AttestationPolicy`'s (docs/attestation.md); a zero PCR12 is a value like any other.
    The file is part of the image and therefore of PCR0. Raises `SettingsError`.
    """
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=_once)
        allowed = [
            {_index(index): bytes.fromhex(value) for index, value in measurement.items()}
            for measurement in content["allowed"]
        ]
        AttestationPolicy(allowed_pcrs=allowed, tpm=True)
    except OSError as error:
        raise SettingsError(f"The host measurements at {path} can't be read ({error.strerror}).") from error
    except AttestationError as error:
        raise SettingsError(f"The host measurements at {path} would allow too much: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise SettingsError(
            f'The host measurements at {path} are not {{"allowed": [{{"4": "hex", "12": "hex"}}]}} with registers of '
            f"{PCR_BYTES} bytes."
        ) from None
    return allowed


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are there once: of two values for one register the reader would choose."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key is there twice")
    return fields


def _index(text: str) -> int:
    """A register's index in its one form, so that "4" and "04" are not two."""
    if str(int(text)) != text:
        raise ValueError("not a register's index")
    return int(text)
