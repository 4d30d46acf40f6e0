"""The programs that the engine's tests see refused, judged here without an engine: each breaks the rule it is for."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from policies.packs import expand, of_pack
from stacks.packs import properties
from stacks.settings import parse
from tests.engine.test_engine import BROKEN
from tests.support.policy_pack import judged, running
from tests.support.pulumi_program import record, stack_config

VIOLATIONS = Path(__file__).parent / "violations"


@pytest.mark.parametrize(("pack", "rule", "type_"), BROKEN)
def test_each_program_breaks_the_rule_it_is_for(pack: str, rule: str, type_: str) -> None:
    program = record(lambda: runpy.run_path(str(VIOLATIONS / pack), run_name="__main__"))
    told = of_pack(pack, expand(properties(parse(stack_config("dev")))))
    with running(pack, told) as started:
        broken = {(one.rule, one.urn) for one in judged(started, program) if one.mandatory}
    assert any(name == rule and type_ in found for name, found in broken), broken
