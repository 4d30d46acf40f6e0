"""The embedded AWS's settings, from its environment."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from dataplane.mesh.settings import Port, SidecarSettings
from stacks.local.aws.principals import DEFAULT_LIFETIME_S


class AwsSettings(SidecarSettings):
    """Ports, files, and how long temporary credentials last."""

    aws_http_host: str = Field("127.0.0.1", description="an address to listen on")
    aws_http_port: Port = Field(4566, description="a port for HTTP: every service")
    aws_https_port: Port | None = Field(None, description="a port for HTTPS: the same services")
    tls_cert_file: Path | None = Field(None, description="a certificate chain in PEM, with AWS_HTTPS_PORT")
    tls_key_file: Path | None = Field(None, description="the certificate's key in PEM, with AWS_HTTPS_PORT")
    principals_file: Path = Field(description="a JSON file of access keys and the role's ARN")
    nsm_root_file: Path = Field(description="the root of attestation documents in PEM")
    spans_file: Path | None = Field(None, description="a file to append spans to, one JSON object a line")
    role_lifetime_s: float = Field(
        DEFAULT_LIFETIME_S, gt=0, le=43_200, description="seconds that the role's credentials last"
    )

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if self.aws_https_port is not None and (self.tls_cert_file is None or self.tls_key_file is None):
            raise ValueError("AWS_HTTPS_PORT needs TLS_CERT_FILE and TLS_KEY_FILE")
        return self
