"""What the enclave proxy reads from its environment."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from dataplane.mesh.address import AddressField, UnixAddress, VsockAddress
from dataplane.mesh.settings import SidecarSettings
from dataplane.proxy.connect import Endpoint, parse_endpoints

ENCLAVE_CID = 16
ENCLAVE_PORT = 5000
PARENT_CID = 3
"""The parent instance's CID as an enclave sees it (AWS Nitro Enclaves user guide, "vsock")."""
KMS_PORT = 8000

DEFAULT_KMS_ENDPOINTS = frozenset(
    Endpoint(f"kms.{region}.amazonaws.com", 443) for region in ("us-east-1", "us-east-2", "us-west-2")
)


def _endpoints(value: object) -> object:
    return parse_endpoints(value) if isinstance(value, str) else value


class ProxySettings(SidecarSettings):
    """Two listeners, what they lead to, and their limits."""

    parent_address: AddressField = Field(
        UnixAddress("/run/mrgc/proxy.sock"), description="where the parent connects, such as unix:/run/mrgc/proxy.sock"
    )
    enclave_address: AddressField = Field(
        VsockAddress(ENCLAVE_CID, ENCLAVE_PORT), description="where the enclave listens, such as vsock:16:5000"
    )
    kms_listen_address: AddressField = Field(
        VsockAddress(PARENT_CID, KMS_PORT), description="where the enclave asks for KMS, such as vsock:3:8000"
    )
    kms_endpoints: Annotated[frozenset[Endpoint], BeforeValidator(_endpoints)] = Field(
        DEFAULT_KMS_ENDPOINTS,
        description="the only places a tunnel may lead to, such as kms.us-east-1.amazonaws.com:443",
    )
    max_connections: int = Field(512, ge=1, le=4096, description="connections of the parent at once, from 1 to 4096")
    max_tunnels: int = Field(64, ge=1, le=1024, description="tunnels to KMS at once, from 1 to 1024")
    connect_timeout_s: float = Field(5.0, gt=0, le=60, description="seconds from 0 to 60 for one connection")
    idle_timeout_s: float = Field(
        300.0, gt=0, le=3600, description="seconds from 0 to 3600 that a connection may stay silent both ways"
    )
