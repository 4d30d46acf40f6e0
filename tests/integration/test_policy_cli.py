"""`mrgc policy`: an exported state judged without an engine, rules explained, a configuration written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from policies.cli import app
from policies.enclave.rules import RULES
from policies.packs import PACKS, expand, properties, read_configuration
from policies.rule import ConfigurationError
from tests.support.enclave_resources import AMI, CONFIG, allow, key
from tests.support.pulumi_program import ROOT

SECRET = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270", "ciphertext": "AAAA"}


def exported(*resources: tuple[str, Mapping[str, Any]], marked: bool = False) -> dict[str, Any]:
    provider = "urn:pulumi:dev::mrgc::pulumi:providers:aws::aws"
    return {
        "version": 3,
        "deployment": {
            "resources": [
                {"urn": "urn:pulumi:dev::mrgc::pulumi:pulumi:Stack::mrgc-dev", "type": "pulumi:pulumi:Stack"},
                {"urn": provider, "type": "pulumi:providers:aws", "id": "p", "inputs": {"region": "us-east-1"}},
                *(
                    {
                        "urn": f"urn:pulumi:dev::mrgc::{type_}::one-{number}",
                        "type": type_,
                        "id": f"id-{number}",
                        "custom": True,
                        "delete": marked,
                        "inputs": inputs,
                        "outputs": inputs,
                        "provider": f"{provider}::p",
                        "propertyDependencies": {"policy": None},
                    }
                    for number, (type_, inputs) in enumerate(resources)
                ),
            ]
        },
    }


def checked(tmp_path: Path, state: Any, *more: str, config: Mapping[str, Any] | None = None) -> tuple[int, str]:
    file = tmp_path / "state.json"
    file.write_text(state if isinstance(state, str) else json.dumps(state))
    settings = tmp_path / "config.json"
    settings.write_text(json.dumps(CONFIG if config is None else config))
    result = CliRunner().invoke(
        app, ["check", "--state", str(file), "--config", str(settings), "--pack", "enclave", *more]
    )
    return result.exit_code, result.output


def test_a_good_state_ends_with_0(tmp_path: Path) -> None:
    code, said = checked(tmp_path, exported(("aws:kms/key:Key", key().props)))
    assert code == 0, said
    assert "3 resources judged by enclave: 0 violations, 0 undecided." in said


def test_a_state_with_a_violation_ends_with_1_and_names_rule_and_resource(tmp_path: Path) -> None:
    code, said = checked(tmp_path, exported(("aws:kms/key:Key", key(tags={}).props)), "--json")
    assert code == 1
    found = json.loads(said)
    assert [(one["level"], one["rule"], one["pack"]) for one in found] == [
        ("mandatory", "kms-key-says-whose", "enclave")
    ]
    assert found[0]["urn"].endswith("::one-0")


def test_what_is_marked_for_deletion_is_not_judged(tmp_path: Path) -> None:
    assert checked(tmp_path, exported(("aws:kms/key:Key", {}), marked=True))[0] == 0


def test_an_encrypted_secret_leaves_a_rule_undecided_which_is_no_pass(tmp_path: Path) -> None:
    code, said = checked(tmp_path, exported(("aws:iam/rolePolicy:RolePolicy", {"policy": SECRET})), "--json")
    assert code == 1
    assert {one["level"] for one in json.loads(said)} == {"undecided"}


def test_a_secret_in_clear_is_judged(tmp_path: Path) -> None:
    document = json.dumps({"Statement": [allow("kms:PutKeyPolicy")]})
    clear = {next(iter(SECRET)): next(iter(SECRET.values())), "plaintext": json.dumps(document)}
    code, said = checked(tmp_path, exported(("aws:iam/rolePolicy:RolePolicy", {"policy": clear})), "--json")
    assert code == 1
    assert {one["rule"] for one in json.loads(said)} == {"platform-role-no-key-control"}


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("{", "is not JSON"),
        ("[]", "has no deployment"),
        ({"deployment": {"resources": []}}, "nothing to judge"),
        ({"deployment": {"resources": [{}]}}, "without a URN"),
    ],
)
def test_a_file_that_is_no_state_ends_with_one_sentence(tmp_path: Path, state: Any, reason: str) -> None:
    code, said = checked(tmp_path, state)
    assert code == 1
    assert reason in said.replace("\n", " ")
    assert len(said.strip().split(". ")) == 1


def test_a_rule_can_be_disabled_by_name_as_with_an_engine(tmp_path: Path) -> None:
    config = {**CONFIG, "kms-key-says-whose": "disabled"}
    assert checked(tmp_path, exported(("aws:kms/key:Key", key(tags={}).props)), config=config)[0] == 0


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"measurement": []}, "did you mean 'measurements'"),
        ({"kms-key-rotates": {"days": 1}}, "has no property 'days'"),
        ({"kms-key-rotates": "off"}, "is 'off'; it is one of"),
        ({"all": 1}, "all is configured by"),
    ],
)
def test_a_wrong_configuration_ends_with_one_sentence(tmp_path: Path, config: dict[str, Any], reason: str) -> None:
    code, said = checked(tmp_path, exported(), config=config)
    assert code == 1
    assert reason in said.replace("\n", " ")


def test_a_property_reaches_every_rule_that_declares_it_and_a_rules_own_value_wins() -> None:
    found = expand({"assuranceLevel": 1, "level-2-no-session": {"assuranceLevel": 2}})
    declaring = {
        policy.name for policies in PACKS.values() for policy in policies if "assuranceLevel" in properties(policy)
    }
    assert set(found) == declaring
    assert {name for name, values in found.items() if values["assuranceLevel"] == 2} == {"level-2-no-session"}


def test_a_property_of_one_name_means_the_same_in_both_packs() -> None:
    seen: dict[str, Any] = {}
    for policies in PACKS.values():
        for one in policies:
            for name, schema in properties(one).items():
                assert seen.setdefault(name, schema) == schema, f"{one.name}.{name}"


def test_a_configuration_file_that_is_none_says_so(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    for text, reason in (("[]", "no JSON object"), ("{", "not JSON")):
        file.write_text(text)
        with pytest.raises(ConfigurationError, match=reason):
            read_configuration(file)
    with pytest.raises(ConfigurationError, match="can't be read"):
        read_configuration(tmp_path / "none.json")


def test_the_configuration_of_a_pack_is_written_rule_by_rule_as_an_engine_takes_it(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"attestableAmis": [AMI], "all": "mandatory"}))
    result = CliRunner().invoke(app, ["config", str(file), "--pack", "enclave"])
    assert result.exit_code == 0, result.output
    written = json.loads(result.output)
    assert set(written) == {rule.name for rule in RULES}
    assert written["level-2-attestable-image"] == {"attestableAmis": [AMI], "enforcementLevel": "mandatory"}


@pytest.mark.parametrize("name", ["enclave", "network"])
def test_every_rule_is_explained_with_what_it_protects_and_how_to_fix(name: str) -> None:
    result = CliRunner().invoke(app, ["explain", "--pack", name, "--json"])
    assert result.exit_code == 0, result.output
    rules = json.loads(result.output)
    assert [one["rule"] for one in rules] == [policy.name for policy in PACKS[name]]
    for one in rules:
        assert one["protects"].endswith("."), one["rule"]
        assert one["fix"].endswith("."), one["rule"]
        assert one["level"] == "mandatory", one["rule"]


def test_explaining_prints_every_rule_and_property_for_a_person() -> None:
    said = CliRunner().invoke(app, ["explain"]).output
    for policies in PACKS.values():
        for one in policies:
            assert one.name in said
            assert all(name in said for name in properties(one))


def test_a_pack_that_does_not_exist_is_misuse() -> None:
    result = CliRunner().invoke(app, ["explain", "--pack", "cost"])
    assert result.exit_code == 2
    assert "one of enclave, network" in result.output


def test_the_reviewers_page_names_every_rule_and_every_property_of_the_enclave_pack() -> None:
    page = (ROOT / "docs" / "policies.md").read_text()
    for policies in PACKS.values():
        for one in policies:
            assert f"| `{one.name}`" in page, one.name
    for one in PACKS["enclave"]:
        assert all(f"| `{name}` |" in page for name in properties(one)), one.name
