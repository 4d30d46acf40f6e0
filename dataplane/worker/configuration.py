"""What a worker is set up to do, as far as it concerns whoever sends it prompts, and the digest that names it.

The digest is in every binding, covered by the NitroTPM document at level 2, and an enclave image has the list of those
that it takes. So what is in here can be published ahead, pinned, and not be changed by whoever runs the host. Where
files lie and how long queues are is left out: one digest serves a fleet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from dataplane.protocol import cbor
from dataplane.worker.engine import EngineFactory
from dataplane.worker.settings import WorkerSettings

VERSION: Final = 1

ENGINE_VARIABLES: Final = (
    "VLLM_",
    "HF_",
    "HUGGINGFACE_",
    "TRANSFORMERS_",
    "TORCH",
    "PYTORCH_",
    "NCCL_",
    "PYTHON",
    "LD_",
    # Libraries that CUDA, NVTX, OpenSSL and the C library load by name; kernels that were compiled before.
    "CUDA_",
    "NVTX_",
    "OPENSSL_",
    "GCONV_",
    "TRITON_",
    "FLASHINFER_",
    # The compilers that kernels are made with, and the folders that compiled ones are looked for in.
    "CC",
    "CXX",
    "XDG_",
    "HOME",
)
"""Beginnings of variables by which the engine, its libraries and the interpreter can be made to log prompts, to load
other code or to reach a network. Whatever begins so is part of the configuration, by name and value."""

NOT_ITS_BUSINESS: Final = frozenset({"PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED"})
"""Buffering of logs, byte code on disk and the order of sets."""

Configuration = Mapping[str, object]


def configuration(
    settings: WorkerSettings, factory: EngineFactory, environ: Mapping[str, str], *, version: str | None = None
) -> Configuration:
    """Return the worker's configuration, of maps, texts and numbers; `version` is the engine's where it isn't here.

    Engine and version, the options that the engine runs with for every pool, the models that may be served (any where
    none is named: each answer names its own by `model_digest`), what is logged, and the engine's environment.
    """
    return {
        "v": VERSION,
        "engine": factory.kind,
        "version": factory.version if version is None else version,
        "options": dict(factory.options),
        "model_digests": dict(settings.model_digests),
        "log_level": settings.log_level,
        "tpm": settings.tpm,
        "environment": {
            name: value
            for name, value in sorted(environ.items())
            if name.startswith(ENGINE_VARIABLES) and name not in NOT_ITS_BUSINESS
        },
    }


def config_digest(content: Configuration) -> bytes:
    """Return SHA-256 over the configuration as deterministic CBOR: 32 bytes."""
    return hashlib.sha256(cbor.encode(dict(content))).digest()
