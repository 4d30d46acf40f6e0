from __future__ import annotations

from typing import Any

import pytest
from pulumi_policy.proxy import UnknownValueError

from components.placement import Placement
from components.registries import RegistriesArgs, parameters
from policies.rule import UNKNOWN, Resource, StackRule
from tests.support.enclave_resources import CONFIG, DIGEST, NEW, OLD, of_rule, parameter, refusing, rule, said, task

REGISTRY = "444455556666.dkr.ecr.us-east-1.amazonaws.com"
IMAGE = f"{REGISTRY}/mrgc/router@{DIGEST}"
ROOT = "/mrgc/prod/measurements"


def test_images_by_digest_are_accepted() -> None:
    assert refusing(task(IMAGE, f"mrgc/collector@{DIGEST}")) == set()
    assert refusing(Resource(type="aws:lambda/function:Function", props={"imageUri": IMAGE})) == set()
    assert refusing(Resource(type="aws:lambda/function:Function", props={"handler": "x", "runtime": "y"})) == set()
    assert refusing(parameter("/mrgc/prod/images/router", IMAGE)) == set()


@pytest.mark.parametrize(
    "image",
    [
        f"{REGISTRY}/mrgc/router:1.0.0",
        f"{REGISTRY}/mrgc/router",
        f"{REGISTRY}/mrgc/router@sha256:abc",
        f"{REGISTRY}/mrgc/router@{DIGEST.upper()}",
        f"{IMAGE}\n",
        f"{IMAGE} latest",
        "",
    ],
)
def test_an_image_by_anything_but_a_digest_is_refused(image: str) -> None:
    assert refusing(task(IMAGE, image)) == {"image-by-digest"}
    assert refusing(Resource(type="aws:lambda/function:Function", props={"imageUri": image})) == {"image-by-digest"}
    assert refusing(parameter("/mrgc/prod/images/router", image)) == {"image-by-digest"}


@pytest.mark.parametrize("definitions", ["{", "[]", "{}", '[{"name": "x"}]', "null", None])
def test_a_task_whose_containers_cannot_be_read_is_refused(definitions: Any) -> None:
    broken = Resource(type="aws:ecs/taskDefinition:TaskDefinition", props={"containerDefinitions": definitions})
    assert refusing(broken) == {"image-by-digest"}


def test_containers_not_known_yet_are_judged_at_the_update() -> None:
    with pytest.raises(UnknownValueError):
        said("image-by-digest", Resource(type=task().type, props={"containerDefinitions": UNKNOWN}))


def published(registers: dict[int, str], version: str, region: str = "us-east-1") -> list[Resource]:
    """The parameters that the program really makes."""
    place = Placement(region=region, environment="prod", account="444455556666")
    args = RegistriesArgs(placement=place, measurements=registers, eif_version=version, images={}, key_arn="k")
    return [parameter(place.path(path), value) for path, value in parameters(args).items()]


@pytest.mark.parametrize(("registers", "version"), [(OLD, "1.0.0"), (NEW, "1.1.0")])
def test_the_published_parameters_of_a_reviewed_image_are_accepted(registers: dict[int, str], version: str) -> None:
    found = published(registers, version)
    assert len(found) == len(registers) + 1
    assert [refusing(one) for one in found] == [set()] * len(found)
    assert together(found) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pcr0", "0" * 96),
        ("pcr0", "ab"),
        ("pcr0", "cc" * 48),
        ("pcr0", OLD[1]),
        ("pcr3", OLD[0]),
        ("eif_version", "9.9.9"),
        ("eif_version", ""),
    ],
)
def test_a_published_value_of_no_reviewed_image_is_refused(name: str, value: str) -> None:
    assert refusing(parameter(f"{ROOT}/{name}", value)) == {"published-measurements"}


def test_the_insecure_value_of_a_parameter_is_a_value_too() -> None:
    hidden = Resource(type=parameter("x", "y").type, props={"name": f"{ROOT}/pcr0", "insecureValue": "0" * 96})
    assert refusing(hidden) == {"published-measurements"}


def test_without_configured_measurements_nothing_is_published() -> None:
    assert refusing(parameter(f"{ROOT}/pcr0", OLD[0]), {}) == {"published-measurements"}
    assert refusing(parameter(f"{ROOT}/eif_version", "1.0.0"), {}) == {"published-measurements"}


def test_other_parameters_are_none_of_these_rules_business() -> None:
    assert refusing(parameter("/mrgc/prod/tenants", "{}"), {}) == set()


def together(resources: list[Resource], config: dict[str, Any] | None = None) -> list[str]:
    one = rule("published-measurements-agree")
    assert isinstance(one, StackRule)
    return one.violations(resources, of_rule(one, CONFIG if config is None else config))


def test_registers_of_two_images_do_not_belong_together() -> None:
    mixed = [*published(OLD, "1.0.0")[:2], *published({**OLD, 2: NEW[2]}, "1.0.0")[2:]]
    assert [refusing(one) for one in mixed] == [set()] * len(mixed), "each by itself is published"
    assert "not those of one published image" in together(mixed)[0]


def test_an_images_registers_under_anothers_version_do_not_belong_together() -> None:
    assert together(published(OLD, "1.1.0"))


def test_a_register_that_is_left_out_is_missed() -> None:
    assert together(published(OLD, "1.0.0")[1:])
    assert together(published({index: NEW[index] for index in (0, 1, 2)}, "1.1.0")), "a signed image without its signer"


def test_regions_are_judged_one_by_one() -> None:
    west = [Resource(type=one.type, props={**one.props, "region": "us-west-2"}) for one in published(NEW, "1.1.0")]
    assert together([*published(OLD, "1.0.0"), *west]) == []
    assert "us-west-2" in together([*published(OLD, "1.0.0"), *west[1:]])[0]
