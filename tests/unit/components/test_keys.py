"""The platform's keys under mocks, with three regions and four."""

from __future__ import annotations

import json

import pulumi_aws as aws
import pytest

from components.key_policies import logs_key_policy, storage_key_policy
from components.keys import PlatformKeys, PlatformKeysArgs
from components.placement import Placement
from tests.support.pulumi_program import ACCOUNT, Program, record

THREE = ("us-east-1", "us-east-2", "us-west-2")
FOUR = (*THREE, "eu-west-1")


def place(region: str) -> Placement:
    return Placement(region=region, environment="dev", account=ACCOUNT)


def keys(regions: tuple[str, ...], *, protect: bool = False) -> Program:
    def program() -> None:
        made = PlatformKeys(
            "keys",
            PlatformKeysArgs(
                placements={region: place(region) for region in regions},
                home=regions[0],
                providers={region: aws.Provider(f"aws-{region}", region=region) for region in regions},
                protect=protect,
            ),
        )
        for arns in (made.logs, made.storage, made.tables):
            assert tuple(arns) == regions, "an ARN for every region"

    return record(program)


@pytest.mark.parametrize("regions", [THREE, FOUR], ids=len)
def test_every_region_has_its_own_logs_and_storage_key(regions: tuple[str, ...]) -> None:
    made = keys(regions)
    for region in regions:
        for what, policy in (("logs", logs_key_policy), ("storage", storage_key_policy)):
            key = made.one("kms/key:Key", f"keys-{what}-{region}")
            assert made.region(key) == region
            assert json.loads(key.inputs["policy"]) == policy(place(region))
            assert "multiRegion" not in key.inputs, "nothing is shared between regions under it"


@pytest.mark.parametrize("regions", [THREE, FOUR], ids=len)
def test_the_tables_key_is_one_key_whose_replicas_repeat_its_policy(regions: tuple[str, ...]) -> None:
    made = keys(regions)
    primary = made.one("kms/key:Key", f"keys-tables-{regions[0]}")
    assert primary.inputs["multiRegion"] is True
    replicas = made.of("kms/replicaKey:ReplicaKey")
    assert {made.region(one) for one in replicas} == set(regions[1:])
    for replica in replicas:
        assert replica.inputs["policy"] == primary.inputs["policy"], "KMS would write its default otherwise"
        assert primary.urn in replica.dependencies
    via = [one for one in json.loads(primary.inputs["policy"])["Statement"] if one["Sid"] == "UseThroughServices"]
    services = via[0]["Condition"]["StringEquals"]["kms:ViaService"]
    assert services == [f"dynamodb.{region}.amazonaws.com" for region in regions]


def test_keys_rotate_wait_thirty_days_and_say_whose_they_are() -> None:
    made = keys(THREE)
    for key in (*made.of("kms/key:Key"), *made.of("kms/replicaKey:ReplicaKey")):
        assert key.inputs["deletionWindowInDays"] == 30
        assert key.inputs["tags"]["mrgc:key"] == "platform"
        assert not key.inputs.get("bypassPolicyLockoutSafetyCheck"), "KMS checks that the account keeps its key"
        if key.type.endswith(":Key"):
            assert key.inputs["enableKeyRotation"] is True, "a replica follows its primary"


@pytest.mark.parametrize("protect", [True, False])
def test_keys_are_protected_where_data_lives(protect: bool) -> None:  # noqa: FBT001 - both cases of one column
    made = keys(THREE, protect=protect)
    for key in (*made.of("kms/key:Key"), *made.of("kms/replicaKey:ReplicaKey")):
        assert (key.protect, key.retain_on_delete) == (protect, protect)
        assert key.parent.endswith("mrgc:keys:PlatformKeys::keys")
