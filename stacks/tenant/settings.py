"""A tenant's configuration, parsed whole before anything is planned.

Every key of `Pulumi.<stack>.yaml` under `mrgc-tenant:` is a field of `TenantSettings`. A wrong value stops the program
with a sentence that names the key and what was expected.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self

import pulumi
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

PROJECT: Final = "mrgc-tenant"
PCR_HEX_DIGITS: Final = 96
REQUIRED: Final = (0, 1, 2)
SIGNED: Final = 8
"""PCR8 measures the certificate that signed an image."""
STRUCTURED: Final = ("platform_role_arns", "replica_regions", "measurements_files")

RegionName = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]$")]
PrincipalArn = Annotated[str, StringConstraints(pattern=r"^arn:aws:iam::[0-9]{12}:(root|(user|role)/[\w+=,.@/-]+)$")]
RoleArn = Annotated[str, StringConstraints(pattern=r"^arn:aws:iam::[0-9]{12}:role/[\w+=,.@/-]+$")]

Measurement = dict[int, str]


class TenantSettingsError(Exception):
    """Configuration that makes no tenant's key: one sentence a wrong value."""


class TenantSettings(BaseModel):
    """One tenant's key. `account` is the tenant's own; `environment` the platform's that it is for."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    tenant_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    account: Annotated[str, StringConstraints(pattern=r"^[0-9]{12}$")]
    environment: Annotated[str, StringConstraints(pattern=r"^(dev|staging|prod)$")]
    admin_arn: PrincipalArn
    user_arn: PrincipalArn
    platform_role_arns: tuple[RoleArn, ...] = Field(min_length=1)
    home: RegionName
    replica_regions: tuple[RegionName, ...] = ()
    measurements_files: tuple[str, ...] = Field(min_length=1)

    @property
    def regions(self) -> tuple[str, ...]:
        """Home first, then the replicas'."""
        return (self.home, *self.replica_regions)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        for key, arn in (("admin_arn", self.admin_arn), ("user_arn", self.user_arn)):
            if account_of(arn) != self.account:
                raise ValueError(f"{key}: {arn} is not of your account {self.account}; name a principal of your own")
        for arn in self.platform_role_arns:
            if account_of(arn) == self.account:
                raise ValueError(
                    f"platform_role_arns: {arn} is of your own account; whoever runs the platform there could change "
                    "the key's policy, so keep the key in an account that the platform has no part in"
                )
        if len(set(self.regions)) != len(self.regions):
            raise ValueError("replica_regions: a region is named twice, or is the home region; name each once")
        return self


def account_of(arn: str) -> str:
    """The account of an IAM ARN, twelve digits."""
    return arn.split(":")[4]


def load(config: pulumi.Config | None = None) -> TenantSettings:
    """Settings of the stack that runs. Raises TenantSettingsError."""
    config = config or pulumi.Config(PROJECT)
    values: dict[str, Any] = {}
    for key in TenantSettings.model_fields:
        if config.get(key) is None:
            continue
        try:
            values[key] = config.get_object(key) if key in STRUCTURED else config.get(key)
        except pulumi.ConfigTypeError:
            raise TenantSettingsError(f"{PROJECT}:{key} is not valid JSON or YAML; give a list.") from None
    return parse(values)


def parse(values: Mapping[str, Any]) -> TenantSettings:
    """Settings of plain values by key. Raises TenantSettingsError with a sentence for every wrong value."""
    try:
        return TenantSettings.model_validate(dict(values))
    except ValidationError as error:
        raise TenantSettingsError("\n".join(_sentence(problem) for problem in error.errors())) from None


def read_measurements(path: Path) -> Measurement:
    """The registers of one image from the `measurements.json` of its build: `{"PCR0": hex, ...}`.

    PCR0, PCR1 and PCR2 must be there; PCR8 counts where the image is signed. Raises TenantSettingsError.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TenantSettingsError(f"{PROJECT}:measurements_files: {path} can't be read ({error.strerror}).") from None
    except ValueError:
        raise TenantSettingsError(f"{PROJECT}:measurements_files: {path} is not JSON.") from None
    if not isinstance(document, dict):
        raise TenantSettingsError(f"{PROJECT}:measurements_files: {path} holds no object of registers.")
    found = {index: document[f"PCR{index}"] for index in (*REQUIRED, SIGNED) if f"PCR{index}" in document}
    for index in REQUIRED:
        if index not in found:
            raise TenantSettingsError(f"{PROJECT}:measurements_files: {path} has no PCR{index}.")
    for index, value in found.items():
        if not isinstance(value, str) or not re.fullmatch(rf"[0-9a-fA-F]{{{PCR_HEX_DIGITS}}}", value, re.ASCII):
            raise TenantSettingsError(
                f"{PROJECT}:measurements_files: PCR{index} of {path} is not {PCR_HEX_DIGITS} hex digits (SHA-384)."
            )
        if index in REQUIRED and not value.strip("0"):
            raise TenantSettingsError(
                f"{PROJECT}:measurements_files: PCR{index} of {path} is all zero, which is a debug enclave's: "
                "its host can read its memory."
            )
    return {index: value.lower() for index, value in found.items()}


def _sentence(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ").rstrip(".")
    if not key:
        return f"{PROJECT}:{message}."
    if problem["type"] == "missing":
        return f"{PROJECT}:{key} is not set; it is required."
    if problem["type"] == "string_pattern_mismatch":
        return f"{PROJECT}:{key} is {problem['input']!r}; {_EXPECTED[str(problem['loc'][0])]} was expected."
    return f"{PROJECT}:{key}: {message[0].lower()}{message[1:]}."


_EXPECTED: Final = {
    "tenant_id": "1 to 64 letters, digits, dots, dashes or underscores",
    "account": "an account number of twelve digits",
    "environment": "dev, staging or prod",
    "admin_arn": "the ARN of your account's root, of a user or of a role",
    "user_arn": "the ARN of your account's root, of a user or of a role",
    "platform_role_arns": "the ARN of a role",
    "home": "a region's name, such as us-east-1",
    "replica_regions": "a region's name, such as us-east-1",
}
