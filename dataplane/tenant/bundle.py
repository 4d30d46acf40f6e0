"""The receipt bundle: one JSON file that shows a receipt to others (docs/receipts.md has its format)."""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from dataplane.protocol.errors import SettingsError
from dataplane.protocol.keys import KEY_BYTES, NONCE_BYTES, DirectionKeys
from dataplane.tenant.disclosure import Disclosed
from dataplane.tenant.errors import ReceiptError

FORMAT = "mrgc-receipt/1"
MAX_BUNDLE_BYTES = 32 << 20
"""Longest bundle: a request of 4.3 MB and a response of 16 MiB make 28.1 MB of base64, the rest is under 200 KB."""

MODE = 0o600
"""A receipt tells exact figures, and a disclosed exchange its text: for its owner alone."""

_KEYS = {"format", "request_id", "receipt", "head", "attestation", "disclosed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptDocument:
    """An attestation document with what it was asked with: `nonce` is ours, `nonces` the list that came with it.

    `nonces` is `X-MRGC-Nonces` as sent, None where the document carries `nonce` itself.
    """

    document: bytes = field(repr=False)
    nonce: bytes
    nonces: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptBundle:
    """A receipt's exact bytes, the response head's, and what shows whose the receipt is.

    `request_id` is the tenant's own name for the request and proves nothing.
    """

    receipt: bytes = field(repr=False)
    head: bytes = field(repr=False)
    request_id: str
    attestation: KeptDocument | None = None
    disclosed: Disclosed | None = None

    def attested(self, document: KeptDocument) -> Self:
        """The same with the enclave's document."""
        return replace(self, attestation=document)

    def to_json(self) -> str:
        """The bundle as one JSON object and a newline."""
        attestation, disclosed = self.attestation, self.disclosed
        document = {
            "format": FORMAT,
            "request_id": self.request_id,
            "receipt": _text(self.receipt),
            "head": _text(self.head),
            "attestation": None
            if attestation is None
            else {
                "document": _text(attestation.document),
                "nonce": attestation.nonce.hex(),
                "nonces": attestation.nonces,
            },
            "disclosed": None
            if disclosed is None
            else {
                "request": _text(disclosed.request),
                "response": _text(disclosed.response),
                "request_key": disclosed.request_keys.key.hex(),
                "request_nonce": disclosed.request_keys.nonce.hex(),
                "response_key": disclosed.response_keys.key.hex(),
                "response_nonce": disclosed.response_keys.nonce.hex(),
            },
        }
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read a bundle's form; nothing in it is verified. `ReceiptError` when it is none."""
        if len(text) > MAX_BUNDLE_BYTES:
            raise ReceiptError(f"The file is over {MAX_BUNDLE_BYTES} bytes, longer than a receipt bundle can be.")
        try:
            document = json.loads(text, object_pairs_hook=_once)
        except (ValueError, RecursionError):
            raise ReceiptError(
                "The file is not JSON with each key once; give a bundle that `mrgc tenant ask --receipt` wrote."
            ) from None
        if not isinstance(document, dict) or document.get("format") != FORMAT or document.keys() != _KEYS:
            raise ReceiptError(f"The file is no receipt bundle of the format {FORMAT}.")
        request_id = document["request_id"]
        if not isinstance(request_id, str):
            raise ReceiptError("The bundle's request_id is not text.")
        return cls(
            receipt=_bytes(document, "receipt"),
            head=_bytes(document, "head"),
            request_id=request_id,
            attestation=_attestation(document["attestation"]),
            disclosed=_disclosed(document["disclosed"]),
        )


def read_bundle(path: Path) -> ReceiptBundle:
    """Read a bundle's file; `SettingsError` when there is none to read, `ReceiptError` when it is no bundle."""
    return ReceiptBundle.from_json(read_file(path))


def read_file(path: Path) -> bytes:
    """A file of at most `MAX_BUNDLE_BYTES` (one byte more of a longer one); `SettingsError` when it can't be read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BUNDLE_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}); name a readable file.") from None


def check_new(path: Path) -> None:
    """Raise `SettingsError` unless a file can be made at `path`: nothing is overwritten, evidence least of all."""
    if path.exists():
        raise SettingsError(f"{path} exists already; name a new file for the receipt.")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise SettingsError(f"{path.parent} is no folder that can be written to; name another file for the receipt.")


def write_bundle(path: Path, bundle: ReceiptBundle) -> None:
    """Write a new file with mode 0600; `SettingsError` when that fails or it exists, and then nothing is left of it."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
    except OSError as error:
        raise SettingsError(f"The receipt cannot be written to {path} ({error.strerror}).") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(bundle.to_json())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise SettingsError(f"The receipt cannot be written to {path} ({error.strerror}).") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are there once: of two receipts one reader would show the first, another the last."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key is there twice")
    return fields


def _attestation(value: object) -> KeptDocument | None:
    if value is None:
        return None
    fields = _map(value, "attestation", {"document", "nonce", "nonces"})
    nonces = fields["nonces"]
    if nonces is not None and not isinstance(nonces, str):
        raise ReceiptError("The bundle's attestation.nonces is neither text nor null.")
    return KeptDocument(document=_bytes(fields, "document"), nonce=_hex(fields, "nonce", None), nonces=nonces)


def _disclosed(value: object) -> Disclosed | None:
    if value is None:
        return None
    names = {"request", "response", "request_key", "request_nonce", "response_key", "response_nonce"}
    fields = _map(value, "disclosed", names)
    return Disclosed(
        request=_bytes(fields, "request"),
        response=_bytes(fields, "response"),
        request_keys=DirectionKeys(_hex(fields, "request_key", KEY_BYTES), _hex(fields, "request_nonce", NONCE_BYTES)),
        response_keys=DirectionKeys(
            _hex(fields, "response_key", KEY_BYTES), _hex(fields, "response_nonce", NONCE_BYTES)
        ),
    )


def _map(value: object, name: str, keys: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict) or value.keys() != keys:
        raise ReceiptError(f"The bundle's {name} must have exactly {', '.join(sorted(keys))}.")
    return value


def _bytes(fields: Mapping[str, Any], name: str) -> bytes:
    value = fields[name]
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise ReceiptError(f"The bundle's {name} is not base64.") from None


def _hex(fields: Mapping[str, Any], name: str, length: int | None) -> bytes:
    value = fields[name]
    try:
        given = bytes.fromhex(value)
    except (TypeError, ValueError):
        raise ReceiptError(f"The bundle's {name} is not hex.") from None
    if length is not None and len(given) != length:
        raise ReceiptError(f"The bundle's {name} is not {length} bytes in hex.")
    return given


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
