"""`python -m stacks.local.enclave`: the enclave's own program, with a software NSM in place of `/dev/nsm`.

Everything else is what the image runs. Its documents have the genuine format under a root of our own, and every
response says assurance 0. Other registers make another enclave: that is how the demo shows KMS refusing one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

from pydantic import BeforeValidator, Field

from dataplane.enclave.run import serve_enclave, wall_clock_ms
from dataplane.enclave.settings import EnclaveSettings
from dataplane.mesh.lifecycle import Stop, run_sidecar
from dataplane.protocol.attestation.document import PCR_BYTES
from stacks.local.nsm import SoftwareNsm
from stacks.local.pki import Authority


def _register(value: object) -> object:
    """Read a register given as hex."""
    if not isinstance(value, str):
        return value
    register = bytes.fromhex(value)
    if len(register) != PCR_BYTES:
        raise ValueError(f"{len(register)} bytes were given")
    return register


Register = Annotated[bytes, BeforeValidator(_register)]
_EXPECTED = f"a register of {PCR_BYTES} bytes in hex"


class LocalEnclaveSettings(EnclaveSettings):
    """The enclave's settings, the root that signs its documents, and what it claims to measure."""

    nsm_root_file: Path = Field(description="the certificate that stands in for AWS Nitro's root, in PEM")
    nsm_root_key_file: Path = Field(description="its private key, in PEM")
    pcr0: Register = Field(description=_EXPECTED)
    pcr1: Register = Field(description=_EXPECTED)
    pcr2: Register = Field(description=_EXPECTED)


async def serve(settings: LocalEnclaveSettings, stop: Stop) -> None:
    """Serve with a software NSM."""
    root = Authority.load(settings.nsm_root_file, settings.nsm_root_key_file)
    nsm = SoftwareNsm(
        root=root,
        pcrs={0: settings.pcr0, 1: settings.pcr1, 2: settings.pcr2},
        instance_id=settings.instance_id,
        clock_ms=wall_clock_ms,
        region=settings.mrgc_region or "us-east-1",
    )
    await serve_enclave(settings, stop, nsm=nsm, attestation_roots=[root.certificate])


def command() -> NoReturn:
    """Run an enclave of the local stack from its environment."""
    run_sidecar(LocalEnclaveSettings, serve, service="enclave")


if __name__ == "__main__":
    command()
