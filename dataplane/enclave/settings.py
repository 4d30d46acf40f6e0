"""What the enclave reads from its environment. In a real enclave that is the image's, so all of it is measured."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from dataplane.enclave.server import MAX_CONNECTIONS
from dataplane.mesh.address import AddressField, VsockAddress
from dataplane.mesh.settings import SidecarSettings

ENCLAVE_PORT = 5000
ANY_CID = 0xFFFFFFFF
"""VMADDR_CID_ANY (vsock(7)): an enclave learns its CID only when it is started."""
PARENT_CID = 3
KMS_PORT = 8000


class EnclaveSettings(SidecarSettings):
    """Where to listen, where KMS is reached, and which hosts are taken for level 2."""

    mrgc_region: str = Field(
        "",
        pattern=r"^([a-z]{2}(-[a-z]+)+-[0-9])?$",
        description="an AWS region; left out where the attestation document names it",
    )
    enclave_listen_address: AddressField = Field(
        VsockAddress(ANY_CID, ENCLAVE_PORT), description="where the parent's bytes come in, such as vsock:16:5000"
    )
    kms_proxy_address: AddressField = Field(
        VsockAddress(PARENT_CID, KMS_PORT), description="where the proxy takes CONNECT, such as vsock:3:8000"
    )
    host_measurements_file: Path | None = Field(
        None, description="the allowed host images of level 2, a JSON file inside the image"
    )
    max_connections: int = Field(MAX_CONNECTIONS, ge=1, le=4096, description="connections at once, from 1 to 4096")
