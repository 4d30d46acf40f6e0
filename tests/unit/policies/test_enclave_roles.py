from __future__ import annotations

import json
from typing import Any

import pytest
from pulumi_policy.proxy import UnknownValueError

from components.host_role import decrypt_attested
from components.placement import Placement
from policies.rule import UNKNOWN, Resource
from tests.support.enclave_resources import CONFIG, OLD, allow, attach, refusing, role_policy, said

CONTROL = "platform-role-no-key-control"
DECRYPT = "platform-role-attested-decrypt"
MANAGED = "platform-role-managed-policies"
PLACE = Placement(region="us-east-1", environment="prod", account="444455556666")
VIA_S3 = {"StringEquals": {"kms:ViaService": "s3.us-east-1.amazonaws.com"}}


def test_the_statement_of_the_real_hosts_role_is_accepted() -> None:
    assert refusing(role_policy(decrypt_attested(PLACE, OLD))) == set()


def test_ordinary_permissions_are_accepted() -> None:
    assert refusing(role_policy(allow(["dynamodb:*", "s3:GetObject", "logs:Put*", "kms:DescribeKey"]))) == set()


@pytest.mark.parametrize(
    "actions",
    [
        "kms:PutKeyPolicy",
        "KMS:createGRANT",
        ["s3:GetObject", "kms:ReplicateKey"],
        "kms:Put*",
        "kms:Create?rant",
        "iam:PutRolePolicy",
        "iam:Attach*",
        "iam:CreatePolicyVersion",
    ],
)
def test_a_role_that_could_change_keys_or_itself_is_refused(actions: Any) -> None:
    assert refusing(role_policy(allow(actions))) == {CONTROL}


def test_a_condition_does_not_make_grants_harmless() -> None:
    bound = allow("kms:CreateGrant", {"Bool": {"kms:GrantIsForAWSResource": "true"}})
    assert refusing(role_policy(bound)) == {CONTROL}


@pytest.mark.parametrize("actions", ["*", "kms:*"])
def test_wildcards_reach_everything(actions: str) -> None:
    assert {CONTROL, DECRYPT} <= refusing(role_policy(allow(actions)))


def test_everything_but_something_reaches_everything_else() -> None:
    statement = {"Effect": "Allow", "NotAction": "s3:*", "Resource": "*"}
    assert {CONTROL, DECRYPT} <= refusing(role_policy(statement))


def test_what_is_denied_is_not_given() -> None:
    assert refusing(role_policy({"Effect": "Deny", "Action": "*", "Resource": "*"})) == set()


def test_a_second_statement_is_read_too() -> None:
    assert refusing(role_policy(allow("s3:GetObject"), allow("kms:PutKeyPolicy"))) == {CONTROL}


@pytest.mark.parametrize("type_", ["aws:iam/policy:Policy", "aws:iam/userPolicy:UserPolicy"])
def test_every_kind_of_policy_is_read(type_: str) -> None:
    assert refusing(role_policy(allow("kms:PutKeyPolicy"), type_=type_)) == {CONTROL}


def test_inline_policies_of_a_role_are_read() -> None:
    inline = [{"name": "x", "policy": json.dumps({"Statement": allow("kms:PutKeyPolicy")})}]
    assert refusing(Resource(type="aws:iam/role:Role", props={"inlinePolicies": inline})) == {CONTROL}
    assert refusing(Resource(type="aws:iam/role:Role", props={"assumeRolePolicy": "{}"})) == set()


@pytest.mark.parametrize("action", ["kms:Decrypt", "kms:Dec*", "kms:ReEncryptFrom", "kms:DeriveSharedSecret"])
def test_decrypting_without_attestation_or_a_service_is_refused(action: str) -> None:
    assert refusing(role_policy(allow(action))) == {DECRYPT}


@pytest.mark.parametrize(
    "condition",
    [
        {"StringEqualsIgnoreCase": {"kms:RecipientAttestation:PCR0": OLD[0]}},
        {"Null": {"kms:RecipientAttestation:PCR0": "false"}},
        {"Null": {"kms:RecipientAttestation:PCR0": False}},
        VIA_S3,
        {"StringLike": {"kms:ViaService": ["s3.*.amazonaws.com", "dynamodb.us-east-1.amazonaws.com"]}},
    ],
)
def test_decrypting_with_attestation_or_through_a_service_is_accepted(condition: dict[str, Any]) -> None:
    assert refusing(role_policy(allow("kms:Decrypt", condition))) == set()


@pytest.mark.parametrize(
    "condition",
    [
        {"StringEqualsIgnoreCaseIfExists": {"kms:RecipientAttestation:PCR0": OLD[0]}},
        {"Null": {"kms:RecipientAttestation:PCR0": "true"}},
        {"Null": {"kms:RecipientAttestation:PCR0": ["false", "true"]}},
        {"StringNotEquals": {"kms:ViaService": "s3.us-east-1.amazonaws.com"}},
        {"StringEqualsIfExists": {"kms:ViaService": "s3.us-east-1.amazonaws.com"}},
        {"ForAllValues:StringEquals": {"kms:ViaService": "s3.us-east-1.amazonaws.com"}},
        {"StringLike": {"kms:ViaService": "*"}},
        {"StringEquals": {"kms:ViaService": []}},
        {"StringEquals": {"aws:PrincipalTag/x": "y"}},
    ],
)
def test_conditions_that_do_not_bind_are_none(condition: dict[str, Any]) -> None:
    assert refusing(role_policy(allow("kms:Decrypt", condition))) == {DECRYPT}


@pytest.mark.parametrize(
    "name", ["AdministratorAccess", "AWSKeyManagementServicePowerUser", "job-function/SystemAdministrator"]
)
def test_managed_policies_that_nobody_looked_at_are_refused(name: str) -> None:
    assert refusing(attach(f"arn:aws:iam::aws:policy/{name}")) == {MANAGED}
    role = Resource(type="aws:iam/role:Role", props={"managedPolicyArns": [f"arn:aws:iam::aws:policy/{name}"]})
    assert refusing(role) == {MANAGED}


def test_managed_policies_that_are_configured_are_accepted() -> None:
    assert refusing(attach("arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole")) == set()
    config = {**CONFIG, "managedPolicies": ["arn:aws:iam::aws:policy/ReadOnlyAccess"]}
    assert refusing(attach("arn:aws:iam::aws:policy/ReadOnlyAccess"), config) == set()


def test_the_programs_own_policies_may_be_attached() -> None:
    assert refusing(attach("arn:aws:iam::444455556666:policy/own")) == set()


def test_a_policy_that_cannot_be_read_is_refused() -> None:
    for text in ("{", "{}", '{"Statement": [{"Effect": "Allow", "Actions": "*"}]}'):
        broken = Resource(type="aws:iam/rolePolicy:RolePolicy", props={"policy": text})
        assert {CONTROL, DECRYPT} <= refusing(broken), text


def test_a_policy_not_known_yet_is_judged_at_the_update() -> None:
    with pytest.raises(UnknownValueError):
        said(CONTROL, Resource(type="aws:iam/rolePolicy:RolePolicy", props={"policy": UNKNOWN}))
    with pytest.raises(UnknownValueError):
        said(MANAGED, Resource(type="aws:iam/rolePolicyAttachment:RolePolicyAttachment", props={"policyArn": UNKNOWN}))
