"""What a reviewer gives the packs, from one file or several: properties, rules, and `measurements.json` as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from policies.enclave.measurements import MEASUREMENTS
from policies.packs import read_configuration
from policies.rule import ConfigurationError, listed

_REGISTER: Final = re.compile(r"PCR([0-9]+)", re.ASCII)
"""A register as an image's build and the tenant's tools spell it; the packs' property has it in lower case."""


def read_configurations(paths: Sequence[Path], versions: Sequence[str]) -> dict[str, Any]:
    """All files as one configuration; `versions` are those of the images whose `measurements.json` is among them.

    A measurement file adds an image to the property `measurements`; otherwise a key may stand in one file only.
    Raises ConfigurationError.
    """
    found: dict[str, Any] = {}
    images: list[dict[str, str]] = []
    left = list(versions)
    for path in paths:
        given = read_configuration(path)
        if is_measurements(given):
            if not left:
                raise ConfigurationError(
                    f"{path} holds an image's registers and not its version: give that with --eif-version, one for "
                    "each such file, in their order."
                )
            images.append(image(given, left.pop(0)))
            continue
        twice = found.keys() & given.keys()
        if twice:
            raise ConfigurationError(f"{path} gives {min(twice)!r} again; name it in one file only.")
        found.update(given)
    if left:
        raise ConfigurationError(
            f"--eif-version {left[0]} belongs to no file: it is the version of an image whose measurements.json is "
            "given too."
        )
    _check_spelling(found)
    if images:
        found[MEASUREMENTS.name] = [*listed(found.get(MEASUREMENTS.name, [])), *images]
    return found


def is_measurements(given: Mapping[str, Any]) -> bool:
    """Whether a file is what the enclave image's build writes: `{"PCR0": "hex", …}` and nothing else."""
    return bool(given) and all(_REGISTER.fullmatch(key) for key in given)


def image(registers: Mapping[str, Any], version: str) -> dict[str, Any]:
    """A `measurements.json` as an entry of the property `measurements`."""
    return {**{key.lower(): value for key, value in registers.items()}, "eifVersion": version}


def _check_spelling(given: Mapping[str, Any]) -> None:
    """Refuse registers in capitals, which no rule would read: the key would count as missing only when judged."""
    own = [value.get(MEASUREMENTS.name) for value in given.values() if isinstance(value, Mapping)]
    for entries in (given.get(MEASUREMENTS.name), *own):
        for number, entry in enumerate(listed(entries)):
            wrong = sorted(key for key in entry if _REGISTER.fullmatch(key)) if isinstance(entry, Mapping) else []
            if wrong:
                raise ConfigurationError(
                    f"measurements[{number}] names {wrong[0]!r}, and this property writes it {wrong[0].lower()!r}: "
                    "change the case, or leave it out and give measurements.json itself, as a file more, with "
                    "--eif-version."
                )
