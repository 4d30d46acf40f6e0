from __future__ import annotations

import json
from typing import Any

import pytest
from pulumi_policy import (
    EnforcementLevel,
    PolicyProviderResource,
    PolicyResourceOptions,
    ResourceValidationArgs,
)
from pulumi_policy.policy import PolicyCustomTimeouts
from pulumi_policy.proxy import UNKNOWN_STRING_VALUE, unknown_checking_proxy

from policies.network.rules import POLICIES, RULES
from policies.rule import ResourceRule, StackRule
from tests.support import network_breaks, network_breaks_accounts, network_breaks_more
from tests.support.network_breaks import Break
from tests.support.network_world import Mode, good, refusals

BREAKS = [*network_breaks.BREAKS, *network_breaks_more.BREAKS, *network_breaks_accounts.BREAKS]


@pytest.mark.parametrize("mode", ["preview", "state"])
def test_the_good_platform_is_accepted_by_every_rule(mode: Mode) -> None:
    assert refusals(good(), mode) == {}


MODES: tuple[Mode, ...] = ("preview", "state")
STACK_RULES = {one.name for one in RULES if isinstance(one, StackRule)}


@pytest.mark.parametrize(
    ("broken", "mode"),
    [
        pytest.param(one, mode, id=f"{one}, {mode}")
        for one in BREAKS
        # Only stack rules follow references, which the two modes show differently.
        for mode in (("preview", "state") if one.rule in STACK_RULES else ("preview",))
    ],
)
def test_what_breaks_one_rule_is_refused_by_that_rule_alone(broken: Break, mode: Mode) -> None:
    world = good()
    broken.change(world)
    before = good()
    # What has not changed is accepted, says the test above.
    found = refusals(world, mode, only={name: one for name, one in world.items() if one != before.get(name)})
    assert set(found) == {broken.rule}, found
    assert all(sentence.endswith(".") for sentence in found[broken.rule]), "whole sentences"


@pytest.mark.parametrize("needed", network_breaks_accounts.ACCEPTED)
def test_what_the_platform_needs_of_policies_and_buckets_is_accepted(needed: str) -> None:
    for mode in MODES:
        world = good()
        network_breaks_accounts.ACCEPTED[needed](world)
        assert refusals(world, mode) == {}


def test_a_tenants_key_is_left_to_the_enclave_pack() -> None:
    world = good()
    key = network_breaks_accounts.tenant_key()
    world[key.name] = key
    assert refusals(world) == {}
    world[key.name] = key.but(tags={"mrgc:key": "platform"})
    assert set(refusals(world)) == {"policies-admit-no-stranger"}


def test_every_rule_has_something_that_breaks_it() -> None:
    assert {one.name for one in RULES} == {one.rule for one in BREAKS}


def test_rules_have_names_of_their_own_are_mandatory_and_say_why_and_how() -> None:
    names = [one.name for one in RULES]
    assert len(set(names)) == len(names)
    assert [one.name for one in POLICIES] == names, "what the engine runs is what is tested"
    for one in RULES:
        assert one.enforcement_level is EnforcementLevel.MANDATORY
        assert one.protects
        assert one.fix


def test_settings_are_documented_and_their_defaults_are_json() -> None:
    for one in RULES:
        declared = {} if one.config_schema is None else one.config_schema.properties
        assert set(declared) == {setting.name for setting in one.settings}
        for setting in one.settings:
            assert setting.description.endswith("."), setting.name
            assert json.loads(json.dumps(declared[setting.name]))["default"] == setting.default


def asked(name: str, type_: str, props: dict[str, Any], region: str = "us-east-1") -> list[str]:
    """What a resource rule reports to the engine, with the engine's own arguments."""
    rule = next(one for one in RULES if one.name == name)
    assert isinstance(rule, ResourceRule)
    options = PolicyResourceOptions(False, [], None, [], PolicyCustomTimeouts(0, 0, 0), [])  # noqa: FBT003 - positional
    provider = PolicyProviderResource("pulumi:providers:aws", {"region": region}, "urn:p", "p")
    reported: list[str] = []

    def report(message: str, urn: str | None = None) -> None:
        reported.append(f"{urn} {message}")

    args = ResourceValidationArgs(type_, unknown_checking_proxy(props), "urn:x", "x", options, provider)
    rule.validate(args, report)
    return reported


def test_rules_read_the_engines_arguments() -> None:
    subnet = "aws:ec2/subnet:Subnet"
    assert asked("no-public-addresses", subnet, {"mapPublicIpOnLaunch": False, "vpcId": UNKNOWN_STRING_VALUE}) == []
    assert asked("no-public-addresses", subnet, {"mapPublicIpOnLaunch": True}) == [
        "urn:x mapPublicIpOnLaunch is True; leave it off."
    ]
    acl: dict[str, Any] = {
        "ingress": [{"action": "allow", "protocol": "-1", "cidrBlock": "0.0.0.0/0"}],
        "vpcId": UNKNOWN_STRING_VALUE,
    }
    assert len(asked("network-acls-stay-closed", "aws:ec2/networkAcl:NetworkAcl", acl)) == 1
    assert asked("addresses-in-region-block", subnet, {"cidrBlock": "10.66.10.0/23"}) == []
    assert (
        "us-east-2's block"
        in asked("addresses-in-region-block", subnet, {"cidrBlock": "10.66.10.0/23"}, "us-east-2")[0]
    )
