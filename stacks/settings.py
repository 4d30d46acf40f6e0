"""A stack's configuration, parsed whole before anything is planned.

Every key of `Pulumi.<stack>.yaml` under `mrgc:` is a field of `Settings`. A wrong value stops the program with a
sentence that names the key, the value and what was expected. Nothing here talks to AWS or to the engine, but
`load`, which reads `pulumi.Config`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

import pulumi
from pydantic import (
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from components.addressing import AddressingError, RegionPlan, plan_cluster
from components.global_state import GlobalStateError, check_regions
from components.mesh_routes import MeshError, routes
from components.placement import PROJECT
from dataplane.protocol.attestation.key_policy import REQUIRED_PCRS
from stacks.sections import (
    ACCELERATOR_REGION,
    ACCOUNT,
    EMAIL,
    LEVEL_2,
    MAX_REGIONS,
    MEASURED_ENVIRONMENTS,
    STRONG_REPLICAS,
    WORDS,
    AcceleratorSettings,
    Endpoint,
    Fleet,
    Images,
    Measurements,
    Models,
    RegionName,
    RegionSettings,
    Router,
    Section,
)

TEXT_KEYS: Final = frozenset({"environment", "account", "alarm_email"})
"""Keys whose value is text as it stands; the engine hands every other over as JSON. An account is digits, and text."""


class SettingsError(Exception):
    """Configuration that makes no platform: one sentence a wrong value."""


class Settings(Section):
    """One stack's configuration."""

    environment: Literal["dev", "staging", "prod"]
    account: Annotated[str, StringConstraints(pattern=ACCOUNT)]
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
    earlier_measurements: tuple[Measurements, ...] = Field(
        default=(), max_length=7, description="images that may still run during a roll-out"
    )
    images: Images
    fleet: Fleet
    router: Router = Router()
    endpoint: Endpoint = Endpoint()
    accelerator: AcceleratorSettings = AcceleratorSettings()
    models: Models = Models()
    control_loops: bool = Field(default=False, description="run the control loops; their image must have the programs")
    lost_peerings: tuple[tuple[RegionName, RegionName], ...] = ()
    deletion_protection: bool = Field(
        default=True, description="tables refuse deletion; false, in its own update, before a stack is taken down"
    )
    session_manager: bool = Field(default=False, description="Session Manager endpoints; not at assurance level 2")
    log_days: Literal[90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827] = 90
    alarm_email: Annotated[str, StringConstraints(pattern=EMAIL)] | None = None

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
        if ACCELERATOR_REGION not in names:
            raise ValueError(f"regions: {ACCELERATOR_REGION} is not among them; Global Accelerator is run from there")
        self._zero_pcrs()
        if self.accelerator.alternate_port and not self.endpoint.alternate_port:
            raise ValueError("accelerator.alternate_port: the load balancers do not listen on 8080; set endpoint's too")
        if self.fleet.assurance_level == LEVEL_2 and self.session_manager:
            raise ValueError("session_manager: a host that can be logged into is not at assurance level 2; set false")
        self._hosts_attest()
        return self

    def _hosts_attest(self) -> None:
        """At level 2 every region's AMI is one that the published enclave can tell; an AMI's id alone says nothing."""
        if self.fleet.assurance_level != LEVEL_2:
            return
        for region, ami in self.fleet.amis.items():
            if ami not in self.measurements.attestable_amis:
                raise ValueError(
                    f"fleet.amis: {ami} of {region} is not one of measurements.attestable_amis, so the enclave would "
                    "not take its host for attested; build the enclave with its measurements, or claim level 1"
                )

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
        try:
            check_regions(self.home.name, names, self.strong_regions)
        except GlobalStateError as error:
            raise ValueError(f"strong_regions: {error}") from None
        try:
            routes({name: plan.block for name, plan in self.plans().items()}, self.lost_peerings)
        except MeshError as error:
            raise ValueError(f"lost_peerings: {error}") from None

    def _zero_pcrs(self) -> None:
        if self.environment not in MEASURED_ENVIRONMENTS:
            return
        images = (
            ("measurements", self.measurements),
            *(("earlier_measurements", one) for one in self.earlier_measurements),
        )
        for key, index, value in ((key, *one) for key, image in images for one in image.registers().items()):
            # A zero PCR8 is an image that nobody signed.
            if index in REQUIRED_PCRS and not value.strip("0"):
                raise ValueError(
                    f"{key}.pcr{index}: all zero is a debug enclave, whose memory its host can read; "
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
    # What is wrong may be the name of an entry, such as a region's, and not its value.
    wrong_key = path[-2] if path and path[-1] == "[key]" else None
    if wrong_key is not None:
        path = path[:-2]
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
        message = WORDS[problem["ctx"]["pattern"]]
    message = message.removeprefix("Input should be ")
    value: Any = values
    for part in path:
        value = value[part]
    verb = "is"
    if wrong_key is not None:
        value, verb = wrong_key, "names"
    # A section's own text would drown the sentence, which names what is wrong with it.
    shown = "" if isinstance(value, Mapping | list) else f" {verb} {value!r}"
    return f"{key}{shown}: {message[0].lower()}{message[1:]}."
