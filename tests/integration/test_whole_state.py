"""A reviewer alone with the exported state of a whole deployment: `mrgc policy check` over it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from policies.cli import app
from stacks.packs import properties
from tests.support.exported_state import exported_state
from tests.support.whole_program import whole_program


def check(folder: Path, state: dict[str, Any], config: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "config.json").write_text(json.dumps(config))
    arguments = ["check", "--state", str(folder / "state.json"), "--config", str(folder / "config.json"), "--json"]
    done = CliRunner().invoke(app, arguments)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return done.exit_code, found


@pytest.mark.parametrize(("stack", "regions"), [("dev", 4), ("prod", 3)])
def test_the_state_of_the_real_program_breaks_no_rule(tmp_path: Path, stack: str, regions: int) -> None:
    settings, program = whole_program(stack, regions)
    assert check(tmp_path, exported_state(program), properties(settings)) == (0, [])


def test_one_changed_resource_of_the_whole_state_is_named(tmp_path: Path) -> None:
    settings, program = whole_program("prod", 3)
    state = exported_state(program)
    template = next(one for one in state["deployment"]["resources"] if one["type"].endswith(":LaunchTemplate"))
    template["inputs"]["enclaveOptions"]["enabled"] = False
    code, said = check(tmp_path, state, properties(settings))
    assert code == 1
    assert {(one["rule"], one["urn"]) for one in said} == {("gpu-host-enclave", template["urn"])}
