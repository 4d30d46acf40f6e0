"""Model pools on the file system: names, what is there, options, and the digest that names a model's exact bytes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dataplane.protocol.errors import MrgcError

POOL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
"""At most 128 characters, as `model` in an envelope; no separator and no leading dot, so a name is one folder."""

OPTIONS_FILE: Final = "mrgc.json"
WEIGHTS: Final = ("*.safetensors", "*.bin", "*.gguf")
HASH_CHUNK_BYTES: Final = 1024 * 1024
MAX_OPTIONS_BYTES: Final = 65_536


class PoolError(MrgcError):
    """A pool whose files can't be used; the text names the pool and the file."""


class PoolOptions(BaseModel):
    """What an operator says about one pool, in its `mrgc.json`; every member is optional."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runner: Literal["generate", "pooling"] = "generate"
    max_model_len: int | None = Field(default=None, ge=16)
    max_num_seqs: int | None = Field(default=None, ge=1, le=4096)
    tool_call_parser: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    reasoning_parser: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    quantization: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    tensor_parallel_size: int = Field(default=1, ge=1, le=64)
    report_cached_tokens: bool = False
    """Whether tenants are told how much of their prompt the prefix cache held. Within one salt that answers a guess at
    an earlier prompt exactly, so it is for pools whose every key and tenant is one party."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One pool: its name, its folder, its options, and the digest of its files (32 bytes, or empty if none)."""

    name: str
    path: Path
    options: PoolOptions
    digest: str


class PoolDirectory:
    """The pools below `$FSX_MOUNT_POINT/models`. Every method blocks on the file system: call it in a thread."""

    def __init__(self, mount_point: Path) -> None:
        """`mount_point` is where the model store is mounted."""
        self.root = mount_point / "models"

    def available(self) -> bool:
        """Whether the model store is there and can be read."""
        try:
            return any(True for _ in self.root.iterdir())
        except OSError:
            return False

    def names(self) -> tuple[str, ...]:
        """Every folder with weights in it, sorted."""
        try:
            entries = sorted(self.root.iterdir())
        except OSError:
            return ()
        return tuple(entry.name for entry in entries if POOL_NAME.fullmatch(entry.name) and _has_weights(entry))

    def find(self, name: str) -> Path | None:
        """The folder of pool `name`, or None when there is none (a name with a separator or a leading dot included)."""
        if POOL_NAME.fullmatch(name) is None:
            return None
        path = self.root / name
        return path if _has_weights(path) else None

    def open(self, name: str) -> Pool:
        """Read a pool's options and hash its files; raises `PoolError`.

        Hashing reads every byte that the engine is about to read as well, so the page cache pays for one of the two.
        """
        path = self.find(name)
        if path is None:
            raise PoolError(f"There is no model pool {name[:128]!r} with weights below {self.root}; upload it first.")
        try:
            return Pool(name=name, path=path, options=read_options(path), digest=model_digest(path))
        except OSError as error:
            raise PoolError(f"Pool {name} could not be read ({error.strerror}); check {path}.") from error


def read_options(path: Path) -> PoolOptions:
    """Read `mrgc.json` of a pool's folder; defaults where there is none. Raises `PoolError` or `OSError`."""
    file = path / OPTIONS_FILE
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_OPTIONS_BYTES + 1)
    except FileNotFoundError:
        return PoolOptions()
    if len(data) > MAX_OPTIONS_BYTES:
        raise PoolError(f"{file} is over {MAX_OPTIONS_BYTES} bytes; it should hold a few options.")
    try:
        return PoolOptions.model_validate(json.loads(data))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors())
        raise PoolError(f"{file} is not valid: {faults}.") from None
    except ValueError:
        raise PoolError(f"{file} is not JSON.") from None


def model_digest(path: Path) -> str:
    """SHA-256, in hex, over the sorted manifest of a folder.

    One line per file, `name`, a zero byte, the file's SHA-256 in hex, and a newline; names are relative, with `/`, and
    sorted as UTF-8 bytes. Files and folders whose name begins with a dot are left out.
    """
    manifest = hashlib.sha256()
    for name, file in sorted(_files(path), key=lambda pair: pair[0].encode()):
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while chunk := stream.read(HASH_CHUNK_BYTES):
                digest.update(chunk)
        manifest.update(f"{name}\0{digest.hexdigest()}\n".encode())
    return manifest.hexdigest()


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    for file in root.rglob("*"):
        relative = file.relative_to(root)
        if file.is_file() and not any(part.startswith(".") for part in relative.parts):
            yield relative.as_posix(), file


def _has_weights(path: Path) -> bool:
    try:
        return any(True for pattern in WEIGHTS for _ in path.glob(pattern))
    except OSError:
        return False
