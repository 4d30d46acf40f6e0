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
"""4 MiB: a model's manifest is 100 bytes a file."""

_LINE: Final = re.compile(r"(?P<name>[^\0\n]+)\0(?P<digest>[0-9a-f]{64})", re.ASCII)


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
    "12": hex}, …]}` are host images, one entry each (several get the version with -1, -2 …); lines of `name`, a zero
    byte and a SHA-256 in hex, sorted, are a model's manifest, whose digest is its own SHA-256. Raises `InputError`.
    """
    common: dict[str, Any] = {"name": name, "time_ms": time_ms, "source": source}
    try:
        if not data.lstrip().startswith((b"{", b"[")):
            return [Entry(kind="model", version=version, digest=_manifest_digest(data, where), **common)]
        document = _json(data, where)
        allowed = document.get("allowed")
        if allowed is None and "configurations" not in document:
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


def _manifest_digest(data: bytes, where: str) -> bytes:
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError:
        raise InputError(f"{where} is neither JSON nor a model's manifest; name a file of measurements.") from None
    names = [found["name"].encode() for line in lines[:-1] if (found := _LINE.fullmatch(line))]
    if lines[-1] or len(names) != len(lines) - 1 or not names or names != sorted(set(names)):
        raise InputError(
            f"{where} is neither JSON nor a model's manifest: sorted lines of a name, a zero byte and a SHA-256 in hex."
        )
    return hashlib.sha256(data).digest()
