"""`mrgc tenant receipt verify|open`: sentences for a person, an object for a script, and exit codes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dataplane.tenant.bundle import write_bundle
from dataplane.tenant.cli import app
from tests.unit.tenant.test_tenant_judge import ANSWER, BODY, MODEL, PCRS, ROOT, SHOWN, WHOLE, disclosed


@pytest.fixture
def root(tmp_path: Path) -> str:
    file, _ = ROOT.save(tmp_path, "root")
    return str(file)


@pytest.fixture
def shown(tmp_path: Path) -> str:
    write_bundle(tmp_path / "shown.json", SHOWN)
    return str(tmp_path / "shown.json")


@pytest.fixture
def whole(tmp_path: Path) -> str:
    write_bundle(tmp_path / "whole.json", WHOLE)
    return str(tmp_path / "whole.json")


def mrgc(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(app, ["receipt", *arguments], env=environ)


def test_verify_says_what_is_proved_and_what_is_not(shown: str, root: str) -> None:
    done = mrgc("verify", shown, "--root", root)
    assert done.exit_code == 0, done.output
    named = re.findall(r"^  (?!- )(\S+) +\S", done.output, re.MULTILINE)
    assert {"time_ms", "config_digest", "document_time_ms"} <= set(named), "every fact stands apart from its name"
    proved, _, unproved = done.output.partition("Not proved:")
    assert f"PCR0 {PCRS[0].hex()}" in proved, "which image"
    assert "assurance 0" in unproved, "and what a reader must not take for proved"


def test_verify_json_is_one_object_either_way(shown: str, root: str, tmp_path: Path) -> None:
    done = mrgc("verify", shown, "--root", root, "--json")
    facts = json.loads(done.output)
    assert (done.exit_code, facts["holds"], facts["model_digest"]) == (0, True, MODEL), "for a script"
    stripped = tmp_path / "stripped.json"
    write_bundle(stripped, replace(SHOWN, attestation=None))
    done = mrgc("verify", str(stripped), "--root", root, "--json")
    facts = json.loads(done.output)
    assert (done.exit_code, facts["holds"]) == (1, False), "what does not hold is exit 1"
    assert "no attestation document" in facts["why"], "with the reason"


def test_verify_compares_files_and_what_is_expected(whole: str, root: str, tmp_path: Path) -> None:
    files = {"request": BODY, "response": ANSWER, "sealed": disclosed(WHOLE).request, "wrong": b"{}"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    base = ["verify", whole, "--root", root, "--request", str(tmp_path / "request")]
    good = mrgc(*base, "--response", str(tmp_path / "response"), "--expect-model", MODEL)
    assert good.exit_code == 0, good.output
    assert mrgc("verify", whole, "--root", root, "--request", str(tmp_path / "sealed")).exit_code == 0, "as sent"
    for arguments, sentence in (
        (["--response", str(tmp_path / "wrong")], "response's file"),
        (["--expect-model", "cd" * 32], "Another model"),
        (["--expect-pcr0", "22" * 48], "another enclave image"),
        (["--expect-config", "22" * 32], "another configuration"),
    ):
        done = mrgc(*base, *arguments)
        assert (done.exit_code, sentence in done.output) == (1, True), f"{arguments}: {done.output}"
    done = mrgc(*base, MRGC_EXPECT_MODEL=f"{'cd' * 32} {'ef' * 32}")
    assert (done.exit_code, "Another model" in done.output) == (1, True), "by the environment as well"


def test_verify_without_awss_root_refuses_a_local_stacks_document(shown: str) -> None:
    done = mrgc("verify", shown)
    assert done.exit_code == 1, "AWS's pinned root is the default"
    assert "holds:" not in done.output, "nothing is said to hold"


@pytest.mark.parametrize(
    "arguments",
    [["none.json"], ["FILE", "--expect-pcr0", "xyz"], ["FILE", "--root", "none.pem"], ["FILE", "--request", "none"]],
    ids=["no file", "no digest", "no root", "no request"],
)
def test_misuse_is_exit_2(arguments: list[str], shown: str) -> None:
    done = mrgc("verify", *[shown if argument == "FILE" else argument for argument in arguments], "--json")
    assert done.exit_code == 2, done.output


def test_open_shows_a_disclosed_exchange_and_no_other(whole: str, shown: str, root: str) -> None:
    done = mrgc("open", whole, "--root", root)
    assert (done.exit_code, BODY.decode() in done.output, ANSWER.decode() in done.output) == (0, True, True), "both"
    done = mrgc("open", whole, "--root", root, "--json")
    assert json.loads(done.output)["response"] == ANSWER.decode(), "for a script"
    done = mrgc("open", shown, "--root", root)
    assert (done.exit_code, "discloses no exchange" in done.output) == (1, True), "what was not disclosed stays sealed"
