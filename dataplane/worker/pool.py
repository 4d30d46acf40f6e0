"""Model pools on the file system: names, what is there, options, and the digest that names a model's exact bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dataplane.worker.manifest import hash_folder
from dataplane.worker.modelcopy import ModelCache
from dataplane.worker.modelfolder import PoolError

POOL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
"""At most 128 characters, as `model` in an envelope; no separator and no leading dot, so a name is one folder."""

OPTIONS_FILE: Final = "mrgc.json"
WEIGHTS: Final = ("*.safetensors", "*.bin", "*.gguf")
MAX_OPTIONS_BYTES: Final = 65_536


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
    """One pool to load: its name, the folder of the worker's own copy, its options, and the copy's digest in hex."""

    name: str
    path: Path
    options: PoolOptions
    digest: str


class PoolDirectory:
    """The pools below `$FSX_MOUNT_POINT/models`. Every method blocks on the file system: call it in a thread."""

    def __init__(
        self, mount_point: Path, *, cache: ModelCache | None = None, required: Mapping[str, str] | None = None
    ) -> None:
        """`mount_point` is where the model store is mounted, `cache` where copies go.

        A non-empty `required` has the only pools that may be served, each with its digest in hex.
        """
        self.root = mount_point / "models"
        self._cache = ModelCache() if cache is None else cache
        self._required = dict(required or {})

    def available(self) -> bool:
        """Whether the model store is there and can be read."""
        try:
            return any(True for _ in self.root.iterdir())
        except OSError:
            return False

    def names(self) -> tuple[str, ...]:
        """Every folder with weights in it that may be served, sorted."""
        try:
            entries = sorted(self.root.iterdir())
        except OSError:
            return ()
        return tuple(entry.name for entry in entries if self._may_serve(entry.name) and _has_weights(entry))

    def find(self, name: str) -> Path | None:
        """The folder of pool `name`, or None when there is none that may be served.

        A name with a separator or a leading dot is none.
        """
        if not self._may_serve(name):
            return None
        path = self.root / name
        return path if _has_weights(path) else None

    def open(self, name: str) -> Pool:
        """Copy a pool out of the store, hash what was copied and read its options; raises `PoolError`.

        Nothing is read from the store afterwards: `path`, `options` and `digest` are the copy's. Give it back with
        `release`.
        """
        path = self.find(name)
        if path is None:
            raise PoolError(f"There is no model pool {name[:128]!r} with weights below {self.root}; upload it first.")
        try:
            copy, manifest = self._cache.copy(name, path)
        except OSError as error:
            raise PoolError(f"Pool {name} could not be copied ({error.strerror}); check {path}.") from error
        try:
            self._check(name, manifest.digest)
            return Pool(name=name, path=copy, options=read_options(copy), digest=manifest.digest)
        except BaseException:
            self._cache.drop(copy)
            raise

    def release(self, pool: Pool) -> None:
        """Remove the copy of a pool that no engine has loaded any more."""
        self._cache.drop(pool.path)

    def stop(self) -> None:
        """Begin no copy any more, and end the one that is being made with `PoolError`; returns at once."""
        self._cache.stop()

    def close(self) -> None:
        """Stop, and remove every copy."""
        self._cache.close()

    def _check(self, name: str, digest: str) -> None:
        required = self._required.get(name, digest)
        if digest != required:
            raise PoolError(f"Pool {name} has the digest {digest}, and MODEL_DIGESTS asks for {required}.")

    def _may_serve(self, name: str) -> bool:
        return POOL_NAME.fullmatch(name) is not None and (not self._required or name in self._required)


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
    """The digest in hex of a pool's folder as it lies there now (`manifest.files_digest`); `PoolError`, `OSError`."""
    return hash_folder(path).digest


def _has_weights(path: Path) -> bool:
    try:
        return any(True for pattern in WEIGHTS for _ in path.glob(pattern))
    except OSError:
        return False
