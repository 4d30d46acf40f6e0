"""A stack's configuration, parsed whole before anything is planned.

Every key of `Pulumi.<stack>.yaml` under `mrgc:` is a field of `Settings`. A wrong value stops the program with a
sentence that names the key, the value and what was expected. Nothing here talks to AWS or to the engine, but
`load`, which reads `pulumi.Config`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

import pulumi
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from components.addressing import ZONES, AddressingError, RegionPlan, plan_cluster
from components.placement import PROJECT

PCR_HEX_DIGITS: Final = 96
"""SHA-384: 48 bytes."""
MAX_REGIONS: Final = 4
"""Four /18 fill the cluster's /16."""
MAX_DIAL: Final = 100
MAX_WEIGHT: Final = 255
STRONG_REPLICAS: Final = 3
"""Strongly consistent DynamoDB global tables (MRSC) have exactly three replicas, all of one region set."""
TEXT_KEYS: Final = frozenset({"environment", "account", "alarm_email"})
"""Keys whose value is text as it stands; the engine hands every other over as JSON. An account is digits, and text."""
MEASURED_ENVIRONMENTS: Final = ("staging", "prod")
"""Where a debug enclave, whose PCRs are all zero, is refused."""


_ACCOUNT: Final = r"^[0-9]{12}$"
_AMI: Final = r"^ami-[0-9a-f]{8,17}$"
_DNS: Final = r"^([a-z0-9-]+\.)+[a-z]{2,}$"
_EMAIL: Final = r"^[^@\s]+@[^@\s]+\.[a-z]{2,}$"
_INSTANCE_TYPE: Final = r"^[a-z0-9-]+\.[a-z0-9]+$"
_PRINCIPAL: Final = r"^arn:aws:iam::[0-9]{12}:.+$"
_REGION: Final = r"^[a-z]{2}(-[a-z]+)+-[0-9]$"
_RESERVATION: Final = r"^cr-[0-9a-f]{8,17}$"
_VERSION: Final = r"^[0-9]+\.[0-9]+\.[0-9]+$"
_WORDS: Final = {
    _ACCOUNT: "an account is twelve digits in quotes",
    _AMI: "an AMI's id is expected, such as ami-0123456789abcdef0",
    _DNS: "a DNS name is expected, such as inference.example.com",
    _EMAIL: "an e-mail address is expected",
    _INSTANCE_TYPE: "an instance type is expected, such as g6e.2xlarge",
    _PRINCIPAL: "the ARN of an account, a user or a role is expected",
    _REGION: "an AWS region's name is expected, such as us-east-1",
    _RESERVATION: "a capacity reservation's id is expected, such as cr-0123456789abcdef0",
    _VERSION: "a version is three numbers, such as 0.1.0",
}
"""What each pattern is called in a sentence."""


class SettingsError(Exception):
    """Configuration that makes no platform: one sentence a wrong value."""


def _pcr(value: str) -> str:
    if not re.fullmatch(rf"[0-9a-fA-F]{{{PCR_HEX_DIGITS}}}", value, re.ASCII):
        raise ValueError(f"a PCR is {PCR_HEX_DIGITS} hex digits (SHA-384), and this has {len(value)} characters")
    return value.lower()


Pcr = Annotated[str, AfterValidator(_pcr)]
RegionName = Annotated[str, StringConstraints(pattern=_REGION)]
Digest = r"^[a-z0-9][a-z0-9._/-]*@sha256:[0-9a-f]{64}$"


def _image(value: str) -> str:
    if not re.fullmatch(Digest, value, re.ASCII):
        raise ValueError("an image is named by its digest, as in mrgc/router@sha256:<64 hex digits>, never by a tag")
    return value


Image = Annotated[str, AfterValidator(_image)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


class RegionSettings(_Section):
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


class Measurements(_Section):
    """What `measurements.json` of the enclave image says; `eif_version` is the image's version (a SemVer)."""

    eif_version: str = Field(pattern=_VERSION)
    pcr0: Pcr
    pcr1: Pcr
    pcr2: Pcr
    pcr8: Pcr | None = None

    def registers(self) -> dict[int, str]:
        """PCR index to 96 hex digits in lower case."""
        found = {0: self.pcr0, 1: self.pcr1, 2: self.pcr2}
        return found if self.pcr8 is None else {**found, 8: self.pcr8}


class Images(_Section):
    """Container images by digest, each in the region's own registry: `repository@sha256:...`."""

    router: Image
    control: Image
    collector: Image


class Fleet(_Section):
    """The GPU hosts of every region."""

    instance_type: str = Field(default="g6e.2xlarge", pattern=_INSTANCE_TYPE)
    min: int = Field(default=2, ge=1, le=20)
    max: int = Field(default=20, ge=1, le=20)
    amis: dict[RegionName, Annotated[str, StringConstraints(pattern=_AMI)]]
    assurance_level: Literal[1, 2] = 1
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
        return self


class Router(_Section):
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


class Endpoint(_Section):
    """The load balancer of every region and the PrivateLink service in front of it."""

    alternate_port: bool = Field(default=True, description="listen on 8080 too")
    allowed_principals: tuple[Annotated[str, StringConstraints(pattern=_PRINCIPAL)], ...] = ()
    private_dns_name: Annotated[str, StringConstraints(pattern=_DNS)] | None = None


class AcceleratorSettings(_Section):
    """Global Accelerator: what share of traffic each region's group takes, and each load balancer's weight."""

    alternate_port: bool = False
    dials: dict[RegionName, Annotated[int, Field(ge=0, le=MAX_DIAL)]] = {}
    weights: dict[RegionName, Annotated[int, Field(ge=0, le=MAX_WEIGHT)]] = {}


class Models(_Section):
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


class Settings(_Section):
    """One stack's configuration."""

    environment: Literal["dev", "staging", "prod"]
    account: Annotated[str, StringConstraints(pattern=_ACCOUNT)]
    regions: tuple[RegionSettings, ...] = Field(min_length=STRONG_REPLICAS, max_length=MAX_REGIONS)
    data_regions: tuple[RegionName, ...] = Field(
        description="regions that hold data; a region leaves `regions` only after it has left this list"
    )
    strong_regions: tuple[RegionName, ...] = Field(
        min_length=STRONG_REPLICAS,
        max_length=STRONG_REPLICAS,
        description="the three regions of the strongly consistent tables",
    )
    measurements: Measurements
    images: Images
    fleet: Fleet
    router: Router = Router()
    endpoint: Endpoint = Endpoint()
    accelerator: AcceleratorSettings = AcceleratorSettings()
    models: Models = Models()
    lost_peerings: tuple[tuple[RegionName, RegionName], ...] = ()
    session_manager: bool = Field(default=False, description="Session Manager endpoints; not at assurance level 2")
    log_days: Literal[90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827] = 90
    alarm_email: Annotated[str, StringConstraints(pattern=_EMAIL)] | None = None

    @property
    def home(self) -> RegionSettings:
        """The first region: where what exists once is created."""
        return self.regions[0]

    @property
    def region_names(self) -> tuple[str, ...]:
        """Every region's name, home first."""
        return tuple(region.name for region in self.regions)

    def plans(self) -> dict[str, RegionPlan]:
        """Every region's addresses."""
        return plan_cluster({region.name: region.cidr for region in self.regions})

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = self.region_names
        if len(set(names)) != len(names):
            raise ValueError("regions: a region is named twice; name each once")
        try:
            self.plans()
        except AddressingError as error:
            raise ValueError(f"regions: {error}") from None
        asns = [region.asn for region in self.regions]
        if len(set(asns)) != len(asns):
            raise ValueError("regions: two regions have one ASN; give each its own, so that peering stays possible")
        self._regions_hold()
        self._zero_pcrs()
        if self.fleet.assurance_level == 2 and self.session_manager:  # noqa: PLR2004 - the level's own number
            raise ValueError("session_manager: a host that can be logged into is not at assurance level 2; set false")
        return self

    def _regions_hold(self) -> None:
        names = self.region_names
        for region in self.data_regions:
            if region not in names:
                raise ValueError(
                    f"regions: {region} is not among them, but data_regions says that it holds data; "
                    "move its data away, take it out of data_regions, and then out of regions"
                )
        mentioned: dict[str, list[str]] = {
            "strong_regions": list(self.strong_regions),
            "fleet.amis": list(self.fleet.amis),
            "fleet.reservations": list(self.fleet.reservations),
            "accelerator.dials": list(self.accelerator.dials),
            "accelerator.weights": list(self.accelerator.weights),
            "lost_peerings": list(itertools.chain.from_iterable(self.lost_peerings)),
        }
        for key, regions in mentioned.items():
            for region in regions:
                if region not in names:
                    raise ValueError(f"{key}: {region} is not one of the regions {', '.join(names)}")
        missing = [region for region in names if region not in self.fleet.amis]
        if missing:
            raise ValueError(f"fleet.amis: {missing[0]} has none; name an AMI for every region")
        if len({region.rsplit("-", 2)[0] for region in self.strong_regions}) != 1:
            raise ValueError(
                "strong_regions: strongly consistent tables stay within one region set, such as the us- ones"
            )
        for one, other in self.lost_peerings:
            if one == other:
                raise ValueError(f"lost_peerings: {one} is paired with itself")

    def _zero_pcrs(self) -> None:
        if self.environment not in MEASURED_ENVIRONMENTS:
            return
        for index, value in self.measurements.registers().items():
            if not value.strip("0"):
                raise ValueError(
                    f"measurements.pcr{index}: all zero is a debug enclave, whose memory its host can read; "
                    f"{self.environment} takes the PCRs of a production image"
                )


def parse(values: Mapping[str, Any]) -> Settings:
    """Settings of plain values by key. Raises SettingsError with a sentence for every wrong value."""
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        problems = error.errors()
        within = {problem["loc"][:depth] for problem in problems for depth in range(len(problem["loc"]))}
        # A list with a wrong entry is also reported as too short; the entry's own sentence is enough.
        told = [one for one in problems if not (one["type"] == "too_short" and one["loc"] in within)]
        raise SettingsError("\n".join(_sentence(values, problem) for problem in told)) from None


def load(config: pulumi.Config | None = None) -> Settings:
    """Settings of the stack that runs. Raises SettingsError."""
    config = config or pulumi.Config(PROJECT)
    values: dict[str, Any] = {}
    for key in Settings.model_fields:
        text = config.get(key)
        if text is None:
            continue
        try:
            values[key] = text if key in TEXT_KEYS else config.get_object(key)
        except pulumi.ConfigTypeError:
            raise SettingsError(f"{PROJECT}:{key} is {text!r}, which is not valid JSON or YAML.") from None
    return parse(values)


def _sentence(values: Mapping[str, Any], problem: Any) -> str:
    path = [part for part in problem["loc"] if part != "function-after[_pcr(), str]"]
    key = PROJECT + ":" + ".".join(str(part) for part in path)
    message = str(problem["msg"]).removeprefix("Value error, ").rstrip(".")
    if not path:
        return f"{PROJECT}:{message}."
    if problem["type"] == "missing":
        return f"{key} is not set; it is required."
    if problem["type"] == "extra_forbidden":
        return f"{key} is no setting; see stacks/settings.py for the names."
    if problem["type"] in {"too_short", "too_long"}:
        context = problem["ctx"]
        bound = f"at least {context['min_length']}" if "min_length" in context else f"at most {context['max_length']}"
        return f"{key} has {context['actual_length']}: {bound} are needed."
    if problem["type"] == "string_pattern_mismatch":
        message = _WORDS[problem["ctx"]["pattern"]]
    message = message.removeprefix("Input should be ")
    value: Any = values
    for part in path:
        value = value[part]
    # A section's own text would drown the sentence, which names what is wrong with it.
    shown = "" if isinstance(value, Mapping | list) else f" is {value!r}"
    return f"{key}{shown}: {message[0].lower()}{message[1:]}."
