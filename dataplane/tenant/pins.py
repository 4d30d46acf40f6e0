"""What a tenant expects of every answer, and the check of each receipt against it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dataplane.protocol.errors import SettingsError
from dataplane.protocol.receipt import Receipt, verify_signature
from dataplane.tenant.errors import ReceiptError
from dataplane.tenant.measurements import PCR_BYTES

DIGEST_BYTES = 32
"""Digests of models and of configurations are SHA-256."""
MAX_SHOWN = 128
"""Characters of a wrong setting that are repeated."""
_HTTP_ERROR = 400
"""From this inner status on an answer is a refusal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """The values that a receipt may have; an empty set allows any.

    `models` are model digests (64 hex digits), `pcr0s` measurements of enclave images (48 bytes each), `configs`
    digests of workers' configurations (32 bytes each).
    """

    models: frozenset[str] = frozenset()
    pcr0s: frozenset[bytes] = frozenset()
    configs: frozenset[bytes] = frozenset()

    def check(self, receipt: Receipt, *, status: int) -> None:
        """Raise `ReceiptError` unless the receipt of an answer with that inner HTTP status is as expected.

        A refusal that no model made (status from 400, and the receipt names none) passes every pin of the model.
        """
        if self.pcr0s and receipt.pcr0 not in self.pcr0s:
            raise ReceiptError(
                f"The answer came from another enclave image than expected (PCR0 {receipt.pcr0.hex()}); do not use it."
            )
        if self.configs and receipt.config_digest not in self.configs:
            named = "none" if receipt.config_digest is None else receipt.config_digest.hex()
            raise ReceiptError(
                f"The answer was made under another configuration than expected ({named}); do not use it."
            )
        unanswered = not receipt.model_digest and status >= _HTTP_ERROR
        if self.models and _bare(receipt.model_digest) not in self.models and not unanswered:
            # The worker chose this text: it is repeated only where it can be a digest.
            named = receipt.model_digest if is_model_digest(receipt.model_digest) else "no digest"
            raise ReceiptError(f"Another model than expected answered ({named}); do not use this answer.")


def parse_pins(*, models: Iterable[str] = (), pcr0s: Iterable[str] = (), configs: Iterable[str] = ()) -> Pins:
    """The pins from text, as options and variables give them; `SettingsError` says which is no digest."""
    return Pins(
        models=frozenset(_model(text) for text in models),
        pcr0s=frozenset(_hex(text, PCR_BYTES, "MRGC_EXPECT_PCR0", "a PCR0") for text in pcr0s),
        configs=frozenset(_hex(text, DIGEST_BYTES, "MRGC_EXPECT_CONFIG", "a digest") for text in configs),
    )


def pcr0s_of(measurements: Iterable[Mapping[int, bytes]]) -> frozenset[bytes]:
    """The PCR0 of each allowed measurement."""
    return frozenset(measurement[0] for measurement in measurements if 0 in measurement)


def checked_receipt(
    raw: bytes, *, request: bytes, response: bytes, assurance: int, status: int, pins: Pins = Pins()
) -> Receipt:
    """Read a final frame's data and check everything that it says of one answer.

    `request` is the hash of the request's frames as sent, `response` that of the data opened before the receipt, 32
    bytes each; `assurance` the least level asked for; `status` the inner HTTP status. Raises `OpenError` for what is no
    receipt or not signed, `ReceiptError` for one of another answer or not as expected.
    """
    receipt = Receipt.decode(raw)
    if receipt.request != request:
        raise ReceiptError("The response's receipt names another request; do not use this answer.")
    verify_signature(raw)
    if receipt.response != response:
        raise ReceiptError("The response is not the one that its receipt was signed for; do not use this answer.")
    if receipt.time is None:
        raise ReceiptError("The response's receipt says no time; do not use this answer.")
    if receipt.assurance < assurance:
        raise ReceiptError(
            f"The response was made at assurance level {receipt.assurance}, below the {assurance} that was "
            "asked for; do not use this answer."
        )
    pins.check(receipt, status=status)
    return receipt


def response_hash(head: bytes, body: bytes) -> bytes:
    """SHA-256 over the head's CBOR and the body, 32 bytes: what a receipt calls `response`."""
    return hashlib.sha256(head + body).digest()


def is_model_digest(text: str) -> bool:
    """Say whether text is a model digest as workers make them: SHA-256 in hex, with or without `sha256:`."""
    bare = _bare(text)
    return len(bare) == 2 * DIGEST_BYTES and all(letter in "0123456789abcdef" for letter in bare)


def _model(text: str) -> str:
    return _hex(text, DIGEST_BYTES, "MRGC_EXPECT_MODEL", "a model digest").hex()


def _bare(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _hex(text: str, length: int, name: str, what: str) -> bytes:
    option = "--" + name.removeprefix("MRGC_").lower().replace("_", "-")
    try:
        value = bytes.fromhex(text.removeprefix("sha256:"))
    except ValueError:
        value = b""
    if len(value) != length or not any(value):
        raise SettingsError(
            f"{name} ({option}) is {text[:MAX_SHOWN]!r}; expected {what} of {2 * length} hex digits, not all zero."
        )
    return value
