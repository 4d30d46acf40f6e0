"""The network pack as the engine runs it: a process of its own, asked over gRPC."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pulumi_policy import proxy

from policies.network.rules import RULES
from policies.rule import UNKNOWN, Resource
from policies.runner import Pack, Subject, Violation, directory, judge
from tests.support import network_breaks, network_breaks_accounts, network_breaks_more
from tests.support.network_breaks import Break, change
from tests.support.network_world import HOME, PREFIX, Ref, World, good, resources

FIRST = {
    one.rule: one
    for one in reversed([*network_breaks.BREAKS, *network_breaks_more.BREAKS, *network_breaks_accounts.BREAKS])
}


@pytest.fixture(scope="module")
def pack() -> Iterator[Pack]:
    with Pack(directory("network")) as started:
        yield started


def subject(one: Resource) -> Subject:
    """A resource as the engine would send it to a pack."""
    return Subject(
        urn=one.urn,
        type=one.type,
        name=one.name,
        inputs=_sent(one.props),
        provider=one.provider,
        provider_urn="" if one.provider is None else f"{PREFIX}pulumi:providers:aws::provider",
        depends=one.depends,
    )


def _sent(value: Any) -> Any:
    if value is UNKNOWN:
        return proxy.UNKNOWN_STRING_VALUE
    if isinstance(value, Mapping):
        return {key: _sent(inner) for key, inner in value.items()}
    return [_sent(inner) for inner in value] if isinstance(value, list) else value


def said(pack: Pack, world: World) -> list[Violation]:
    """What the pack says of what differs from the good world, and of the whole."""
    before = {one.urn: one for one in resources(good())}
    after = resources(world)
    alone = [found for one in after if one != before.get(one.urn) for found in pack.analyze(subject(one))]
    return [*alone, *pack.analyze_stack(map(subject, after))]


def test_the_pack_has_all_rules(pack: Pack) -> None:
    assert pack.rules() == [one.name for one in RULES]


def test_the_good_platform_passes_with_all_rules_mandatory(pack: Pack) -> None:
    assert judge(pack, [subject(one) for one in resources(good())]) == []


@pytest.mark.parametrize("broken", FIRST.values(), ids=str)
def test_the_engine_would_stop_at_what_breaks_a_rule(pack: Pack, broken: Break) -> None:
    world = good()
    broken.change(world)
    found = said(pack, world)
    assert {one.rule for one in found} == {broken.rule}, found
    assert all(one.mandatory and not one.undecided for one in found)


def test_what_is_not_known_at_preview_is_said_to_be_undecided(pack: Pack) -> None:
    world = good()
    change(f"may-{HOME}", policy=Ref(f"key-{HOME}"))(world)
    assert [(one.rule, one.undecided) for one in said(pack, world)] == [("endpoints-for-every-service", True)]


def test_configuration_reaches_the_rules() -> None:
    with Pack(directory("network")) as other:
        other.configure({"health-checks-meet-the-failover-budget": {"budgetSeconds": 24}})
        slow = [one for one in resources(good()) if one.name == f"targets-{HOME}"]
        assert [found.rule for one in slow for found in other.analyze(subject(one))] == [
            "health-checks-meet-the-failover-budget"
        ]
