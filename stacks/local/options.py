"""What a local cluster is asked to be, checked before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

REGIONS = ("us-east-1", "us-east-2", "us-west-2")
"""The platform's three regions, in the order in which a smaller cluster takes them."""

DEFAULT_DIRECTORY = Path(".mrgc/local")
DEFAULT_PORT = 8443
MAX_HOSTS = 8
"""Hosts a region: four processes each, and a person's machine has few cores."""

Engine = Literal["vllm", "synthetic"]

MODEL_POOL = "tiny"
TAMPERED_POOL = "tampered"
"""The pool that only the host with the wrong measurement serves, so that a request can be sent to it on purpose."""


class ClusterOptions(BaseModel):
    """The options of `mrgc local up`.

    `tampered` adds a host in the first region whose enclave measures otherwise than the key policies say; `tap` puts a
    recording relay between each router of the first region and its hosts (`stacks.local.demo.tap`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    directory: Path
    regions: int = Field(default=3, ge=1, le=len(REGIONS))
    hosts: int = Field(default=2, ge=1, le=MAX_HOSTS)
    engine: Engine = "vllm"
    port: int = Field(default=DEFAULT_PORT, ge=1, le=65_535)
    tampered: bool = False
    tap: bool = False
    health_interval_s: float = Field(default=5.0, gt=0)

    @property
    def region_names(self) -> tuple[str, ...]:
        """The regions that this cluster has."""
        return REGIONS[: self.regions]
