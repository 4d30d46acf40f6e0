"""What a tenant must know about its cluster, from options and environment or from a local stack's `cluster.json`."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

from dataplane.log.pin import LogPin
from dataplane.mesh.tls import client_context
from dataplane.protocol.errors import SettingsError
from dataplane.tenant.attest import load_root
from dataplane.tenant.client import HOST_VISIBLE, TenantClient, wall_clock_ms
from dataplane.tenant.documents import DocumentSource
from dataplane.tenant.measurements import parse_measurements
from dataplane.tenant.pins import Pins, pcr0s_of
from dataplane.tenant.session import KmsSession, kms_client
from dataplane.tenant.transparency import LogGuard, cluster_pin
from observability.tracing import EXPORT_TIMEOUT_S, Telemetry

MOCK = 0
"""The assurance of a local stack: its software NSM proves nothing."""
MAX_FILE_BYTES = 1 << 20
"""Longest settings file: a cluster.json of three regions is about 3 KiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantConfig:
    """One tenant of one cluster. `aws_*` are given for a local stack only; else boto3 finds credentials itself."""

    endpoint: str
    tenant: str
    key_arn: str
    api_key: str = field(repr=False)
    ca_file: Path | None = None
    model: str | None = None
    assurance: int = HOST_VISIBLE
    pad: int = 0
    affinity_secret: bytes | None = field(default=None, repr=False)
    aws_endpoint_url: str | None = None
    aws_access_key_id: str | None = field(default=None, repr=False)
    aws_secret_access_key: str | None = field(default=None, repr=False)
    otlp_endpoint: str | None = None
    attestation_root: Path | None = None
    measurements: tuple[Mapping[int, bytes], ...] = ()
    pins: Pins = field(default_factory=Pins)
    log: LogPin | None = None

    def changed(self, **fields: Any) -> TenantConfig:
        """The same with other values for some fields."""
        return replace(self, **fields)

    def tls(self) -> ssl.SSLContext | None:
        """The TLS context for the endpoint; None for http, which only loopback may be."""
        return None if self.endpoint.startswith("http://") else client_context(self.ca_file)

    def telemetry(self) -> Telemetry:
        """Spans to the cluster's collector, or to where the standard variables say."""
        if self.otlp_endpoint is None:
            return Telemetry.from_environment("tenant")
        exporter = OTLPSpanExporter(endpoint=f"{self.otlp_endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_TIMEOUT_S)
        return Telemetry.exporting("tenant", exporter)

    def pinned(self) -> Pins:
        """The pins; where none names a PCR0, the published measurements do, if there are any."""
        return self.pins if self.pins.pcr0s else replace(self.pins, pcr0s=pcr0s_of(self.measurements))

    def documents(self) -> DocumentSource:
        """Where the documents of this cluster's enclaves come from; `SettingsError` for a root that is none."""
        return DocumentSource(
            endpoint=self.endpoint,
            tls=self.tls(),
            credentials={"Authorization": f"Bearer {self.api_key}", "X-Tenant-ID": self.tenant},
            roots=None if self.attestation_root is None else [load_root(self.attestation_root)],
        )

    def client(self, telemetry: Telemetry, *, disclose: bool = False) -> TenantClient:
        """A client with a session of its own; open it with `async with`. `disclose` is `TenantClient`'s."""
        kms = kms_client(
            self.key_arn,
            endpoint_url=self.aws_endpoint_url,
            access_key_id=self.aws_access_key_id,
            secret_access_key=self.aws_secret_access_key,
        )
        session = KmsSession(
            tenant=self.tenant,
            key_arn=self.key_arn,
            kms=kms,
            clock_ms=wall_clock_ms,
            monotonic=time.monotonic,
            telemetry=telemetry,
        )
        return TenantClient(
            endpoint=self.endpoint,
            tls=self.tls(),
            api_key=self.api_key,
            session=session,
            telemetry=telemetry,
            assurance=self.assurance,
            pad=self.pad,
            affinity_secret=self.affinity_secret,
            pins=self.pinned(),
            disclose=disclose,
            log=None if self.log is None else LogGuard.of(self.log, self.measurements),
        )


def load_cluster(path: Path, tenant: str | None = None) -> TenantConfig:
    """Read a local stack's `cluster.json` for `tenant` (its first when None).

    Raises SettingsError naming the file and what is missing from it.
    """
    document = _load_json(path)
    try:
        tenants = {str(entry["id"]): entry for entry in document["tenants"]}
        name = next(iter(tenants)) if tenant is None else tenant
        if name not in tenants:
            raise SettingsError(f"{path} has no tenant {name!r}; it has {', '.join(tenants)}.")
        entry = tenants[name]
        return TenantConfig(
            endpoint=str(document["endpoint"]),
            tenant=name,
            key_arn=str(entry["kms_key_arn"]),
            api_key=str(entry["api_key"]),
            ca_file=_beside(path, document["ca_file"]),
            model=str(document["model"]),
            assurance=MOCK,
            aws_endpoint_url=str(document["aws_endpoint_url"]),
            aws_access_key_id=str(entry["aws_access_key_id"]),
            aws_secret_access_key=str(entry["aws_secret_access_key"]),
            otlp_endpoint=_text(document.get("otlp_endpoint")),
            attestation_root=_beside(path, document["attestation_root"]),
            measurements=(parse_measurements(document["pcrs"], source=str(path)),),
            log=cluster_pin(document.get("log"), path),
        )
    except StopIteration:
        raise SettingsError(f"{path} lists no tenant; start the local stack again.") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"{path} is not the cluster.json of a local stack (at {error}); give the file that `mrgc local up` wrote."
        ) from None


def read_secret(path: Path, what: str) -> str:
    """A secret from a file, without surrounding white space; SettingsError when there is none to read."""
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read for {what} ({_why(error)}); name a readable text file.") from None
    if not secret:
        raise SettingsError(f"{path} is empty; put {what} into it.")
    return secret


def load_measurements(path: Path) -> tuple[Mapping[int, bytes], ...]:
    """The allowed measurements of a `measurements.json`; SettingsError when it has none."""
    document = _load_json(path)
    entries = document if isinstance(document, list) else [document]
    return tuple(parse_measurements(entry, source=str(path)) for entry in entries)


def _load_json(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise SettingsError(f"{path} is over {MAX_FILE_BYTES} bytes; name the right file.")
        return json.loads(data)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({_why(error)}); name the right file.") from None
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path} cannot be read as JSON ({_why(error)}); name the right file.") from None


def _beside(path: Path, name: object) -> Path:
    """A file named in `path`: as it stands when absolute, else beside `path`."""
    return path.parent / str(name)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
