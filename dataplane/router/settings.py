"""What the router reads from its environment."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from dataplane.mesh.address import is_loopback
from dataplane.mesh.settings import Port, SidecarSettings
from dataplane.registry.dynamodb import TABLE
from dataplane.router.crowd import MAX_STRANGERS
from dataplane.router.replay import BODY_IDLE_S, REPLAY_TOTAL_BYTES


class RouterSettings(SidecarSettings):
    """Every variable of `mrgc router`; docs/routing.md lists them with what they are for."""

    http_host: str = Field("0.0.0.0", description="address that tenants reach", min_length=1)  # noqa: S104 - an NLB's target
    http_port: Port = Field(8443, description="a port from 1 to 65535")
    tls_cert_file: Path | None = Field(None, description="PEM file of the certificate chain")
    tls_key_file: Path | None = Field(None, description="PEM file of the certificate's key")
    hosts_ca_file: Path | None = Field(None, description="PEM file of the authority of the hosts' certificates")
    hosts_cert_file: Path | None = Field(None, description="PEM file of the certificate shown to hosts")
    hosts_key_file: Path | None = Field(None, description="PEM file of that certificate's key")
    admin_host: str = Field("127.0.0.1", description="address for /health, /metrics, /hosts", min_length=1)
    admin_port: Port = Field(9090, description="a port from 1 to 65535")
    tenants_file: Path = Field(description="path of the JSON file of tenants")
    registry_table: str = Field(
        TABLE, pattern=r"^[A-Za-z0-9_.-]{3,255}$", description="name of the DynamoDB table of hosts"
    )
    registry_refresh_s: float = Field(1.0, ge=0.05, le=60, description="seconds from 0.05 to 60 between readings")
    max_in_flight: int = Field(4096, ge=1, le=100_000, description="requests at once, 1 to 100000")
    max_connections: int = Field(10_000, ge=1, le=1_000_000, description="connections at once, 1 to 1000000")
    max_strangers: int = Field(
        MAX_STRANGERS,
        ge=1,
        le=1_000_000,
        description="connections of one address that have shown no API key, 1 to 1000000",
    )
    max_attempts: int = Field(3, ge=1, le=10, description="hosts tried for one request, 1 to 10")
    replay_total_bytes: int = Field(
        REPLAY_TOTAL_BYTES, ge=0, description="bytes kept for retries by all requests together"
    )
    connect_timeout_s: float = Field(2.0, gt=0, le=60, description="seconds to connect to a host, over 0 to 60")
    first_byte_timeout_s: float = Field(60.0, gt=0, le=600, description="seconds to a host's first byte, to 600")
    stream_idle_s: float = Field(60.0, gt=0, le=600, description="seconds between two pieces of an answer, to 600")
    write_stall_s: float = Field(60.0, gt=0, le=600, description="seconds a tenant may take no bytes, to 600")
    body_idle_s: float = Field(BODY_IDLE_S, gt=0, le=600, description="seconds between two pieces of a body, to 600")
    drain_delay_s: float = Field(
        5.0, ge=0, le=300, description="seconds of serving on with health false, less than DRAIN_TIMEOUT_S"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("TLS_CERT_FILE and TLS_KEY_FILE come together: set both")
        if self.tls_cert_file is None and not is_loopback(self.http_host):
            raise ValueError(
                "without TLS_CERT_FILE and TLS_KEY_FILE API keys would cross the network in clear: "
                "set both, or set HTTP_HOST to a loopback address"
            )
        files = (self.hosts_ca_file, self.hosts_cert_file, self.hosts_key_file)
        if any(files) and not all(files):
            raise ValueError("HOSTS_CA_FILE, HOSTS_CERT_FILE and HOSTS_KEY_FILE come together: set all three or none")
        if self.drain_delay_s >= self.drain_timeout_s:
            raise ValueError("DRAIN_DELAY_S must be less than DRAIN_TIMEOUT_S, which bounds the whole drain")
        return self
