"""Measurements of the local stack's enclave, taken from the source files that it runs.

A genuine image is measured by `nitro-cli build-enclave`. Here the files stand in for the image, so that changing a line
of the enclave changes its registers and every key policy that names the old ones refuses it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from dataplane.protocol.attestation.document import PCR_BYTES
from dataplane.protocol.errors import MrgcError

PROJECT_ROOT = Path(__file__).resolve().parents[2]

IMAGE = ("dataplane/enclave", "dataplane/protocol", "dataplane/mesh", "observability", "stacks/local/enclave")
"""PCR0: the project's code that runs in the enclave, the local stack's entry point included, the software NSM not (a
genuine one is outside of the image). A path may be a folder, a module, or not be there."""

BOOT = ("pyproject.toml", "uv.lock")
"""PCR1: in place of the kernel, what fixes the interpreter's and the libraries' versions."""

APPLICATION = ("dataplane/enclave", "dataplane/protocol")
"""PCR2: the application without what it shares with the host."""

_SUFFIXES = frozenset({".py", ".pem", ".json", ".toml", ".lock"})


class MeasureError(MrgcError):
    """There is nothing to measure."""


def measure(root: Path = PROJECT_ROOT) -> dict[int, bytes]:
    """Return PCR0, PCR1 and PCR2 (48 bytes each) of the enclave whose sources lie under `root`."""
    return {0: _register(root, IMAGE), 1: _register(root, BOOT), 2: _register(root, APPLICATION)}


def _register(root: Path, places: Iterable[str]) -> bytes:
    """Extend a zero register with the digest of these files' paths, lengths and contents, in order of path."""
    digest = hashlib.sha384()
    files = sorted({file for place in places for file in _files(root, place)})
    if not files:
        raise MeasureError(f"{root} holds no enclave sources to measure; run the local stack from its checkout.")
    for file in files:
        content = file.read_bytes()
        name = file.relative_to(root).as_posix().encode()
        digest.update(len(name).to_bytes(4) + name + len(content).to_bytes(8) + content)
    return hashlib.sha384(bytes(PCR_BYTES) + digest.digest()).digest()


def _files(root: Path, place: str) -> Iterable[Path]:
    path = root / place
    for candidate in (path, path.with_name(path.name + ".py")):
        if candidate.is_file():
            yield candidate
    if path.is_dir():
        yield from (file for file in path.rglob("*") if file.is_file() and file.suffix in _SUFFIXES)
