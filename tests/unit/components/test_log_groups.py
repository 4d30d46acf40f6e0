from __future__ import annotations

import pulumi
import pulumi_aws as aws
import pytest

from components.log_groups import WHAT, RegionLogs, RegionLogsArgs
from components.placement import Placement
from tests.support.pulumi_program import ACCOUNT, Program, record

REGION = "us-east-2"
PLACE = Placement(region=REGION, environment="dev", account=ACCOUNT)


def logs(*, protect: bool = False) -> tuple[Program, dict[str, str]]:
    names: dict[str, str] = {}

    def program() -> None:
        provider = aws.Provider(REGION, region=REGION)
        args = RegionLogsArgs(placement=PLACE, key_arn="arn:aws:kms:us-east-2:1:key/k", days=90, protect=protect)
        names.update(RegionLogs(f"logs-{REGION}", args, pulumi.ResourceOptions(provider=provider)).names)

    return record(program), names


def test_each_kind_of_process_has_a_group_of_a_known_name() -> None:
    program, names = logs()
    assert names == {what: f"/mrgc/dev/{what}" for what in WHAT}
    assert {group.inputs["name"] for group in program.of("LogGroup")} == set(names.values())


def test_every_group_is_encrypted_kept_as_long_as_told_and_in_its_region() -> None:
    program, _ = logs()
    component = program.one("mrgc:log_groups:RegionLogs")
    for group in program.of("LogGroup"):
        assert group.inputs["kmsKeyId"] == "arn:aws:kms:us-east-2:1:key/k"
        assert group.inputs["retentionInDays"] == 90
        assert group.inputs["tags"]["mrgc:region"] == REGION
        assert program.region(group) == REGION
        assert group.parent == component.urn


@pytest.mark.parametrize("protect", [True, False])
def test_groups_are_protected_where_data_is_to_stay(protect: bool) -> None:  # noqa: FBT001 - pytest's parameter
    program, _ = logs(protect=protect)
    assert {(group.protect, group.retain_on_delete) for group in program.of("LogGroup")} == {(protect, protect)}
