"""`python -m dataplane.enclave`: the program of the enclave image. It runs in a Nitro enclave and nowhere else."""

from __future__ import annotations

import contextlib
from typing import NoReturn

from dataplane.enclave.loopback import bring_up_loopback, seed_kernel
from dataplane.enclave.nsm import DeviceNsm
from dataplane.enclave.run import serve_enclave
from dataplane.enclave.settings import EnclaveSettings
from dataplane.mesh.lifecycle import Stop, run_sidecar


async def serve(settings: EnclaveSettings, stop: Stop) -> None:
    """Prepare the bare machine, then serve with the genuine security module."""
    with contextlib.closing(DeviceNsm()) as nsm:
        seed_kernel(nsm)
        bring_up_loopback()
        await serve_enclave(settings, stop, nsm=nsm)


def command() -> NoReturn:
    """Run the enclave: the one place where prompts are opened and sealed. Needs /dev/nsm."""
    run_sidecar(EnclaveSettings, serve, service="enclave")


if __name__ == "__main__":
    command()
