"""The whole program under mocks: every stack, with three regions and with four."""

from __future__ import annotations

import runpy
from collections import Counter
from typing import Any

import pulumi
import pytest

from stacks.program import run
from stacks.settings import Settings
from tests.support.pulumi_program import ROOT, Program, Recorded, as_engine_config, record
from tests.support.stacks import STACKS, stack_values
from tests.support.whole_program import MOST_REGIONS, whole_program

GLOBAL_SERVICES = ("aws:iam/", "aws:globalaccelerator/")


def component(resource: Recorded) -> str:
    """The file in components/ whose component the resource is a child of."""
    return resource.urn.split("::")[2].split("$")[-2].split(":")[1]


@pytest.fixture(params=[(stack, count) for stack in STACKS for count in (3, MOST_REGIONS)], ids=str)
def case(request: pytest.FixtureRequest) -> tuple[Settings, Program]:
    return whole_program(*request.param)


@pytest.fixture
def settings(case: tuple[Settings, Program]) -> Settings:
    return case[0]


@pytest.fixture
def program(case: tuple[Settings, Program]) -> Program:
    return case[1]


def test_every_resource_names_its_provider(program: Program) -> None:
    orphans = [one.name for one in program if one.type.startswith("aws:") and not one.provider]
    assert not orphans, f"these would fall to a default provider: {orphans}"


def test_every_resource_belongs_to_a_component(program: Program) -> None:
    loose = [one.urn for one in program if one.type.startswith("aws:") and "$" not in one.urn]
    assert not loose, "every resource is some component's child"


def test_every_region_has_the_same_resources(settings: Settings, program: Program) -> None:
    regional = ("network", "security_groups", "endpoints", "endpoint", "log_groups", "router_service", "gpu_fleet")
    kinds = Counter(
        (program.region(one), one.type) for one in program if one.type.startswith("aws:") and component(one) in regional
    )
    shapes = [{type_: n for (region, type_), n in kinds.items() if region == name} for name in settings.region_names]
    assert shapes[0]["aws:ec2/subnet:Subnet"] == 11, "the network's resources were not found"
    assert shapes[0]["aws:autoscaling/group:Group"] == 1, "the fleet's resources were not found"
    assert all(shape == shapes[0] for shape in shapes)


def test_nothing_stands_in_a_region_that_is_not_configured(settings: Settings, program: Program) -> None:
    regions = set(settings.region_names)
    strays = {
        (one.name, program.region(one))
        for one in program
        if one.type.startswith("aws:") and not one.type.startswith(GLOBAL_SERVICES)
    }
    strays = {(name, region) for name, region in strays if region not in regions}
    assert not strays


def test_no_text_came_of_a_missing_output(program: Program) -> None:
    def texts(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [text for inner in value.values() for text in texts(inner)]
        if isinstance(value, list):
            return [text for inner in value for text in texts(inner)]
        return [value] if isinstance(value, str) else []

    odd = [(one.name, text) for one in program for text in texts(one.inputs) if "None" in text or "Output<" in text]
    assert not odd, "an output that was not there became text"


def test_what_holds_data_is_protected_where_it_matters(settings: Settings, program: Program) -> None:
    holders = (
        "dynamodb/table:Table",
        "ecr/repository:Repository",
        "fsx/lustreFileSystem:LustreFileSystem",
        "kms/key:Key",
        "kms/replicaKey:ReplicaKey",
    )
    guarded = settings.environment != "dev"
    for type_ in holders:
        found = program.of(type_)
        assert found, type_
        for one in found:
            assert (one.protect, one.retain_on_delete) == (guarded, guarded), one.urn
    for log in program.of("cloudwatch/logGroup:LogGroup"):
        if component(log) != "cluster":  # samples of container insights, which end with their cluster
            assert (log.protect, log.retain_on_delete) == (guarded, guarded), log.urn


def test_outputs_say_where_the_platform_is(settings: Settings, program: Program) -> None:
    outputs = program.outputs
    assert outputs["accelerator"]["addresses"] == ["192.0.2.1", "192.0.2.2"]
    assert outputs["accelerator"]["dns_name"]
    assert set(outputs["regions"]) == set(settings.region_names)
    for region in outputs["regions"].values():
        assert region["load_balancer"]
        assert region["endpoint_service"]
    assert set(outputs["tables"]) == {
        "gpu_instances",
        "routing_state",
        "autoscaling_state",
        "cleanup_validation",
        "metrics",
    }
    assert set(outputs["keys"]["tables"]) == set(settings.region_names)
    assert outputs["measurements"]["pcr0"] == settings.measurements.pcr0
    assert set(outputs["dashboards"]) >= {"global", "networking", "storage", "security"}
    assert outputs["estimate"]["unpriced"], "what has no price is listed, not left out"


def test_the_engines_way_in_plans_the_same_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine runs the folder with its configuration as text, from inside it and with it first on the path."""
    values = stack_values("dev", 3)
    monkeypatch.chdir(ROOT / "stacks")
    entered = record(
        lambda: runpy.run_path(str(ROOT / "stacks"), run_name="__main__"), stack="dev", config=as_engine_config(values)
    )
    _, direct = whole_program("dev", 3)
    assert {one.urn for one in entered} == {one.urn for one in direct}


def test_a_wrong_setting_ends_the_run_with_its_sentence_and_plans_nothing() -> None:
    values = stack_values("dev", 3)
    values["images"]["router"] = "mrgc/router:latest"
    said: list[str] = []

    def program() -> None:
        # RunError is what the engine prints without a stack trace.
        with pytest.raises(pulumi.RunError) as refused:
            run()
        said.append(str(refused.value))

    planned = record(program, config=as_engine_config(values))
    assert said[0].startswith("mrgc:images.router is 'mrgc/router:latest'"), said
    assert not planned.resources
