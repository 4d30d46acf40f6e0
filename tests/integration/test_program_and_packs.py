"""The whole program judged by both packs over gRPC, as the engine runs them, with every rule mandatory."""

from __future__ import annotations

import pytest

from policies.packs import PACKS, expand, of_pack
from stacks.packs import properties
from stacks.program import deploy
from tests.support.policy_pack import judged, running
from tests.support.preview import UNKNOWN, preview
from tests.support.stacks import STACKS
from tests.support.whole_program import MOST_REGIONS, whole_program


@pytest.mark.parametrize("regions", [3, MOST_REGIONS])
@pytest.mark.parametrize("stack", STACKS)
def test_the_program_breaks_no_rule_of_either_pack(stack: str, regions: int) -> None:
    settings, program = whole_program(stack, regions)
    configuration = expand(properties(settings))
    for name in PACKS:
        with running(name, of_pack(name, configuration)) as pack:
            assert pack.rules(), f"{name} has no rule"
            said = judged(pack, program)
        broken = [(one.rule, one.urn, one.message) for one in said]
        assert not broken, f"{name} refuses the real program"


def test_a_first_preview_plans_the_same_resources_and_no_rule_refuses_them() -> None:
    """What AWS computes is unknown there; a rule may say that it can't decide yet, and must not refuse."""
    settings, made = whole_program("dev", 3)
    planned = preview(lambda: deploy(settings))
    assert {one.urn for one in planned} == {one.urn for one in made}, "a resource appears only once others exist"
    assert any(UNKNOWN in str(one.inputs) for one in planned), "nothing was unknown, so this was no preview"
    configuration = expand(properties(settings))
    for name in PACKS:
        with running(name, of_pack(name, configuration)) as pack:
            refused = [(one.rule, one.urn, one.message) for one in judged(pack, planned) if one.mandatory]
        assert not refused, f"{name} refuses the preview of the real program"


def test_the_packs_do_judge_the_program_they_are_given() -> None:
    """The same program under another promise: other regions and other measurements are refused, by name."""
    settings, program = whole_program("dev", 3)
    told = properties(settings)
    told["regions"] = {"us-east-1": "10.66.0.0/18", "us-east-2": "10.66.64.0/18", "eu-west-1": "10.66.128.0/18"}
    told["measurements"] = [{**told["measurements"][0], "pcr0": "ab" * 48}]
    said = set()
    for name in PACKS:
        with running(name, of_pack(name, expand(told))) as pack:
            said |= {one.rule for one in judged(pack, program)}
    assert any("measure" in rule for rule in said), said
    assert any("region" in rule for rule in said), said
