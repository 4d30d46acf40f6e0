"""The worker's environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from dataplane.mesh.address import AddressField, UnixAddress
from dataplane.mesh.settings import SidecarSettings
from dataplane.worker.modelcopy import DEFAULT_MAX_BYTES
from dataplane.worker.pool import POOL_NAME
from dataplane.worker.vllm_engine import VllmOptions

DEFAULT_SOCKET: Final = "/run/mrgc/worker.sock"
DEFAULT_MAX_QUEUE: Final = 64
"""Requests that may wait beyond those that run: at 256 running sequences, a quarter of a batch. More would only
time out here instead of running elsewhere."""

DEFAULT_ENGINE_STALL_S: Final = 120.0
"""Longer than a slow reader can hold a finished answer back (30 s a piece, three pieces), or a GPU takes to compile."""

MIN_KV_BYTES: Final = 16 * 1024 * 1024
MAX_PINNED: Final = 256
_PINNED: Final = re.compile(rf"({POOL_NAME.pattern})=([0-9a-f]{{64}})", re.ASCII)


def _pinned(value: object) -> object:
    """Read `pool=digest,pool=digest`."""
    if not isinstance(value, str):
        return value
    pairs = [_PINNED.fullmatch(part.strip()) for part in value.split(",")]
    digests = {pair[1]: pair[2] for pair in pairs if pair is not None}
    if len(digests) != len(pairs):
        raise ValueError("a part is no pool=digest, or a pool is named twice")
    return digests


PinnedDigests = Annotated[Mapping[str, str], BeforeValidator(_pinned)]


class WorkerSettings(SidecarSettings):
    """What the GPU worker reads."""

    worker_listen_address: AddressField = Field(
        default=UnixAddress(DEFAULT_SOCKET), description="a Unix socket's address, unix:/path"
    )
    fsx_mount_point: Path = Field(default=Path("/fsx"), description="the model store's mount point, an absolute path")
    model_cache_dir: Path | None = Field(
        default=None,
        description="a folder of the worker's own for its copies of models, an absolute path outside the model store",
    )
    model_cache_max_bytes: int = Field(
        default=DEFAULT_MAX_BYTES, ge=1, le=2**53, description="bytes that copies of models may take, 1 to 2^53"
    )
    model_digests: PinnedDigests = Field(
        default_factory=dict,
        max_length=MAX_PINNED,
        description="the only pools to serve with their digests, such as tiny=<64 hex digits>,other=<64 hex digits>",
    )
    default_model_pool: str = Field(description="the name of a folder below $FSX_MOUNT_POINT/models")
    gpu_memory_utilization: float = Field(
        default=0.90,
        gt=0,
        le=1,
        description="the part of each GPU's memory that the engine may use, above 0 and up to 1",
    )
    max_loaded_pools: int = Field(default=1, ge=1, le=64, description="how many pools may be in memory, 1 to 64")
    max_queue: int = Field(
        default=DEFAULT_MAX_QUEUE,
        ge=0,
        le=65_536,
        description="requests that may wait beyond those running, 0 to 65536",
    )
    engine_stall_s: float = Field(
        default=DEFAULT_ENGINE_STALL_S,
        gt=0,
        le=3600,
        description="seconds for which an engine that owes answers may make nothing, above 0 to 3600",
    )
    max_num_seqs: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        default=None, description="requests that run at once, 1 to 4096; the engine's own choice if unset"
    )
    max_model_len: Annotated[int, Field(ge=16)] | None = Field(
        default=None, description="tokens of context, 16 or more; the model's own if unset"
    )
    kv_cache_memory_bytes: Annotated[int, Field(ge=MIN_KV_BYTES)] | None = Field(
        default=None, description=f"bytes of KV cache, {MIN_KV_BYTES} or more; from GPU_MEMORY_UTILIZATION if unset"
    )
    enforce_eager: bool = Field(default=False, description="true to run without compiled graphs, or false")
    tpm: Literal["nitro", "none"] = Field(
        default="none", description="nitro to prove the host by its NitroTPM (assurance level 2), or none"
    )

    @field_validator("worker_listen_address")
    @classmethod
    def _unix_only(cls, value: object) -> object:
        if not isinstance(value, UnixAddress):
            # A worker without a network has one door, and the file system says who may knock.
            raise ValueError("the GPU worker listens on a Unix socket only")  # noqa: TRY004 - pydantic wants ValueError
        return value

    @field_validator("fsx_mount_point", "model_cache_dir")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_absolute():
            raise ValueError("the path must be absolute")
        return value

    @field_validator("default_model_pool")
    @classmethod
    def _pool_name(cls, value: str) -> str:
        if POOL_NAME.fullmatch(value) is None:
            raise ValueError("a pool's name has up to 128 letters, digits, dots, dashes and underscores")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.model_cache_dir is not None and self.model_cache_dir.is_relative_to(self.fsx_mount_point):
            raise ValueError("MODEL_CACHE_DIR must lie outside FSX_MOUNT_POINT, which others may write")
        if self.model_digests and self.default_model_pool not in self.model_digests:
            raise ValueError("MODEL_DIGESTS must name DEFAULT_MODEL_POOL, or the worker would never be ready")
        return self

    def vllm_options(self, *, one_process: bool = False) -> VllmOptions:
        """The host's part of the engine's options."""
        return VllmOptions(
            gpu_memory_utilization=self.gpu_memory_utilization,
            kv_cache_memory_bytes=self.kv_cache_memory_bytes,
            max_model_len=self.max_model_len,
            max_num_seqs=self.max_num_seqs,
            enforce_eager=self.enforce_eager,
            one_process=one_process,
        )
