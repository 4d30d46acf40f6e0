"""What the packs are told of a stack, and by whom it is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stacks.packs import EX_USAGE, main, properties, read_stack
from stacks.settings import SettingsError, parse
from tests.support.stacks import STACKS, stack_values


def test_attestable_images_are_the_enclaves_and_not_whatever_the_fleet_runs() -> None:
    values = stack_values("prod")
    values["measurements"]["attestable_amis"].append("ami-0cccccccccccccccc")
    told = properties(parse(values))
    assert "ami-0cccccccccccccccc" in told["attestableAmis"]
    assert set(values["fleet"]["amis"].values()) < set(told["attestableAmis"]), "else the rule could refuse nothing"


def test_every_image_that_may_still_run_is_told_with_its_registers() -> None:
    values = stack_values("dev")
    values["earlier_measurements"] = [{**values["measurements"], "eif_version": "0.0.9", "pcr0": "AB" * 48}]
    now, earlier = properties(parse(values))["measurements"]
    assert (earlier["eifVersion"], earlier["pcr0"]) == ("0.0.9", "ab" * 48)
    assert now["pcr0"] == values["measurements"]["pcr0"]


@pytest.mark.parametrize("stack", STACKS)
def test_a_stacks_file_is_read_without_the_engine(stack: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--stack", stack]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["regions"]) == {"us-east-1", "us-east-2", "us-west-2"}
    assert told["assuranceLevel"] == (2 if stack == "prod" else 1)
    assert told["account"] == "123456789012"


def test_a_stack_without_a_file_is_said_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--stack", "nowhere"]) == EX_USAGE
    assert "Pulumi.nowhere.yaml can't be read: No such file or directory." in capsys.readouterr().err


@pytest.mark.parametrize(("text", "said"), [("a: [", "is not YAML."), ("a: 1", "no `config:`"), ("[]", "no `config:`")])
def test_a_file_that_is_no_stacks_is_said_in_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "Pulumi.x.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=said):
        read_stack(file)
