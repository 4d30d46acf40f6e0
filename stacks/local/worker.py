"""`python -m stacks.local.worker`: the GPU worker of the local stack, at assurance level 0.

The same worker as in production, with vLLM on this machine's CPU (ENGINE=vllm, in `.venv-engine`) or with the
synthetic engine (ENGINE=synthetic, anywhere).
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Final, Literal

from pydantic import Field

from dataplane.mesh.lifecycle import Stop, run_sidecar
from dataplane.worker.assemble import run_worker, wall_clock_ms
from dataplane.worker.engine import EngineFactory
from dataplane.worker.parent_death import die_with_parent
from dataplane.worker.settings import WorkerSettings
from dataplane.worker.vllm_engine import VllmFactory
from stacks.local.synthetic import SyntheticFactory
from stacks.local.synthetic_cost import SyntheticCosts

ON_A_CPU: Final = {
    "VLLM_TARGET_DEVICE": "cpu",
    # Scheduler and model in one process; see VllmOptions.one_process.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # Six workers share a developer's machine: one thread each, on whichever core is free.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # Without it the first request for logprobs compiles C++ for a quarter of a minute.
    "TORCHDYNAMO_DISABLE": "1",
}
CPU_KV_BYTES: Final = 64 * 1024 * 1024
"""262,144 tokens of the tiny model: more than any test asks for, and all that is set aside."""

CPU_SEQUENCES: Final = 8


class LocalWorkerSettings(WorkerSettings):
    """The worker's settings, the engine's name, and the synthetic engine's costs."""

    engine: Literal["vllm", "synthetic"] = Field(default="vllm", description="vllm or synthetic")
    synthetic_seed: int = Field(default=0, ge=0, lt=2**63, description="the synthetic answers' seed, 0 or more")
    synthetic_prefill_tokens_per_s: float = Field(default=8000.0, gt=0, description="tokens a second, above 0")
    synthetic_step_s: float = Field(default=0.012, ge=0, le=60, description="seconds that a step takes, 0 to 60")
    synthetic_per_sequence_s: float = Field(default=0.0003, ge=0, le=60, description="seconds a further sequence adds")
    synthetic_kv_cache_tokens: int = Field(default=131_072, ge=256, description="tokens of KV cache, 256 or more")

    def costs(self) -> SyntheticCosts:
        """The synthetic engine's cost model."""
        return SyntheticCosts(
            prefill_tokens_per_s=self.synthetic_prefill_tokens_per_s,
            step_s=self.synthetic_step_s,
            per_sequence_s=self.synthetic_per_sequence_s,
            kv_cache_tokens=self.synthetic_kv_cache_tokens,
            max_num_seqs=self.max_num_seqs or SyntheticCosts().max_num_seqs,
        )


def make_factory(settings: LocalWorkerSettings, environ: MutableMapping[str, str] = os.environ) -> EngineFactory:
    """The engine that the settings name, fitted to a small machine."""
    if settings.engine == "synthetic":
        return SyntheticFactory(seed=settings.synthetic_seed, costs=settings.costs(), clock_ms=wall_clock_ms)
    for name, value in ON_A_CPU.items():
        environ.setdefault(name, value)
    small = settings.model_copy(
        update={
            "enforce_eager": True,
            "kv_cache_memory_bytes": settings.kv_cache_memory_bytes or CPU_KV_BYTES,
            "max_num_seqs": settings.max_num_seqs or CPU_SEQUENCES,
        }
    )
    return VllmFactory(options=small.vllm_options(one_process=True), environ=environ)


async def serve(settings: LocalWorkerSettings, stop: Stop) -> None:
    """Run the worker; without a TPM, so an enclave never takes it for more than level 0."""
    await run_worker(settings, stop, factory=make_factory(settings), tpm=None)


if __name__ == "__main__":
    run_sidecar(LocalWorkerSettings, serve, service="worker")
elif __name__ == "__mp_main__":
    die_with_parent()
