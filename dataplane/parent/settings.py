"""The parent's settings, read from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from dataplane.mesh.address import Address, AddressField, UnixAddress, VsockAddress, is_loopback
from dataplane.mesh.deadline import CAP_S, DEFAULT_S
from dataplane.mesh.settings import Port, SidecarSettings
from dataplane.registry.dynamodb import TABLE

MAX_CID = 2**32 - 1

REBIND_S = 600.0
MAX_REBIND_S = 720.0
"""The enclave serves nothing under a binding over 900 s. With a tenth of jitter, 792 s at most, two minutes are left
for attempts that fail (1, 2, 4, 8, 10, 10, … s apart)."""


class ParentSettings(SidecarSettings):
    """Everything that `python -m dataplane.parent` reads; docs/parent.md lists the variables."""

    http_host: str = Field("0.0.0.0", min_length=1, description="the address to listen on")  # noqa: S104 - the router is another machine
    http_port: Port = Field(8080, description="a TCP port from 1 to 65535")
    tls_cert_file: Path | None = Field(None, description="PEM file of the certificate chain")
    tls_key_file: Path | None = Field(None, description="PEM file of the certificate's key")
    tls_client_ca_file: Path | None = Field(None, description="PEM file of the authority of the routers' certificates")
    advertised_url: str | None = Field(
        None, pattern=r"^https?://[^\s/?#]+$", description="the URL without a path by which routers reach this host"
    )

    enclave_proxy_address: AddressField | Literal["none"] = Field(
        UnixAddress("/run/mrgc/proxy.sock"),
        union_mode="left_to_right",
        description="the enclave proxy's address (unix:/path), or none to reach the enclave over vsock directly",
    )
    enclave_cid: int = Field(16, ge=3, le=MAX_CID, description="the enclave's vsock context, 3 or more")
    enclave_port: int = Field(5000, ge=1, le=MAX_CID, description="the enclave's vsock port")
    worker_address: AddressField = Field(
        UnixAddress("/run/mrgc/worker.sock"), description="the GPU worker's address (unix:/path)"
    )

    fsx_mount_point: Path = Field(Path("/fsx"), description="the directory where the model store is mounted")
    default_model_pool: str | None = Field(
        None, min_length=1, max_length=128, description="the pool of a request that names none, 1 to 128 characters"
    )
    gpu_memory_utilization: float = Field(
        0.90, gt=0, le=1, description="the share of GPU memory that the worker may use, over 0 and at most 1"
    )

    registry: Literal["dynamodb", "none"] = Field("dynamodb", description="dynamodb or none")
    registry_table: str = Field(TABLE, pattern=r"^[a-zA-Z0-9_.-]{3,255}$", description="a DynamoDB table's name")
    heartbeat_s: float = Field(2.0, ge=0.05, le=30, description="seconds between two reports, 0.05 to 30")
    poll_s: float = Field(
        1.0, ge=0.02, le=10, description="seconds between two looks at worker and enclave, 0.02 to 10"
    )

    rebind_s: float = Field(
        REBIND_S,
        ge=0.05,
        le=MAX_REBIND_S,
        description=f"seconds after which the worker is bound again, 0.05 to {MAX_REBIND_S:g}",
    )

    max_in_flight: int = Field(256, ge=1, le=10_000, description="requests at once, 1 to 10000")
    max_queue: int = Field(64, ge=0, le=10_000, description="requests that may wait for a slot, 0 to 10000")
    max_queue_wait_s: float = Field(2.0, gt=0, le=60, description="seconds that a request waits for a slot, up to 60")
    default_deadline_s: float = Field(DEFAULT_S, gt=0, le=CAP_S, description=f"seconds, at most {CAP_S:g}")
    max_deadline_s: float = Field(CAP_S, gt=0, le=CAP_S, description=f"seconds, at most {CAP_S:g}")
    idle_timeout_s: float = Field(
        30.0, gt=0, le=CAP_S, description="seconds that a client may neither send nor take a byte while it should"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        files = (self.tls_cert_file, self.tls_key_file, self.tls_client_ca_file)
        if any(files) and not all(files):
            raise ValueError("TLS_CERT_FILE, TLS_KEY_FILE and TLS_CLIENT_CA_FILE come together: set all three or none")
        if not any(files) and not is_loopback(self.http_host):
            raise ValueError(
                "without TLS_CERT_FILE, TLS_KEY_FILE and TLS_CLIENT_CA_FILE tenants' names would cross the network in "
                "clear, and whoever reaches the port would pass by the routers' limits: set all three, or set "
                "HTTP_HOST to a loopback address"
            )
        if self.advertised_url is not None and all(files) and not self.advertised_url.startswith("https://"):
            raise ValueError("ADVERTISED_URL must be an https URL where TLS_CERT_FILE is set")
        return self

    @property
    def scheme(self) -> str:
        """`https` with a certificate, `http` without."""
        return "http" if self.tls_cert_file is None else "https"

    @property
    def enclave_address(self) -> Address:
        """Where the host link to the enclave is opened."""
        if self.enclave_proxy_address == "none":
            return VsockAddress(self.enclave_cid, self.enclave_port)
        return self.enclave_proxy_address
