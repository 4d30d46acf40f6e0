"""How the components of a region are joined: each to its own region's, and what waits for what."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.aws_outputs import identity
from tests.support.pulumi_program import Program, Recorded
from tests.support.whole_program import whole_program

SUFFIX = re.compile(r"-([0-9a-f]{8})(?![0-9a-f])")
"""The end of every id, name and ARN that stands for what AWS would make (`tests.support.aws_outputs`)."""
CROSSING = {
    "mesh": "peerings have two ends",
    "accelerator": "one accelerator leads to every region",
    "model_replication": "objects go from home to every region",
    "global_state": "a table is created at home with its replicas",
    "keys": "a replica names its primary, and the tables' policy every region",
    "accelerator_alarms": "its metrics are in one region, and name every endpoint group's",
    "alarms": "replication lag is towards another region",
    "dashboards": "dashboards show every region",
    "control_loops": "leases and Global Accelerator's API are elsewhere",
}
"""Components that join regions, with the reason; everything of another region in any other is a mistake."""


@pytest.fixture(scope="module")
def program() -> Program:
    return whole_program("dev", 4)[1]


def texts(value: Any, key: str = "") -> Iterator[str]:
    """Every text in a resource's inputs; user data as the host reads it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from texts(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner, key)
    elif isinstance(value, str):
        yield base64.b64decode(value).decode() if key == "userData" else value


def component(one: Recorded) -> str:
    """The file in components/ of the outermost component that the resource belongs to."""
    return one.urn.split("::")[2].split("$", 1)[0].split(":")[1]


def resources(program: Program) -> list[Recorded]:
    return [one for one in program if one.type.startswith("aws:")]


def crossings(program: Program) -> Iterator[tuple[Recorded, Recorded]]:
    """Every resource that names another of another region, with that other."""
    owners = {SUFFIX.findall(identity(one.type, one.name))[-1]: one for one in resources(program)}
    assert len(owners) == len(resources(program)), "two made-up ids end alike: lengthen them"
    for one in resources(program):
        named = {found for text in texts(one.inputs) for found in SUFFIX.findall(text)}
        for owner in (owners[each] for each in named & set(owners)):
            if program.region(owner) != program.region(one):
                yield one, owner


def test_nothing_of_another_region_is_used_but_where_regions_are_joined(program: Program) -> None:
    found = list(crossings(program))
    strays = [(one.name, owner.name) for one, owner in found if component(one) not in CROSSING]
    assert not strays, "another region's output is wired in"
    assert {component(one) for one, _ in found} >= {"mesh", "accelerator", "model_replication", "global_state", "keys"}


def test_control_loops_use_nothing_of_another_region_but_the_tables_key_and_the_accelerator(program: Program) -> None:
    used = {component(owner) for one, owner in crossings(program) if component(one) == "control_loops"}
    assert used == {"keys", "accelerator"}
    named = {
        (program.region(one), program.region(owner))
        for one, owner in crossings(program)
        if component(one) == "control_loops" and component(owner) == "keys"
    }
    assert named == {("eu-west-1", "us-east-1")}, "only the region without a replica uses home's"


def test_no_text_of_a_regional_resource_names_another_region(program: Program) -> None:
    regions = ("us-east-1", "us-east-2", "us-west-2", "eu-west-1")
    strays = [
        (one.name, other)
        for one in resources(program)
        if component(one) not in CROSSING
        for other in regions
        if other != program.region(one) and any(other in text for text in texts(one.inputs))
    ]
    assert not strays, "an ARN, a service's name or a tag of another region"


def test_the_alarms_of_a_region_tell_topics_of_their_own_region(program: Program) -> None:
    topics = {one.inputs.get("name", identity(one.type, one.name)): one for one in program.of("sns/topic:Topic")}
    for alarm in program.of("cloudwatch/metricAlarm:MetricAlarm"):
        for arn in alarm.inputs["alarmActions"]:
            assert program.region(topics[arn.rsplit(":", 1)[1]]) == program.region(alarm), alarm.name


def after(program: Program, name: str) -> set[str]:
    """What a resource waits for, by name, at whatever distance."""
    by_urn = {one.urn: one for one in program}
    waiting, seen = [next(one for one in program if one.name == name and one.custom)], set()
    while waiting:
        for urn in waiting.pop().dependencies:
            if urn not in seen:
                seen.add(urn)
                waiting.append(by_urn[urn])
    return {by_urn[urn].name for urn in seen}


def test_the_internet_gateway_is_there_before_the_accelerator_leads_to_a_region_and_goes_after_it(
    program: Program,
) -> None:
    for region in ("us-east-1", "eu-west-1"):
        found = after(program, f"accelerator-group-{region}")
        assert f"network-{region}-internet" in found
        assert f"network-{region}-public-default" in found, "and the public tier's way to it"


def test_a_function_is_made_once_lambda_may_pull_its_image(program: Program) -> None:
    for region in ("us-east-1", "eu-west-1"):
        found = after(program, f"control-{region}-failover-function")
        assert f"registries-{region}-mrgc-control-functions" in found


def test_routers_are_started_once_their_target_group_has_a_listener(program: Program) -> None:
    assert "nlb-us-east-1-listener-443" in after(program, "router-us-east-1-service"), "ECS refuses one without"
