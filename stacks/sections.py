"""The sections of a stack's configuration, each with its bounds."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Final, Literal, Self

import pulumi_aws as aws
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from components.addressing import ZONES

PCR_HEX_DIGITS: Final = 96
"""SHA-384: 48 bytes."""
MAX_REGIONS: Final = 4
"""Four /18 fill the cluster's /16."""
MAX_DIAL: Final = 100
MAX_WEIGHT: Final = 255
ALL_PERCENT: Final = 100
LEVEL_2: Final = 2
ACCELERATOR_REGION: Final = "us-west-2"
"""Global Accelerator's API, metrics and alarms live here alone (its developer guide, "Service endpoints")."""
STRONG_REPLICAS: Final = 3
"""Strongly consistent DynamoDB global tables (MRSC) have exactly three replicas, all of one region set."""
MEASURED_ENVIRONMENTS: Final = ("staging", "prod")
"""Where a debug enclave, whose PCRs are all zero, is refused."""


ACCOUNT: Final = r"^[0-9]{12}$"
_AMI: Final = r"^ami-[0-9a-f]{8,17}$"
_DNS: Final = r"^([a-z0-9-]+\.)+[a-z]{2,}$"
EMAIL: Final = r"^[^@\s]+@[^@\s]+\.[a-z]{2,}$"
_INSTANCE_TYPE: Final = r"^[a-z0-9-]+\.[a-z0-9]+$"
_POOL: Final = r"^[a-z0-9][a-z0-9-]{0,62}$"
_PRINCIPAL: Final = r"^arn:aws:iam::[0-9]{12}:.+$"
_RESERVATION: Final = r"^cr-[0-9a-f]{8,17}$"
_SHA256: Final = r"^[0-9a-f]{64}$"
_VERSION: Final = r"^[0-9]+\.[0-9]+\.[0-9]+$"
WORDS: Final = {
    ACCOUNT: "an account is twelve digits in quotes",
    _AMI: "an AMI's id is expected, such as ami-0123456789abcdef0",
    _DNS: "a DNS name is expected, such as inference.example.com",
    EMAIL: "an e-mail address is expected",
    _INSTANCE_TYPE: "an instance type is expected, such as g6e.2xlarge",
    _POOL: "a model pool is up to 63 lower-case letters, digits and hyphens",
    _PRINCIPAL: "the ARN of an account, a user or a role is expected",
    _RESERVATION: "a capacity reservation's id is expected, such as cr-0123456789abcdef0",
    _SHA256: "64 hex digits in lower case are expected",
    _VERSION: "a version is three numbers, such as 0.1.0",
}
"""What each pattern is called in a sentence."""


def _pcr(value: str) -> str:
    if not re.fullmatch(rf"[0-9a-fA-F]{{{PCR_HEX_DIGITS}}}", value, re.ASCII):
        raise ValueError(f"a PCR is {PCR_HEX_DIGITS} hex digits (SHA-384), and this has {len(value)} characters")
    return value.lower()


Pcr = Annotated[str, AfterValidator(_pcr)]
OTHER_PARTITIONS: Final = ("cn-", "us-gov-", "us-iso", "eu-isoe-", "eusc-")
"""Regions that are not of the partition `aws`, which every ARN here names."""
REGIONS: Final = frozenset(one.value for one in aws.Region if not one.value.startswith(OTHER_PARTITIONS))
"""Regions that the AWS provider knows."""


def _region(value: str) -> str:
    if value not in REGIONS:
        near = difflib.get_close_matches(value, sorted(REGIONS), n=1)
        raise ValueError(f"an AWS region's name is expected, such as {near[0] if near else ACCELERATOR_REGION}")
    return value


RegionName = Annotated[str, AfterValidator(_region)]
Digest = r"^[a-z0-9][a-z0-9._/-]*@sha256:[0-9a-f]{64}$"


def _image(value: str) -> str:
    if not re.fullmatch(Digest, value, re.ASCII):
        raise ValueError("an image is named by its digest, as in mrgc/router@sha256:<64 hex digits>, never by a tag")
    return value


Image = Annotated[str, AfterValidator(_image)]
Ami = Annotated[str, StringConstraints(pattern=_AMI)]
Sha256 = Annotated[str, StringConstraints(pattern=_SHA256)]


class Section(BaseModel):
    """A part of the configuration: frozen, and a key that is no field is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


class RegionSettings(Section):
    """One region: where it is, its /18, its three zones, its transit gateway's ASN."""

    name: RegionName
    cidr: str
    zones: tuple[str, ...] = Field(min_length=ZONES, max_length=ZONES, description="three availability zones")
    asn: int = Field(ge=64512, le=65534, description="a private 16-bit ASN, 64512 to 65534, its own in every region")

    @model_validator(mode="after")
    def _zones_belong(self) -> Self:
        for zone in self.zones:
            if not zone.startswith(self.name):
                raise ValueError(f"zone {zone!r} is not one of {self.name}")
        if len(set(self.zones)) != len(self.zones):
            raise ValueError("the three zones must differ")
        return self


class Measurements(Section):
    """What `measurements.json` of the enclave image says; `eif_version` is the image's version (a SemVer).

    `attestable_amis`: machine images, by UEFI and with NitroTPM, whose measurements the enclave image holds
    (`host_measurements.json`). Hosts of level 2 run no other.
    """

    eif_version: str = Field(pattern=_VERSION)
    pcr0: Pcr
    pcr1: Pcr
    pcr2: Pcr
    pcr8: Pcr | None = None
    attestable_amis: tuple[Ami, ...] = ()

    def registers(self) -> dict[int, str]:
        """PCR index to 96 hex digits in lower case."""
        found = {0: self.pcr0, 1: self.pcr1, 2: self.pcr2}
        return found if self.pcr8 is None else {**found, 8: self.pcr8}


class Images(Section):
    """Container images by digest, each in the region's own registry: `repository@sha256:...`."""

    router: Image
    control: Image
    collector: Image


class Artefacts(Section):
    """What hosts of level 1 fetch from the model bucket, by SHA-256; `version` is the wheel's."""

    eif_sha256: Sha256
    wheel_sha256: Sha256
    version: Annotated[str, StringConstraints(pattern=_VERSION)]


class Fleet(Section):
    """The GPU hosts of every region."""

    instance_type: str = Field(default="g6e.2xlarge", pattern=_INSTANCE_TYPE)
    min: int = Field(default=2, ge=1, le=20)
    max: int = Field(default=20, ge=1, le=20)
    amis: dict[RegionName, Ami]
    assurance_level: Literal[1, 2] = 1
    artefacts: Artefacts | None = None
    default_model_pool: Annotated[str, StringConstraints(pattern=_POOL)] = "default"
    enclave_memory_mib: int = Field(default=4096, ge=512, le=65536)
    enclave_cpus: int = Field(default=2, ge=2, le=64, multiple_of=2)
    on_demand_base: int = Field(default=2, ge=0, le=20, description="on-demand hosts before spot is used")
    on_demand_percent: int = Field(
        default=100, ge=0, le=100, description="of the hosts above the base; the rest are spot"
    )
    reservations: dict[RegionName, Annotated[str, StringConstraints(pattern=_RESERVATION)]] = {}
    """Capacity reservations by region: hosts start in them first."""

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min is {self.min} and max {self.max}; min must not be above max")
        if (self.artefacts is None) != (self.assurance_level == LEVEL_2):
            raise ValueError(
                "artefacts are given at assurance level 2, whose measured image holds everything; take them out"
                if self.artefacts
                else "artefacts are not set; hosts of assurance level 1 fetch them, so say which by their SHA-256"
            )
        if self.reservations and self.on_demand_percent < ALL_PERCENT:
            raise ValueError("reservations are for on-demand hosts; set on_demand_percent to 100")
        return self


class Router(Section):
    """The router service of every region: Fargate CPU units and MiB, and tasks."""

    cpu: Literal[1024, 2048, 4096, 8192] = 2048
    memory_mib: int = Field(default=4096, ge=2048, le=61440, multiple_of=1024)
    min: int = Field(default=3, ge=1, le=100)
    max: int = Field(default=12, ge=1, le=100)

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min is {self.min} and max {self.max}; min must not be above max")
        return self


class Endpoint(Section):
    """The load balancer of every region and the PrivateLink service in front of it."""

    alternate_port: bool = Field(default=True, description="listen on 8080 too")
    allowed_principals: tuple[Annotated[str, StringConstraints(pattern=_PRINCIPAL)], ...] = ()
    private_dns_name: Annotated[str, StringConstraints(pattern=_DNS)] | None = None


class AcceleratorSettings(Section):
    """Global Accelerator: what share of traffic each region's group takes, and each load balancer's weight."""

    alternate_port: bool = False
    dials: dict[RegionName, Annotated[int, Field(ge=0, le=MAX_DIAL)]] = {}
    weights: dict[RegionName, Annotated[int, Field(ge=0, le=MAX_WEIGHT)]] = {}


class Models(Section):
    """The model store of every region. Lustre capacity in GiB, throughput in MB/s for each TiB, backups in days."""

    capacity_gib: int = Field(default=1200, ge=1200, le=100_800)
    throughput: Literal[125, 250, 500, 1000] = 250
    backup_days: int = Field(default=7, ge=0, le=90)

    @field_validator("capacity_gib")
    @classmethod
    def _step(cls, value: int) -> int:
        if value != 1200 and value % 2400:  # noqa: PLR2004 - FSx's own rule: 1200, 2400, then steps of 2400
            raise ValueError("Lustre comes as 1200 GiB, 2400 GiB, or steps of 2400 GiB")
        return value
