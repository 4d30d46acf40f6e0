"""The platform's key policies: nobody uses a key by itself, services do, and the account can always administer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from components.key_policies import (
    ADMIN_ACTIONS,
    LAUNCHING_ROLES,
    logs_key_policy,
    storage_key_policy,
    tables_key_policy,
)
from components.placement import Placement
from stacks.local.aws.policy import Call, decide, parse_policy
from stacks.local.aws.principals import Identity

ACCOUNT = "123456789012"
PLACE = Placement(region="us-east-2", environment="prod", account=ACCOUNT)
REGIONS = ("us-east-1", "us-east-2", "us-west-2")
POLICIES = {
    "logs": logs_key_policy(PLACE),
    "storage": storage_key_policy(PLACE),
    "tables": tables_key_policy(ACCOUNT, REGIONS),
}
USES = ("Encrypt", "Decrypt", "GenerateDataKey", "ReEncryptFrom", "CreateGrant")


def identity(arn: str) -> Identity:
    return Identity(arn=arn, account=arn.split(":")[4], names=frozenset({arn}))


HOST = identity(f"arn:aws:iam::{ACCOUNT}:role/mrgc-prod-us-east-2-host")
ROOT = identity(f"arn:aws:iam::{ACCOUNT}:root")


def allowed(policy: dict[str, Any], who: Identity, action: str, **context: str) -> bool:
    given = {"kms:calleraccount": (who.account,), "aws:principalarn": (who.arn,)}
    given |= {key.replace("_", ":").lower(): (value,) for key, value in context.items()}
    call = Call(identity=who, action=f"kms:{action}", resource="*", context=given)
    return decide(policy, call).allowed


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_the_account_administers_and_does_not_use(policy: dict[str, Any]) -> None:
    for action in ADMIN_ACTIONS:
        assert allowed(policy, ROOT, action.removeprefix("kms:")), f"the account could be locked out of {action}"
    for action in USES:
        assert not allowed(policy, ROOT, action), f"root's IAM could let anyone {action}"


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_role_of_the_account_can_neither_use_nor_administer_a_key_by_itself(policy: dict[str, Any]) -> None:
    for action in (*USES, "PutKeyPolicy", "ScheduleKeyDeletion", "DescribeKey"):
        assert not allowed(policy, HOST, action)


@pytest.mark.parametrize("service", ["ec2", "s3", "fsx", "ecr"])
def test_storage_services_use_the_storage_key_for_whoever_calls_them(service: str) -> None:
    via = f"{service}.us-east-2.amazonaws.com"
    assert allowed(POLICIES["storage"], HOST, "Decrypt", kms_viaservice=via)
    elsewhere = f"{service}.us-west-2.amazonaws.com"
    assert not allowed(POLICIES["storage"], HOST, "Decrypt", kms_viaservice=elsewhere), "another region's service"
    stranger = identity("arn:aws:iam::999900001111:role/mrgc-prod-us-east-2-host")
    assert not allowed(POLICIES["storage"], stranger, "Decrypt", kms_viaservice=via), "another account's caller"


def test_other_services_have_no_use_of_the_storage_key() -> None:
    for service in ("dynamodb", "lambda", "secretsmanager", "sqs"):
        via = f"{service}.us-east-2.amazonaws.com"
        assert not allowed(POLICIES["storage"], HOST, "Decrypt", kms_viaservice=via)


def test_every_regions_dynamodb_uses_the_tables_key_and_no_other_regions() -> None:
    for region in REGIONS:
        via = f"dynamodb.{region}.amazonaws.com"
        assert allowed(POLICIES["tables"], HOST, "Decrypt", kms_viaservice=via)
    assert not allowed(POLICIES["tables"], HOST, "Decrypt", kms_viaservice="dynamodb.eu-west-1.amazonaws.com")
    assert not allowed(POLICIES["tables"], HOST, "Decrypt", kms_viaservice="s3.us-east-1.amazonaws.com")


def test_only_the_roles_that_launch_hosts_use_the_storage_key_directly() -> None:
    for role in LAUNCHING_ROLES:
        who = identity(f"arn:aws:iam::{ACCOUNT}:{role}")
        assert allowed(POLICIES["storage"], who, "GenerateDataKeyWithoutPlaintext"), "hosts would not start"
        foreign = identity(f"arn:aws:iam::999900001111:{role}")
        assert not allowed(POLICIES["storage"], foreign, "GenerateDataKeyWithoutPlaintext")


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_every_grant_is_an_aws_resources_and_every_wildcard_is_bound_to_the_account(policy: dict[str, Any]) -> None:
    for statement in policy["Statement"]:
        condition = statement.get("Condition", {})
        if "kms:CreateGrant" in statement["Action"]:
            assert condition["Bool"] == {"kms:GrantIsForAWSResource": "true"}, "people could hand the key on"
            assert statement["Action"] == ["kms:CreateGrant"], "the condition would forbid the other actions"
        if statement["Principal"] == {"AWS": "*"}:
            assert condition["StringEquals"]["kms:CallerAccount"] == ACCOUNT
            assert {"kms:ViaService", "aws:PrincipalArn"} & {key for keys in condition.values() for key in keys}


def test_logs_are_encrypted_for_log_groups_of_this_environment_and_of_clusters_only() -> None:
    statements = {one["Sid"]: one for one in POLICIES["logs"]["Statement"]}
    groups = statements["LogGroups"]
    assert groups["Principal"] == {"Service": "logs.us-east-2.amazonaws.com"}
    context = groups["Condition"]["ArnLike"]["kms:EncryptionContext:aws:logs:arn"]
    assert context == [
        f"arn:aws:logs:us-east-2:{ACCOUNT}:log-group:{name}"
        for name in ("/mrgc/prod/*", "/aws/ecs/containerinsights/*/performance")
    ]
    source = statements["Alarms"]["Condition"]["StringEquals"]["aws:SourceAccount"]
    assert source == ACCOUNT, "another account's alarms could use the key"


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_every_policy_is_one_that_kms_stores(policy: dict[str, Any]) -> None:
    assert parse_policy(json.dumps(policy)) == policy
    sids = [statement["Sid"] for statement in policy["Statement"]]
    assert len(set(sids)) == len(sids)
