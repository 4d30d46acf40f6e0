"""How long the whole Pulumi program takes under mocks, and through both packs over gRPC: prod with four regions.

    .venv/bin/python benchmarks/program.py

The aim is 15 s on two cores for all of it. Prints the number of resources too, and what a region adds.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from policies.packs import PACKS, expand, of_pack
from stacks.estimate import estimate
from stacks.packs import properties
from stacks.program import deploy
from stacks.settings import parse
from tests.support.policy_pack import judged, running
from tests.support.pulumi_program import record
from tests.support.stacks import stack_values


def main() -> None:
    """Run once and print a line a step."""
    settings = parse(stack_values("prod", 4))
    started = time.monotonic()
    program = record(lambda: deploy(settings), stack="prod")
    total = _step(f"program, {len(program.resources)} resources", started)
    configuration = expand(properties(settings))
    for name, rules in PACKS.items():
        started = time.monotonic()
        with running(name, of_pack(name, configuration)) as pack:
            broken = sum(one.mandatory for one in judged(pack, program))
        total += _step(f"{name} pack, {len(rules)} rules, {broken} violations", started)
    print(f"{total:6.1f} s  all of it")
    fewer = record(lambda: deploy(parse(stack_values("prod", 3))), stack="prod")
    print(f"A fourth region adds {len(program.resources) - len(fewer.resources)} resources.")
    cost = estimate(settings)
    print(f"Priced, a month, least hosts: {cost.total:,.2f} {cost.currency}; unpriced: {len(cost.unpriced)} things.")


def _step(what: str, started: float) -> float:
    took = time.monotonic() - started
    print(f"{took:6.1f} s  {what}")
    return took


if __name__ == "__main__":
    main()
