"""Configuration from the environment, parsed whole before anything binds.

A variable's name is the field's name in capitals. Every fault is reported at once, each naming the variable, the
value that it had and what was expected; a secret's value is never shown.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from dataplane.protocol.errors import SettingsError

EX_USAGE = 64
"""Exit status of a program that was configured wrongly (sysexits.h)."""

MAX_SHOWN_VALUE = 80
"""Longest value that an error repeats, in characters: enough to recognise a path or an address."""

DEFAULT_DRAIN_TIMEOUT_S = 30.0
"""Longest wait for requests in flight at SIGTERM; an NLB waits longer before it deregisters a target."""

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
Port = Annotated[int, Field(ge=1, le=65_535)]

S = TypeVar("S", bound="SidecarSettings")


class SidecarSettings(BaseSettings):
    """What every sidecar reads; each sidecar adds its own fields."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True, hide_input_in_errors=True)

    log_level: LogLevel = Field("INFO", description="one of DEBUG, INFO, WARNING, ERROR")
    mrgc_region: str = Field("us-east-1", pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]$", description="an AWS region")
    instance_id: str = Field(
        "i-00000000000000000",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,62}$",
        description="this host's instance id",
    )
    drain_timeout_s: float = Field(
        DEFAULT_DRAIN_TIMEOUT_S,
        gt=0,
        le=600,
        description="seconds from 0 to 600 for requests in flight at SIGTERM",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read keyword arguments only: `load_settings` passes in exactly the environment that it was given."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


def load_settings(cls: type[S], environ: Mapping[str, str] | None = None) -> S:
    """Parse `environ` (the process's own by default) into `cls`.

    An empty variable counts as unset. Raises `SettingsError` with one line per fault.
    """
    environ = os.environ if environ is None else environ
    given = {name: environ[name.upper()] for name in cls.model_fields if environ.get(name.upper())}
    try:
        return cls.model_validate(given)
    except ValidationError as error:
        faults = [_fault(cls, given, dict(detail)) for detail in error.errors(include_url=False)]
        # `from None`: pydantic's own text repeats the input, which may be a secret.
        raise SettingsError("\n".join(dict.fromkeys(faults))) from None


def _fault(cls: type[SidecarSettings], given: Mapping[str, str], detail: Mapping[str, Any]) -> str:
    """Return the sentence for one fault that pydantic found."""
    location = detail["loc"]
    if not location:
        return f"The settings do not fit together: {detail['msg'].removeprefix('Value error, ')}."
    name = str(location[0])
    field = cls.model_fields.get(name)
    expected = field.description if field is not None and field.description else detail["msg"]
    if name not in given:
        return f"{name.upper()} is not set; expected {expected}."
    secret = field is not None and _is_secret(field.annotation)
    value = "(hidden)" if secret else repr(given[name][:MAX_SHOWN_VALUE])
    return f"{name.upper()} is {value}; expected {expected} ({detail['msg'].removeprefix('Value error, ')})."


def _is_secret(annotation: Any) -> bool:
    """Say whether a field holds a secret, alone or in a union."""
    if annotation is SecretStr:
        return True
    return get_origin(annotation) is not None and any(_is_secret(part) for part in get_args(annotation))
