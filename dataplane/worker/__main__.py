"""`mrgc worker`, `python -m dataplane.worker`: the GPU worker with vLLM."""

from __future__ import annotations

from dataplane.mesh.lifecycle import Stop, run_sidecar
from dataplane.worker.assemble import run_worker
from dataplane.worker.parent_death import die_with_parent
from dataplane.worker.settings import WorkerSettings
from dataplane.worker.tpm import NitroTpm
from dataplane.worker.vllm_engine import VllmFactory


async def serve(settings: WorkerSettings, stop: Stop) -> None:
    """Run the worker with vLLM, and with the host's NitroTPM where the settings say so."""
    factory = VllmFactory(options=settings.vllm_options())
    await run_worker(settings, stop, factory=factory, tpm=NitroTpm() if settings.tpm == "nitro" else None)


if __name__ == "__main__":
    run_sidecar(WorkerSettings, serve, service="worker")
elif __name__ == "__mp_main__":
    # A process that multiprocessing started for vLLM: it must not outlive the worker.
    die_with_parent()
