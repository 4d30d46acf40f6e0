"""Stacks' configurations for tests: as their files stand, and with the fourth region that an operator would add."""

from __future__ import annotations

import copy
from typing import Any

from tests.support.pulumi_program import stack_config

STACKS = ("dev", "staging", "prod")
FOURTH = {
    "name": "eu-west-1",
    "cidr": "10.66.192.0/18",
    "zones": ["eu-west-1a", "eu-west-1b", "eu-west-1c"],
    "asn": 64515,
}
FOURTH_AMI = "ami-0a0a0a0a0a0a0a0a4"


def stack_values(stack: str, regions: int = 3) -> dict[str, Any]:
    """A stack's configuration with three regions or four; the fourth is a region and its AMI, and nothing else."""
    found = copy.deepcopy(stack_config(stack))
    if regions == len(found["regions"]) + 1:
        found["regions"].append(dict(FOURTH))
        found["fleet"]["amis"][FOURTH["name"]] = FOURTH_AMI
    return found
