"""The five tables under mocks: keys that the registry uses, and what strong consistency forbids."""

from __future__ import annotations

from typing import Any

import pulumi
import pulumi_aws as aws
import pytest

from components.global_state import (
    TABLES,
    GlobalState,
    GlobalStateArgs,
    GlobalStateError,
    check_regions,
    table_name,
)
from components.placement import Placement
from dataplane.registry.dynamodb import TABLE
from tests.support.pulumi_program import ACCOUNT, Program, Recorded, record

THREE = ("us-east-1", "us-east-2", "us-west-2")
FOUR = (*THREE, "eu-west-1")
STRONG = ("routing_state", "autoscaling_state")
ALL = tuple(spec.name for spec in TABLES)


def tables(regions: tuple[str, ...] = THREE, *, protect: bool = False, **more: Any) -> Program:
    def program() -> None:
        made = GlobalState(
            "state",
            GlobalStateArgs(
                placement=Placement(region=regions[0], environment="dev", account=ACCOUNT),
                regions=regions,
                strong_regions=THREE,
                key_arns={region: f"arn:aws:kms:{region}:{ACCOUNT}:key/mrk-1" for region in regions},
                protect=protect,
                **more,
            ),
            pulumi.ResourceOptions(provider=aws.Provider("aws-home", region=regions[0])),
        )
        assert made.table_names == {short: f"mrgc-dev-{short}" for short in ALL}
        assert tuple(made.table_arns) == ALL

    return record(program)


def table(made: Program, short: str) -> Recorded:
    return made.one("dynamodb/table:Table", f"state-{short}")


def test_the_five_tables_are_there_under_one_name_in_all_regions() -> None:
    made = tables()
    assert {one.inputs["name"] for one in made.of("dynamodb/table:Table")} == {f"mrgc-dev-{short}" for short in ALL}
    assert {made.region(one) for one in made.of("dynamodb/table:Table")} == {"us-east-1"}


def test_hosts_are_keyed_as_the_registry_reads_them() -> None:
    assert TABLE in ALL
    hosts = table(tables(), TABLE).inputs
    assert (hosts["hashKey"], hosts["rangeKey"]) == ("region", "instance_id"), "one Query reads a region's hosts"
    assert hosts["ttl"] == {"attributeName": "expires", "enabled": True}, "dataplane/registry writes `expires`"


@pytest.mark.parametrize("regions", [THREE, FOUR], ids=len)
@pytest.mark.parametrize("short", STRONG)
def test_leases_and_failover_state_are_strongly_consistent_over_three_regions(
    short: str, regions: tuple[str, ...]
) -> None:
    inputs = table(tables(regions), short).inputs
    assert {one["regionName"] for one in inputs["replicas"]} == set(THREE[1:]), "two replicas and the table: three"
    assert {one["consistencyMode"] for one in inputs["replicas"]} == {"STRONG"}
    assert "ttl" not in inputs, "MRSC has no TTL"
    assert "streamEnabled" not in inputs, "MRSC replicates without streams"
    assert "localSecondaryIndexes" not in inputs


@pytest.mark.parametrize("regions", [THREE, FOUR], ids=len)
@pytest.mark.parametrize("short", [short for short in ALL if short not in STRONG])
def test_the_others_are_in_every_region_and_expire(short: str, regions: tuple[str, ...]) -> None:
    inputs = table(tables(regions), short).inputs
    assert {one["regionName"] for one in inputs["replicas"]} == set(regions[1:])
    assert {one["consistencyMode"] for one in inputs["replicas"]} == {"EVENTUAL"}
    assert (inputs["streamEnabled"], inputs["streamViewType"]) == (True, "NEW_AND_OLD_IMAGES")
    assert inputs["ttl"] == {"attributeName": "expires", "enabled": True}


@pytest.mark.parametrize("short", ALL)
def test_every_replica_is_encrypted_backed_up_and_protected_from_deletion(short: str) -> None:
    inputs = table(tables(FOUR), short).inputs
    assert inputs["serverSideEncryption"] == {
        "enabled": True,
        "kmsKeyArn": f"arn:aws:kms:us-east-1:{ACCOUNT}:key/mrk-1",
    }
    assert inputs["pointInTimeRecovery"] == {"enabled": True}
    assert inputs["deletionProtectionEnabled"] is True
    assert inputs["billingMode"] == "PAY_PER_REQUEST"
    for replica in inputs["replicas"]:
        assert replica["kmsKeyArn"] == f"arn:aws:kms:{replica['regionName']}:{ACCOUNT}:key/mrk-1"
        assert replica["pointInTimeRecovery"] is True
        assert replica["deletionProtectionEnabled"] is True


@pytest.mark.parametrize("short", ALL)
def test_only_key_attributes_are_declared(short: str) -> None:
    inputs = table(tables(), short).inputs
    declared = {one["name"]: one["type"] for one in inputs["attributes"]}
    assert set(declared) == {inputs["hashKey"], inputs["rangeKey"]}, "others would make a plan that never settles"
    assert declared[inputs["hashKey"]] == "S"


@pytest.mark.parametrize("protect", [True, False])
def test_tables_are_protected_where_data_lives(protect: bool) -> None:  # noqa: FBT001 - both cases of one column
    for one in tables(protect=protect).of("dynamodb/table:Table"):
        assert (one.protect, one.retain_on_delete) == (protect, protect)
        assert one.parent.endswith("mrgc:global_state:GlobalState::state")


def test_who_takes_a_stack_down_for_good_turns_deletion_protection_off() -> None:
    for one in tables(deletion_protection=False).of("dynamodb/table:Table"):
        assert one.inputs["deletionProtectionEnabled"] is False
        assert not any(replica["deletionProtectionEnabled"] for replica in one.inputs["replicas"])


def test_a_name_says_its_environment() -> None:
    assert table_name("prod", "metrics") == "mrgc-prod-metrics"


@pytest.mark.parametrize(
    ("home", "regions", "strong", "sentence"),
    [
        ("eu-west-1", THREE, THREE, "The home region eu-west-1 is not one of the regions"),
        ("us-east-1", THREE, THREE[:2], "need three of the regions"),
        ("us-east-1", THREE, (*THREE[:2], THREE[0]), "need three of the regions"),
        ("us-east-1", THREE, (*THREE[:2], "eu-west-1"), "need three of the regions"),
        ("eu-west-1", FOUR, THREE, "not one of the strongly consistent ones"),
        ("us-east-1", (*THREE, "eu-west-1"), ("us-east-1", "us-east-2", "eu-west-1"), "one region set"),
        ("us-east-1", (*THREE, "us-west-1"), ("us-east-1", "us-east-2", "us-west-1"), "one region set"),
    ],
)
def test_regions_that_make_no_tables_are_named(
    home: str, regions: tuple[str, ...], strong: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(GlobalStateError, match=sentence):
        check_regions(home, regions, strong)
