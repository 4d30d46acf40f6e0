"""`mrgc worker`, `python -m dataplane.worker`: the GPU worker with vLLM."""

from __future__ import annotations

import os
import sys

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


def command() -> None:
    """Run the GPU worker from its environment: vLLM behind one Unix socket, without a network."""
    # vLLM starts its engine by importing this process's main module again, which must be this one: see below.
    os.execv(sys.executable, [sys.executable, "-m", "dataplane.worker"])  # noqa: S606 - our own program, no shell


if __name__ == "__main__":
    run_sidecar(WorkerSettings, serve, service="worker")
elif __name__ == "__mp_main__":
    # A process that multiprocessing started for vLLM: it must not outlive the worker.
    die_with_parent()
