"""What is appended: measurements as the tools that make them write them, turned into entries or refused."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dataplane.protocol.errors import MrgcError
from dataplane.protocol.transparency.entry import IMAGE, SIGNER, Entry
from dataplane.protocol.transparency.errors import TransparencyError

MAX_INPUT_BYTES: Final = 1 << 22
"""4 MiB: a model's manifest has 4,096 files at most, of up to 1,024 bytes each."""

_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


class InputError(MrgcError):
    """A file that holds no measurement."""


def read_entries(path: Path, *, name: str, version: str, time_ms: int, source: str | None = None) -> list[Entry]:
    """Return the entries for a file, as `parse_input` does; `InputError` also where it can't be read."""
    return parse_input(_read(path), where=str(path), name=name, version=version, time_ms=time_ms, source=source)


def parse_input(
    data: bytes, *, where: str, name: str, version: str, time_ms: int, source: str | None = None
) -> list[Entry]:
    """Return the entries for a file's content, by what it holds; `where` is what errors call it.

    `{"PCR0": hex, …}` (as `measurements.json`, or what nitro-cli prints) is an enclave image; `{"allowed": [{"4": hex,
    "12": hex}, …]}` are host images, one entry each (several get the version with -1, -2 …); `{"version": 1, "digest":
    hex, "files": [{"name", "size", "sha256"}, …]}` is a model's manifest as `mrgc worker manifest` writes it, whose
    digest must be that of its files. Raises `InputError`.
    """
    common: dict[str, Any] = {"name": name, "time_ms": time_ms, "source": source}
    try:
        document = _json(data, where)
        if "files" in document:
            return [Entry(kind="model", version=version, digest=_manifest_digest(document, where), **common)]
        allowed = document.get("allowed")
        if allowed is None and "configurations" in document:
            raise InputError(f"{where} allows no host: it has configurations alone, which are not logged.")
        if allowed is None:
            return [Entry(kind="enclave", version=version, registers=_image(document, where), **common)]
        if not isinstance(allowed, list) or not allowed:
            raise InputError(f'{where} allows no host; give {{"allowed": [{{"4": "hex", "12": "hex"}}]}}.')
        versions = [version] if len(allowed) == 1 else [f"{version}-{n}" for n in range(1, len(allowed) + 1)]
        return [
            Entry(kind="host", version=each, registers=_registers(registers, where), **common)
            for each, registers in zip(versions, allowed, strict=True)
        ]
    except TransparencyError as error:
        raise InputError(f"{where} is not logged. {error}") from None


def digest_entry(digest: str, *, name: str, version: str, time_ms: int, source: str | None = None) -> Entry:
    """Return a model's entry for the digest that receipts name: 64 hex digits, `sha256:` before them or not."""
    text = digest.removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{64}", text, re.ASCII):
        raise InputError("The model's digest is not 64 hex digits; give the SHA-256 that its receipts name.")
    try:
        return Entry(
            kind="model", name=name, version=version, time_ms=time_ms, source=source, digest=bytes.fromhex(text)
        )
    except TransparencyError as error:
        raise InputError(str(error)) from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_INPUT_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}); name the file to log.") from None
    if len(data) > MAX_INPUT_BYTES:
        raise InputError(f"{path} is over {MAX_INPUT_BYTES} bytes; name a file of measurements.")
    if not data:
        raise InputError(f"{path} is empty; name a file of measurements.")
    return data


def _json(data: bytes, where: str) -> Mapping[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise InputError(f"{where} is no JSON; name a file of measurements.") from None
    if not isinstance(document, dict):
        raise InputError(f"{where} holds no JSON object; name a file of measurements.")
    return document


def _image(document: Mapping[str, Any], where: str) -> dict[int, bytes]:
    inner = document.get("Measurements", document)
    if not isinstance(inner, dict):
        raise InputError(f"{where} has no measurements; give the measurements.json of the enclave image.")
    # nitro-cli names the hash beside the registers.
    named = {key: value for key, value in inner.items() if key != "HashAlgorithm"}
    registers = _registers({key.removeprefix("PCR"): value for key, value in named.items()}, where)
    if not {*IMAGE} <= registers.keys() <= {*IMAGE, SIGNER}:
        raise InputError(f"{where} must have PCR0, PCR1 and PCR2, may have PCR8, and nothing else.")
    if not any(registers.get(SIGNER, b"\x01")):
        del registers[SIGNER]
    return registers


def _registers(named: object, where: str) -> dict[int, bytes]:
    if not isinstance(named, dict):
        raise InputError(f"{where} has something else where registers should be.")
    found: dict[int, bytes] = {}
    for name, value in named.items():
        if not (name.isascii() and name.isdigit() and name == str(int(name[:3]))):
            raise InputError(f"{where} has a register that is not named by its number.")
        try:
            found[int(name)] = bytes.fromhex(value) if isinstance(value, str) else b""
        except ValueError:
            raise InputError(f"{where} has a register that is not in hex.") from None
    return found


def _manifest_digest(document: Mapping[str, Any], where: str) -> bytes:
    """Reckon a model's digest from its files, as workers do (docs/worker.md), and compare it with the one named."""
    named: dict[str, str] = {}
    files = document["files"]
    for file in files if isinstance(files, list) else ():
        name, digest = (file.get("name"), file.get("sha256")) if isinstance(file, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(digest, str) or not _SHA256.fullmatch(digest) or name in named:
            raise InputError(f"{where} names a file without a name or a SHA-256 of its own; make it again.")
        named[name] = digest
    if not named:
        raise InputError(f"{where} names no files; give what `mrgc worker manifest` writes.")
    try:
        lines = [
            name + b"\0" + digest.encode() + b"\n" for name, digest in sorted((n.encode(), d) for n, d in named.items())
        ]
    except UnicodeEncodeError:
        raise InputError(f"{where} names a file by what is no text; make it again.") from None
    reckoned = hashlib.sha256(b"".join(lines))
    if document.get("digest") != reckoned.hexdigest():
        raise InputError(f"{where} contradicts itself: its digest is not that of its files; make it again.")
    return reckoned.digest()
