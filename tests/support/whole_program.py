"""The whole program, recorded once a stack and number of regions for all tests that only read it."""

from __future__ import annotations

from functools import cache

from stacks.program import deploy
from stacks.settings import Settings, parse
from tests.support.pulumi_program import Program, record
from tests.support.stacks import stack_values

MOST_REGIONS = 4
MORE = {"control_loops": True, "lost_peerings": [["us-east-1", "us-west-2"]]}
"""What four regions run besides, so that both ways are tested: what the stacks' files leave off."""


@cache
def whole_program(stack: str, regions: int) -> tuple[Settings, Program]:
    """A stack's settings and everything that it registers; treat both as read-only."""
    more = MORE if regions == MOST_REGIONS else {}
    settings = parse({**stack_values(stack, regions), **more})
    return settings, record(lambda: deploy(settings), stack=stack)
