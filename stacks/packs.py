"""What the policy packs are told about a stack: its measurements, level, images, regions and ports, as properties.

`python -m stacks.packs --stack dev` prints them as JSON; `mrgc policy config --pack enclave FILE` makes of that what
`pulumi --policy-pack-config` takes. The packs share no code with the program, so that what the program promises and
what the packs demand meet in this file alone, which a reviewer reads, or writes by hand instead.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from components.placement import PROJECT
from stacks.sections import Measurements
from stacks.settings import Settings, SettingsError, parse

EX_USAGE: Final = 64
"""Bad configuration (sysexits.h)."""


def properties(settings: Settings) -> dict[str, Any]:
    """The packs' properties by name, plain values ready for JSON."""
    return {
        "account": settings.account,
        "assuranceLevel": settings.fleet.assurance_level,
        # Of the published enclave, not of the fleet: what the hosts run is what the rule judges.
        "attestableAmis": sorted(settings.measurements.attestable_amis),
        "measurements": [_measurement(image) for image in (settings.measurements, *settings.earlier_measurements)],
        "regions": {region.name: region.cidr for region in settings.regions},
        "strongRegions": list(settings.strong_regions),
    }


def _measurement(image: Measurements) -> dict[str, str]:
    registers = {f"pcr{index}": value for index, value in image.registers().items()}
    return {**registers, "eifVersion": image.eif_version}


def read_stack(path: Path) -> Settings:
    """The settings of a stack's file, without the engine. Raises SettingsError."""
    try:
        held = yaml.safe_load(path.read_text())
    except OSError as error:
        raise SettingsError(f"{path} can't be read: {error.strerror}.") from None
    except yaml.YAMLError:
        raise SettingsError(f"{path} is not YAML.") from None
    config = held.get("config") if isinstance(held, dict) else None
    if not isinstance(config, dict):
        raise SettingsError(f"{path} has no `config:`; it is no stack's file.")
    prefix = f"{PROJECT}:"
    return parse({key.removeprefix(prefix): value for key, value in config.items() if key.startswith(prefix)})


def main(arguments: list[str] | None = None) -> int:
    """Print one stack's properties."""
    parser = argparse.ArgumentParser(
        prog="python -m stacks.packs", description="What the packs are told about a stack."
    )
    parser.add_argument("--stack", required=True, help="as in stacks/Pulumi.<stack>.yaml")
    stack = parser.parse_args(arguments).stack
    try:
        found = properties(read_stack(Path(__file__).parent / f"Pulumi.{stack}.yaml"))
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return EX_USAGE
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
