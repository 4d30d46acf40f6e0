"""A stack's configuration: every wrong value stops it with one sentence, before anything is planned."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from stacks.settings import Settings, SettingsError, load, parse
from tests.support.pulumi_program import as_engine_config, record, stack_config

STACKS = ("dev", "staging", "prod")
EUROPE = {
    "name": "eu-west-1",
    "cidr": "10.66.192.0/18",
    "zones": ["eu-west-1a", "eu-west-1b", "eu-west-1c"],
    "asn": 64515,
}
ZERO = "0" * 96
ARTEFACTS = {"eif_sha256": "a" * 64, "wheel_sha256": "b" * 64, "version": "1.0.0"}


def changed(change: Callable[[dict[str, Any]], object], stack: str = "prod") -> dict[str, Any]:
    values = copy.deepcopy(stack_config(stack))
    change(values)
    return values


def sentence(change: Callable[[dict[str, Any]], object], stack: str = "prod") -> str:
    with pytest.raises(SettingsError) as refused:
        parse(changed(change, stack))
    text = str(refused.value)
    assert "\n" not in text, "one wrong value is one sentence"
    assert text.endswith("."), text
    assert ".." not in text, text
    return text


@pytest.mark.parametrize("stack", STACKS)
def test_the_stack_files_are_accepted_as_they_stand(stack: str) -> None:
    settings = parse(stack_config(stack))
    assert settings.environment == stack
    assert settings.region_names == ("us-east-1", "us-east-2", "us-west-2")


def test_a_fourth_region_is_added_by_configuration_alone() -> None:
    def add(values: dict[str, Any]) -> None:
        values["regions"].append(EUROPE)
        values["fleet"]["amis"]["eu-west-1"] = "ami-0a0a0a0a0a0a0a0a4"

    settings = parse(changed(add))
    assert str(settings.plans()["eu-west-1"].public[0]) == "10.66.192.0/24"


def test_a_fourth_region_without_an_ami_is_refused() -> None:
    said = sentence(lambda values: values["regions"].append(EUROPE))
    assert said == "mrgc:fleet.amis: eu-west-1 has none; name an AMI for every region."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.pop("account"), ["mrgc:account", "not set"]),
        (lambda v: v.update(colour="red"), ["mrgc:colour", "no setting"]),
        (lambda v: v.update(environment="production"), ["mrgc:environment", "'production'", "'prod'"]),
        (lambda v: v.update(account="12345"), ["mrgc:account", "'12345'"]),
        (lambda v: v.update(regions=v["regions"][:2]), ["mrgc:regions", "at least 3"]),
        (lambda v: v["regions"][1].update(name="us-esat-2"), ["regions.1.name", "'us-esat-2'", "AWS region's name"]),
        (
            lambda v: v["regions"][1].update(name="mars-1", zones=["mars-1a", "mars-1b", "mars-1c"]),
            ["mrgc:regions.1.name", "'mars-1'", "an AWS region's name is expected"],
        ),
        (lambda v: v["regions"][1].update(name="us-gov-east-1"), ["'us-gov-east-1'", "an AWS region's name"]),
        (
            lambda v: v["fleet"]["amis"].update({"US": "ami-0a0a0a0a0a0a0a0a1"}),
            ["mrgc:fleet.amis names 'US'", "an AWS region's name"],
        ),
        (lambda v: v.update(accelerator={"weights": {"x": 1}}), ["mrgc:accelerator.weights names 'x'"]),
        (lambda v: v["regions"][1].update(cidr="10.66.0.0/18"), ["us-east-1 and us-east-2 overlap"]),
        (lambda v: v["regions"][1].update(cidr="10.67.0.0/18"), ["10.67.0.0/18", "10.66.64.0/18"]),
        (lambda v: v["regions"][1].update(cidr="10.66.64.0/17"), ["10.66.64.0/17"]),
        (lambda v: v["regions"][1].update(asn=64512), ["ASN"]),
        (lambda v: v["regions"][1].update(asn=1), ["mrgc:regions.1.asn", "1"]),
        (lambda v: v["regions"][1].update(zones=["us-east-2a"]), ["mrgc:regions.1.zones", "3"]),
        (lambda v: v["regions"][1].update(zones=["us-east-1a", "us-east-2b", "us-east-2c"]), ["'us-east-1a'"]),
        (lambda v: v["measurements"].update(pcr0="ab12"), ["mrgc:measurements.pcr0", "'ab12'", "96 hex digits"]),
        (lambda v: v["measurements"].update(pcr1=ZERO), ["mrgc:measurements.pcr1", "debug", "prod"]),
        (lambda v: v["measurements"].update(eif_version="latest"), ["mrgc:measurements.eif_version", "'latest'"]),
        (lambda v: v["images"].update(router="mrgc/router:latest"), ["mrgc:images.router", ":latest'", "digest"]),
        (lambda v: v["fleet"].update(min=9, max=3), ["mrgc:fleet", "9", "3", "above"]),
        (lambda v: v["fleet"].update(max=21), ["mrgc:fleet.max", "21", "20"]),
        (lambda v: v["fleet"]["amis"].update({"us-east-1": "ami"}), ["mrgc:fleet.amis", "'ami'"]),
        (lambda v: v["router"].update(min=13), ["mrgc:router", "13", "12"]),
        (lambda v: v.update(models={"capacity_gib": 2000}), ["mrgc:models.capacity_gib", "2000", "2400"]),
        (lambda v: v.update(accelerator={"dials": {"us-east-1": 101}}), ["mrgc:accelerator.dials", "101", "100"]),
        (lambda v: v.update(accelerator={"dials": {"eu-west-1": 50}}), ["accelerator.dials", "eu-west-1"]),
        (lambda v: v.update(lost_peerings=[["us-east-1", "us-east-1"]]), ["lost_peerings", "twice"]),
        (lambda v: v.update(session_manager=True), ["session_manager", "level 2"]),
        (
            lambda v: v.update(lost_peerings=[["us-east-1", "us-east-2"], ["us-west-2", "us-east-1"]]),
            ["lost_peerings", "us-east-1 is cut off"],
        ),
        (
            lambda v: v.update(accelerator={"alternate_port": True}, endpoint={"alternate_port": False}),
            ["accelerator.alternate_port", "8080"],
        ),
        (
            lambda v: v["fleet"].update(
                artefacts={"eif_sha256": "a" * 64, "wheel_sha256": "b" * 64, "version": "1.0.0"}
            ),
            ["mrgc:fleet", "level 2"],
        ),
        (lambda v: v["fleet"].update(assurance_level=1), ["mrgc:fleet", "artefacts are not set"]),
        (
            lambda v: v["measurements"].update(attestable_amis=["ami-0a0a0a0a0a0a0a0a1", "ami-0a0a0a0a0a0a0a0a2"]),
            ["fleet.amis", "ami-0a0a0a0a0a0a0a0a3 of us-west-2", "measurements.attestable_amis", "claim level 1"],
        ),
        (
            lambda v: v["fleet"]["amis"].update({"us-east-2": "ami-0bbbbbbbbbbbbbbbb"}),
            ["fleet.amis", "ami-0bbbbbbbbbbbbbbbb of us-east-2", "not one of"],
        ),
        (
            lambda v: v["measurements"].update(attestable_amis=["an image"]),
            ["mrgc:measurements.attestable_amis", "'an image'", "ami-0123456789abcdef0"],
        ),
        (lambda v: v.update(log_days=30), ["mrgc:log_days", "30", "90"]),
        (lambda v: v.update(strong_regions=["us-east-1", "us-east-2", "eu-west-1"]), ["strong_regions", "eu-west-1"]),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_what_was_expected(
    change: Callable[[dict[str, Any]], object], words: list[str]
) -> None:
    said = sentence(change)
    for word in words:
        assert word in said, f"{word!r} is missing: {said}"


def test_a_region_that_holds_data_cannot_leave() -> None:
    def leave(values: dict[str, Any]) -> None:
        values["regions"][2] = EUROPE
        values["fleet"]["amis"] = dict.fromkeys(("us-east-1", "us-east-2", "eu-west-1"), "ami-0a0a0a0a0a0a0a0a1")

    said = sentence(leave)
    assert "us-west-2" in said
    assert "holds data" in said
    assert "data_regions" in said


def test_strong_tables_stay_within_one_region_set() -> None:
    def spread(values: dict[str, Any]) -> None:
        values["regions"].append(EUROPE)
        values["fleet"]["amis"]["eu-west-1"] = "ami-0a0a0a0a0a0a0a0a4"
        values["strong_regions"] = ["us-east-1", "us-east-2", "eu-west-1"]

    assert "region set" in sentence(spread)


def test_dev_takes_a_debug_enclaves_measurements_and_prod_does_not() -> None:
    values = changed(lambda v: v["measurements"].update(pcr0=ZERO), "dev")
    assert parse(values).measurements.pcr0 == ZERO
    assert "debug" in sentence(lambda v: v["measurements"].update(pcr0=ZERO), "staging")


def test_two_wrong_values_are_two_sentences() -> None:
    with pytest.raises(SettingsError) as refused:
        parse(changed(lambda v: (v.update(account="1"), v["fleet"].update(max=0))))
    assert len(str(refused.value).splitlines()) == 2


def test_settings_are_frozen() -> None:
    settings: Settings = parse(stack_config("dev"))
    with pytest.raises(ValueError, match="frozen"):
        settings.environment = "prod"


@pytest.mark.parametrize("stack", STACKS)
def test_the_engines_configuration_is_read_as_the_stack_file_means_it(stack: str) -> None:
    found: list[Settings] = []
    record(lambda: found.append(load()), stack=stack, config=as_engine_config(stack_config(stack)))
    assert found == [parse(stack_config(stack))], "JSON over the wire changed a value"


def test_a_value_that_is_no_json_is_named() -> None:
    config = {**as_engine_config(stack_config("dev")), "mrgc:fleet": "lots"}
    found: list[str] = []

    def program() -> None:
        with pytest.raises(SettingsError) as refused:
            load()
        found.append(str(refused.value))

    record(program, config=config)
    assert found == ["mrgc:fleet is 'lots', which is not valid JSON or YAML."]


def test_a_platform_without_the_accelerators_region_is_refused() -> None:
    def move(values: dict[str, Any]) -> None:
        values["regions"][2] = EUROPE
        values["data_regions"] = ["us-east-1"]
        values["strong_regions"] = ["us-east-1", "us-east-2", "eu-west-1"]
        values["fleet"]["amis"] = dict.fromkeys(("us-east-1", "us-east-2", "eu-west-1"), "ami-0a0a0a0a0a0a0a0a1")

    said = sentence(move)
    assert "us-west-2" in said or "region set" in said


def test_a_lost_peering_is_accepted_where_the_third_region_carries_it() -> None:
    settings = parse(changed(lambda v: v.update(lost_peerings=[["us-east-1", "us-west-2"]])))
    assert settings.lost_peerings == (("us-east-1", "us-west-2"),)
