"""What the accelerator emulator reads: one JSON file, written by the orchestrator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dataplane.protocol.errors import SettingsError
from stacks.local.accelerator.health import MIN_INTERVAL_S, MIN_THRESHOLD, MIN_TIMEOUT_S
from stacks.local.accelerator.rules import DEFAULT_WEIGHT, MAX_DIAL, MAX_WEIGHT

DEFAULT_LATENCY_MS: dict[str, dict[str, float]] = {
    "us-east-1": {"us-east-1": 1, "us-east-2": 14, "us-west-2": 66},
    "us-east-2": {"us-east-1": 14, "us-east-2": 1, "us-west-2": 56},
    "us-west-2": {"us-east-1": 66, "us-east-2": 56, "us-west-2": 1},
}
"""Round trips between a client's place and a region, in ms, to the order of magnitude: only their order counts."""

Port = Annotated[int, Field(ge=1, le=65_535)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EndpointSettings(_Model):
    """A region's load balancer: where its router's TLS port is, and where its health check goes."""

    name: str
    host: str = "127.0.0.1"
    port: Port
    health_url: str
    weight: int = Field(default=DEFAULT_WEIGHT, ge=0, le=MAX_WEIGHT)


class GroupSettings(_Model):
    """An endpoint group."""

    region: str
    dial: float = Field(default=MAX_DIAL, ge=0, le=MAX_DIAL)
    endpoints: tuple[EndpointSettings, ...]


class HealthSettings(_Model):
    """The balancer's health check; times in seconds."""

    interval_s: float = Field(default=MIN_INTERVAL_S, gt=0)
    timeout_s: float = Field(default=MIN_TIMEOUT_S, gt=0)
    healthy_threshold: int = Field(default=MIN_THRESHOLD, ge=1)
    unhealthy_threshold: int = Field(default=MIN_THRESHOLD, ge=1)


class AcceleratorSettings(_Model):
    """The whole accelerator.

    `clients` maps a client's source address to its place, a key of `latency_ms`; everybody else is at
    `default_place`. On loopback a client chooses its place by binding to 127.0.0.2 and the like.
    """

    listen_host: str = "127.0.0.1"
    listen_port: Port
    admin_host: str = "127.0.0.1"
    admin_port: Port
    groups: tuple[GroupSettings, ...] = Field(min_length=1)
    health: HealthSettings = HealthSettings()
    latency_ms: dict[str, dict[str, float]] = DEFAULT_LATENCY_MS
    clients: dict[str, str] = Field(default_factory=dict)
    default_place: str = "us-east-1"
    connect_timeout_s: float = Field(default=3.0, gt=0)
    cut_unhealthy: bool = Field(
        default=False,
        description="end connections when their target turns unhealthy, as a target group does unless its attribute "
        "target_health_state.unhealthy.connection_termination.enabled is false; it would also cut a draining router",
    )


def read_settings(path: Path) -> AcceleratorSettings:
    """Read the file; raises `SettingsError` naming it and every fault."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The accelerator's settings file {path} can't be read ({error}).") from error
    try:
        return AcceleratorSettings.model_validate_json(text)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'the file'}: {fault['msg']}"
            for fault in error.errors(include_url=False)
        )
        raise SettingsError(f"The accelerator's settings file {path} is wrong: {faults}.") from error
