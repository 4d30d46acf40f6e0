"""`mrgc policy`: an exported state judged without an engine, rules explained, a configuration written."""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Callable, Mapping
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


def documented(first_words: str) -> list[str]:
    """The command of docs/policies.md that begins so, its continuation lines joined, without `mrgc policy`."""
    page = (ROOT / "docs" / "policies.md").read_text().replace("\\\n", " ")
    (line,) = {line.strip() for line in page.splitlines() if line.startswith(f"    mrgc policy {first_words}")}
    return shlex.split(line, comments=True)[2:]


def test_the_documented_command_judges_the_sample_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(app, documented("check --state docs/samples"), env={"COLUMNS": "80"})
    assert done.exit_code == 1, done.output
    page = (ROOT / "docs" / "policies.md").read_text()
    assert "5 resources judged by enclave and network: 4 violations, 0 undecided." in done.output
    shown = page.split("mandatory  kms-no-grants")[1].split("…")[0]
    assert textwrap.dedent("    mandatory  kms-no-grants" + shown).strip() in done.output, "the page shows what is said"


def test_the_documented_command_writes_a_configuration_with_measurements_json_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(app, documented("config docs/samples"))
    assert done.exit_code == 0, done.output
    (image,) = json.loads(done.output)["tenant-key-measurements"]["measurements"]
    registers = json.loads((ROOT / "docs/samples/measurements.json").read_text())
    assert image == {**{name.lower(): value for name, value in registers.items()}, "eifVersion": "0.1.0"}


def test_at_80_columns_no_name_is_broken_and_urn_and_fix_are_said(tmp_path: Path) -> None:
    state = exported(("aws:kms/key:Key", key(tags={}).props))
    urn = state["deployment"]["resources"][2]["urn"]
    long = urn + "-" + "n" * 80
    state["deployment"]["resources"][2]["urn"] = long
    (tmp_path / "state.json").write_text(json.dumps(state))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    arguments = ["check", "--state", str(tmp_path / "state.json"), "--config", str(tmp_path / "config.json")]
    done = CliRunner().invoke(app, [*arguments, "--pack", "enclave"], env={"COLUMNS": "80"})
    assert f"  resource  {long}\n" in done.output, "whole, on one line, to be copied"
    assert "mandatory  kms-key-says-whose (enclave)\n" in done.output
    fix = next(one.fix for one in RULES if one.name == "kms-key-says-whose")
    assert fix in " ".join(done.output.split()), "how to satisfy the rule is said where it is broken"
    prose = [line for line in done.output.splitlines() if long not in line]
    assert max(map(len, prose)) <= 80


def test_one_rule_is_explained_by_its_name() -> None:
    done = CliRunner().invoke(app, ["explain", "kms-no-grants", "--json"])
    assert [one["rule"] for one in json.loads(done.output)] == ["kms-no-grants"]
    said = CliRunner().invoke(app, ["explain", "kms-no-grants"]).output
    assert said.startswith("kms-no-grants (enclave, mandatory"), "and nothing before it"
    assert "kms-key-rotates" not in said


def test_a_rule_that_does_not_exist_is_misuse_and_the_nearest_is_named() -> None:
    done = CliRunner().invoke(app, ["explain", "kms-no-grant"])
    assert done.exit_code == 2
    assert "did you mean kms-no-grants?" in done.output
    other = CliRunner().invoke(app, ["explain", "kms-no-grants", "--pack", "network"])
    assert other.exit_code == 2, "it is a rule of the other pack"


def test_the_list_names_every_rule_once_a_line() -> None:
    lines = CliRunner().invoke(app, ["explain", "--list"]).output.splitlines()
    assert lines == [f"{pack:<8} {one.name}" for pack, policies in PACKS.items() for one in policies]


REGISTERS = {f"PCR{index}": value for index, value in enumerate(("a0" * 48, "a1" * 48, "a2" * 48))}


@pytest.mark.parametrize("inside", [lambda given: given, lambda given: {"published-measurements": given}])
def test_registers_in_capitals_are_refused_where_the_property_has_them_small(
    tmp_path: Path, inside: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(inside({"measurements": [{**REGISTERS, "eifVersion": "1.0.0"}]})))
    done = CliRunner().invoke(app, ["config", str(file), "--pack", "enclave"])
    assert done.exit_code == 1, "today's silence would fail only when a stack is judged"
    assert "measurements[0] names 'PCR0', and this property writes it 'pcr0'" in done.output
    assert "--eif-version" in done.output, "and the other way is named"


def test_two_images_are_given_by_their_files_and_versions_beside_other_properties(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("mine.json", "old.json", "new.json")]
    for file, given in zip(files, ({"attestableAmis": [AMI]}, REGISTERS, REGISTERS | {"PCR8": "a8" * 48}), strict=True):
        file.write_text(json.dumps(given))
    versions = ["--eif-version", "1.0.0", "--eif-version", "1.1.0"]
    done = CliRunner().invoke(app, ["config", *map(str, files), *versions, "--pack", "enclave"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert [one["eifVersion"] for one in found["published-measurements"]["measurements"]] == ["1.0.0", "1.1.0"]
    assert "pcr8" in found["published-measurements"]["measurements"][1], "the signed one's signer too"
    assert found["level-2-attestable-image"]["attestableAmis"] == [AMI]


@pytest.mark.parametrize(
    ("texts", "versions", "reason"),
    [
        ([REGISTERS], [], "not its version"),
        ([{"attestableAmis": []}], ["1.0.0"], "belongs to no file"),
        ([{"attestableAmis": []}, {"attestableAmis": [AMI]}], [], "gives 'attestableAmis' again"),
    ],
)
def test_files_that_do_not_go_together_end_with_one_sentence(
    tmp_path: Path, texts: list[dict[str, Any]], versions: list[str], reason: str
) -> None:
    for number, given in enumerate(texts):
        (tmp_path / f"{number}.json").write_text(json.dumps(given))
    files = [str(tmp_path / f"{number}.json") for number in range(len(texts))]
    options = [word for version in versions for word in ("--eif-version", version)]
    done = CliRunner().invoke(app, ["config", *files, *options, "--pack", "enclave"])
    assert done.exit_code == 1
    assert reason in done.output
