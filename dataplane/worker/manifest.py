"""A pool's manifest: its files by name, size and SHA-256, and the digest over them that names the model.

The digest is SHA-256, in hex, over one line per file, `name || 00 || hex SHA-256 || newline`, sorted by name as UTF-8
bytes. A manifest in the store guards against files that were damaged or exchanged one by one; against whoever may
write the store, its manifest included, only a digest that is pinned elsewhere helps (`MODEL_DIGESTS`, or a tenant's).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dataplane.worker.modelfolder import MANIFEST_FILE, MAX_FILES, ModelFolder, PoolError

HASH_CHUNK_BYTES: Final = 1024 * 1024
MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
"""4,096 entries of up to 1,024 bytes."""

Sha256Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ManifestFile(BaseModel):
    """One file: `size` in bytes, `sha256` in hex."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=1024)]
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256Hex


class Manifest(BaseModel):
    """Everything that a pool consists of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    digest: Sha256Hex
    files: Annotated[tuple[ManifestFile, ...], Field(max_length=MAX_FILES)]

    @classmethod
    def of(cls, files: Sequence[ManifestFile]) -> Self:
        """Return the manifest of these files."""
        return cls(digest=files_digest(files), files=tuple(sorted(files, key=lambda file: file.name.encode())))

    def encode(self) -> bytes:
        """Return the manifest as JSON, with a newline at its end."""
        return json.dumps(self.model_dump(), indent=1, ensure_ascii=False).encode() + b"\n"

    def check(self, copied: Manifest) -> None:
        """Raise `PoolError` unless `copied` has exactly these files; the sentence names the first that differs."""
        if self == copied:
            return
        mine, theirs = ({file.name: file for file in each.files} for each in (self, copied))
        for name in sorted(mine.keys() | theirs.keys()):
            if mine.get(name) != theirs.get(name):
                fault = "is missing" if name not in theirs else "has other bytes"
                fault = "is not named in it" if name not in mine else fault
                raise PoolError(f"The files are not those of {MANIFEST_FILE}: {name[:128]!r} {fault}.")


def files_digest(files: Sequence[ManifestFile]) -> str:
    """SHA-256, in hex, over the sorted lines of these files."""
    whole = hashlib.sha256()
    for file in sorted(files, key=lambda each: each.name.encode()):
        whole.update(f"{file.name}\0{file.sha256}\n".encode())
    return whole.hexdigest()


def read_manifest(folder: ModelFolder) -> Manifest | None:
    """Read the manifest in a pool's folder, None where there is none; raises `PoolError`."""
    if not folder.has_manifest():
        return None
    with folder.open(MANIFEST_FILE) as file, os.fdopen(os.dup(file), "rb") as stream:
        data = stream.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise PoolError(f"{folder.path / MANIFEST_FILE} is over {MAX_MANIFEST_BYTES} bytes.")
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "it"
        raise PoolError(
            f"{folder.path / MANIFEST_FILE} is no manifest ({where}: {error.errors()[0]['msg']})."
        ) from None
    if manifest != Manifest.of(manifest.files):
        raise PoolError(f"{folder.path / MANIFEST_FILE} contradicts itself: its digest is not that of its files.")
    return manifest


def hash_folder(path: Path) -> Manifest:
    """Hash every file of a pool's folder where it lies; raises `PoolError` or `OSError`."""
    folder = ModelFolder(path)
    try:
        files = []
        for name in folder.names():
            digest, size = hashlib.sha256(), 0
            with folder.open(name) as file:
                while chunk := os.read(file, HASH_CHUNK_BYTES):
                    digest.update(chunk)
                    size += len(chunk)
            files.append(ManifestFile(name=name, size=size, sha256=digest.hexdigest()))
    finally:
        folder.close()
    return Manifest.of(files)


def write_manifest(path: Path) -> Manifest:
    """Hash a pool's folder and put the manifest into it, whole or not at all; raises `PoolError` or `OSError`."""
    manifest = hash_folder(path)
    if not manifest.files:
        raise PoolError(f"{path} has no files to name.")
    temporary = path / f".{MANIFEST_FILE}.new"
    temporary.write_bytes(manifest.encode())
    temporary.replace(path / MANIFEST_FILE)
    return manifest
