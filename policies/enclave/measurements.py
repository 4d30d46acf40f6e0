"""The published measurements, as the pack is configured with them, and the values that programs name.

A reviewer takes them from the `measurements.json` of a build that was reproduced, not from the stack that is judged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from policies.rule import Config, ConfigurationError, Setting, listed

HEX_DIGITS: Final = 96
"""SHA-384: 48 bytes."""
REGISTERS: Final = (0, 1, 2)
"""Named by every policy; 8 besides where the image is signed."""
SIGNER: Final = 8

_HEX: Final = re.compile(rf"[0-9a-fA-F]{{{HEX_DIGITS}}}", re.ASCII)
_REGISTER_SCHEMA: Final = {"type": "string", "pattern": f"^[0-9a-fA-F]{{{HEX_DIGITS}}}$"}

MEASUREMENTS: Final = Setting(
    name="measurements",
    description="The enclave images that are published: pcr0, pcr1, pcr2, pcr8 where the image is signed, and "
    "eifVersion, as measurements.json of a reproduced build says. While it is empty nothing counts as published, and "
    "every tenant key and every published register is refused.",
    default=[],
    schema={
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                **{f"pcr{index}": _REGISTER_SCHEMA for index in (*REGISTERS, SIGNER)},
                "eifVersion": {"type": "string"},
            },
            "required": ["pcr0", "pcr1", "pcr2", "eifVersion"],
        },
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One published image: register index to 96 hex digits in lower case, and the image's version."""

    registers: Mapping[int, str]
    eif_version: str


def published(config: Config) -> list[Measurement]:
    """The configured images. Raises ConfigurationError where none is, or one is malformed."""
    entries = listed(MEASUREMENTS.read(config))
    if not entries:
        raise ConfigurationError(
            "No measurement is configured, so no enclave counts as published: "
            "set the property `measurements` of this rule to what measurements.json of a reproduced build says."
        )
    return [_measurement(number, entry) for number, entry in enumerate(entries)]


def _measurement(number: int, entry: Any) -> Measurement:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("eifVersion"), str):
        raise ConfigurationError(f"measurements[{number}] of this rule's configuration has no eifVersion.")
    registers: dict[int, str] = {}
    for index in (*REGISTERS, SIGNER):
        value = entry.get(f"pcr{index}")
        if value is None and index == SIGNER:
            continue
        problem = fault(value, index)
        if problem is not None:
            raise ConfigurationError(f"measurements[{number}].pcr{index} of this rule's configuration {problem}.")
        registers[index] = str(value).lower()
    return Measurement(registers=registers, eif_version=entry["eifVersion"])


def fault(value: Any, index: int) -> str | None:
    """What is wrong with the value of PCR`index`, as a clause without its subject; None for nothing.

    Zero is refused where only a debug enclave has it; elsewhere (PCR8 of an image that nobody signed) it is a value,
    compared like any other.
    """
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        return f"is not {HEX_DIGITS} hex digits"
    if index in REGISTERS and not value.strip("0"):
        return "is all zero, which is what a debug enclave measures"
    return None


def agrees(registers: Mapping[int, str], images: Sequence[Measurement]) -> bool:
    """Whether registers (96 hex digits each, any case) are exactly those of one published image."""
    lower = {index: value.lower() for index, value in registers.items()}
    return any(lower == dict(image.registers) for image in images)
