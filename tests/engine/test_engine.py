"""The program under the real engine: previewed, made, made again, changed, refused, resumed, taken down."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from dataplane.enclave.build import render_measurements
from tests.engine.engine import MISSING, ROOT, Engine, installed, scratch, stack_values

pytestmark = [
    pytest.mark.pulumi,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not installed(), reason=MISSING),
]

VIOLATIONS = Path(__file__).parent / "violations"
BROKEN = [
    ("enclave", "gpu-host-enclave", "aws:ec2/launchTemplate:LaunchTemplate"),
    ("network", "no-public-addresses", "aws:ec2/subnet:Subnet"),
]
"""A pack, the rule that its program below `violations/` breaks, and the type of what must not be created."""
LEFT_WHEN_EMPTY = {"pulumi:pulumi:Stack"}


def steps(engine: Engine) -> list[tuple[str, str]]:
    """What a preview would do: (operation, type) of every step that does something."""
    ran = engine.run("preview", "--json")
    assert ran.status == 0, ran.text
    found = json.loads(ran.stdout)["steps"]
    return sorted((step["op"], step["urn"].split("::")[2].split("$")[-1]) for step in found if step["op"] != "same")


def test_up_twice_changes_nothing_and_destroy_leaves_nothing(engine: Engine, packs: dict[Path, Path]) -> None:
    previewed = engine.run("preview", packs=packs)
    assert previewed.status == 0, previewed.text
    assert not engine.provider_calls("Create"), "a preview created something"

    made = engine.run("up", "--yes", "--skip-preview", packs=packs)
    assert made.status == 0, made.text
    assert len(engine.provider_calls("Create")) > 500, "three regions are hundreds of resources"

    again = engine.run("up", "--yes", "--expect-no-changes", packs=packs)
    assert again.status == 0, again.text

    gone = engine.run("destroy", "--yes", "--skip-preview")
    assert gone.status == 0, gone.text
    left = {resource["type"] for resource in engine.resources()}
    assert left <= LEFT_WHEN_EMPTY, f"destroy left {left}"


def test_one_changed_setting_changes_just_what_it_is_about(engine: Engine) -> None:
    assert engine.run("up", "--yes", "--skip-preview").status == 0
    values = copy.deepcopy(stack_values("dev"))
    values["mrgc:log_days"] = 120
    engine.configure(values)
    changed = steps(engine)
    assert changed, "keeping logs longer changes log groups"
    assert {operation for operation, _ in changed} == {"update"}, changed
    assert {type_ for _, type_ in changed} <= {"aws:cloudwatch/logGroup:LogGroup", "pulumi:pulumi:Stack"}, changed


def test_a_failed_create_is_finished_by_the_next_up(engine: Engine) -> None:
    broken = engine.run("up", "--yes", "--skip-preview", fail_creating="ec2/subnet:Subnet")
    assert broken.status != 0, "a resource that AWS refuses must fail the run"
    assert "was told to refuse" in broken.text
    finished = engine.run("up", "--yes", "--skip-preview")
    assert finished.status == 0, finished.text
    assert engine.run("up", "--yes", "--expect-no-changes").status == 0


@pytest.mark.parametrize(("pack", "rule", "type_"), BROKEN)
def test_a_violation_of_a_pack_stops_up_before_creation(
    tmp_path: Path, packs: dict[Path, Path], pack: str, rule: str, type_: str
) -> None:
    folder = ROOT / "policies" / pack
    values = {"pulumi:disable-default-providers": ["aws"]}
    with scratch(tmp_path / "home", program=VIOLATIONS / pack, values=values) as engine:
        refused = engine.run("up", "--yes", "--skip-preview", packs={folder: packs[folder]})
        assert refused.status != 0, refused.text
        assert rule in refused.text, refused.text
        created = [urn for urn in engine.provider_calls("Create") if type_ in urn]
        assert not created, "the rule spoke after the resource was there"


def test_a_wrong_setting_stops_the_program_before_anything_is_planned(engine: Engine) -> None:
    values = copy.deepcopy(stack_values("dev"))
    values["mrgc:images"]["router"] = "mrgc/router:latest"
    engine.configure(values)
    refused = engine.run("up", "--yes", "--skip-preview")
    assert refused.status != 0
    assert "mrgc:images.router is 'mrgc/router:latest'" in refused.text
    assert "Traceback" not in refused.text, "one clear sentence, not a stack trace"
    assert not engine.provider_calls("Create")


def test_an_orphan_without_a_provider_fails_closed(tmp_path: Path) -> None:
    program = VIOLATIONS / "orphan"
    values = {"pulumi:disable-default-providers": ["aws"]}
    with scratch(tmp_path / "home", program=program, values=values) as engine:
        refused = engine.run("up", "--yes", "--skip-preview")
        assert refused.status != 0
        assert "Default provider for 'aws' disabled" in refused.text, refused.text


def test_the_tenants_program_makes_its_key_and_a_replica_a_region(tmp_path: Path) -> None:
    folder = ROOT / "stacks" / "tenant"
    values = yaml.safe_load((folder / "Pulumi.example.yaml").read_text())["config"]
    measured = tmp_path / "measurements.json"
    measured.write_text(render_measurements({index: bytes([index + 1]) * 48 for index in (0, 1, 2)}))
    values["mrgc-tenant:measurements_files"] = [str(measured)]
    with scratch(tmp_path / "home", program=folder, values=values) as engine:
        made = engine.run("up", "--yes", "--skip-preview")
        assert made.status == 0, made.text
        types = Counter(resource["type"] for resource in engine.resources())
        assert types["aws:kms/key:Key"] == 1
        assert types["aws:kms/replicaKey:ReplicaKey"] == len(values["mrgc-tenant:replica_regions"])
