"""Attacks on the enclave pack, each named by what it would win: all are refused, by the rule that is named."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Sequence
from typing import Any

import pytest

from policies.enclave.rules import RULES
from policies.rule import UNKNOWN, Resource, StackRule
from tests.support.enclave_resources import (
    CONFIG,
    DIGEST,
    HOST,
    NEW,
    OLD,
    PLATFORM,
    allow,
    changed,
    decrypting,
    host,
    key,
    of_rule,
    parameter,
    policy,
    refusing,
    role_policy,
    rule,
    task,
)

LEVEL_1 = {**CONFIG, "assuranceLevel": 1}


def whole(*resources: Resource) -> set[str]:
    """The names of the rules over the whole that refuse these resources."""
    return {one.name for one in RULES if isinstance(one, StackRule) and one.violations(resources, of_rule(one))}


def says(*resources: Resource) -> list[str]:
    one = rule("nothing-borrowed")
    assert isinstance(one, StackRule)
    return one.violations(resources)


def test_a_second_statement_list_in_other_letters_hides_nothing() -> None:
    """Read with the case ignored, the last of two lists would win; the open one is put first."""
    opened = json.dumps({"Effect": "Allow", "Principal": {"AWS": HOST}, "Action": "kms:Decrypt", "Resource": "*"})
    text = json.dumps(policy(OLD))
    assert "tenant-key-attested-decrypt" in refusing(key('{"statement": [' + opened + "], " + text[1:]))
    assert "tenant-key-attested-decrypt" in refusing(key(text[:-1] + ', "statement": [' + opened + "]}"))


@pytest.mark.parametrize(
    "principal",
    [
        f"arn:aws:iam::{PLATFORM}:role/deployer",
        f"arn:aws:iam::{PLATFORM}:user/operator",
        f"arn:aws:iam::{PLATFORM}:root",
    ],
)
def test_no_other_hand_of_the_platforms_account_changes_a_tenants_key(principal: str) -> None:
    grant = {"Effect": "Allow", "Principal": {"AWS": principal}, "Action": "kms:PutKeyPolicy", "Resource": "*"}
    found = changed(lambda document: document["Statement"].append(grant))
    assert refusing(key(found)) == {"tenant-key-no-platform-control"}


@pytest.mark.parametrize(
    "action",
    ["DisableKey", "CancelKeyDeletion", "DeleteImportedKeyMaterial", "RotateKeyOnDemand", "Sign", "GetPublicKey"],
)
def test_the_platform_gets_nothing_of_a_tenants_key_but_decrypting(action: str) -> None:
    grant = {"Effect": "Allow", "Principal": {"AWS": HOST}, "Action": f"kms:{action}", "Resource": "*"}
    found = changed(lambda document: document["Statement"].append(grant))
    assert refusing(key(found)) == {"tenant-key-no-platform-control"}


def test_a_statement_of_the_same_sid_is_judged_by_itself() -> None:
    def twice(found: dict[str, Any]) -> None:
        bare = copy.deepcopy(decrypting(found))
        del bare["Condition"]["StringEqualsIgnoreCase"]
        found["Statement"].append(bare)

    assert "tenant-key-attested-decrypt" in refusing(key(changed(twice)))


@pytest.mark.parametrize(
    "store", [{"customKeyStoreId": "cks-1"}, {"customKeyStoreId": UNKNOWN}, {"xksKeyId": "somewhere"}], ids=str
)
def test_a_key_whose_material_lies_in_a_store_of_somebodys_is_refused(store: dict[str, Any]) -> None:
    """Outside of KMS no condition on an attestation document holds."""
    assert refusing(key(**store)) == {"kms-key-rotates"}


def test_a_replica_of_imported_material_is_refused() -> None:
    assert refusing(key(type_="aws:kms/replicaExternalKey:ReplicaExternalKey")) == {"kms-key-rotates"}


def test_true_is_no_hop_limit() -> None:
    assert refusing(host(metadataOptions={"httpTokens": "required", "httpPutResponseHopLimit": True})) == {
        "gpu-host-imdsv2"
    }


def user_data(text: str) -> Resource:
    return host(userData=base64.b64encode(text.encode()).decode())


@pytest.mark.parametrize(
    "text",
    [
        "nitro-cli run-enclave --eif-path x.eif --debug-mode",
        "nitro-cli run-enclave --config x.json --attach-console",
        "nitro-cli  console --enclave-id i-1",
    ],
)
def test_no_host_debugs_its_enclave_at_either_level(text: str) -> None:
    for config in (CONFIG, LEVEL_1):
        assert refusing(user_data(text), config) == {"gpu-host-no-debug-enclave"}
    assert refusing(user_data("nitro-cli run-enclave --eif-path x.eif")) == set()


@pytest.mark.parametrize(
    "text",
    [
        "echo x | passwd --stdin root",
        "users:\n  - name: operator\n    passwd: $6$x",
        "users:\n  - name: operator\n    hashed_passwd: $6$x",
        "dnf install -y openssh-server",
        "#include https://example.com/more",
    ],
)
def test_other_ways_to_prepare_a_login_are_refused_at_level_2(text: str) -> None:
    assert refusing(user_data(text)) == {"level-2-no-login-in-user-data"}
    assert refusing(user_data(text), LEVEL_1) == set()


@pytest.mark.parametrize(
    "action",
    [
        "iam:PassRole",
        "iam:CreateRole",
        "iam:AddRoleToInstanceProfile",
        "iam:PutRolePermissionsBoundary",
        "iam:CreateLoginProfile",
        "kms:ScheduleKeyDeletion",
        "kms:ImportKeyMaterial",
        "kms:Update*",
    ],
)
def test_no_role_gives_itself_or_what_it_starts_more(action: str) -> None:
    assert refusing(role_policy(allow(action))) == {"platform-role-no-key-control"}


@pytest.mark.parametrize(
    "action",
    [
        "ssm:PutParameter",
        "ec2:RunInstances",
        "ec2:CreateLaunchTemplateVersion",
        "ec2:ModifyInstanceMetadataOptions",
        "autoscaling:Update*",
        "ecr:PutImage",
        "ecs:ExecuteCommand",
        "ssm:StartSession",
        "ec2-instance-connect:*",
        "lambda:UpdateFunctionCode",
    ],
)
def test_no_role_changes_or_opens_what_runs(action: str) -> None:
    assert refusing(role_policy(allow(action))) == {"platform-role-leaves-what-runs"}


@pytest.mark.parametrize("action", ["autoscaling:SetDesiredCapacity", "ssm:GetParameter", "ecr:BatchGetImage"])
def test_what_the_loops_and_the_hosts_do_is_not_meant(action: str) -> None:
    assert refusing(role_policy(allow(action))) == set()


def test_a_role_may_not_decrypt_for_a_debug_enclave() -> None:
    zero = {"StringEqualsIgnoreCase": {"kms:RecipientAttestation:PCR0": "0" * 96}}
    assert refusing(role_policy(allow("kms:Decrypt", zero))) == {"platform-role-attested-decrypt"}
    measured = {"StringEqualsIgnoreCase": {"kms:RecipientAttestation:PCR0": OLD[0]}}
    assert refusing(role_policy(allow("kms:Decrypt", measured))) == set()


@pytest.mark.parametrize(
    ("image", "accepted"),
    [
        (f"mrgc/router@{DIGEST}", True),
        (f"registry.example:5000/mrgc/router@{DIGEST}", True),
        (f"mrgc/router:1.2@{DIGEST}", False),
        (f"registry.example:5000/mrgc/router:latest@{DIGEST}", False),
        (f"mrgc/router@{DIGEST}\n", False),
    ],
)
def test_an_image_has_a_digest_and_no_tag_beside_it(image: str, *, accepted: bool) -> None:
    assert (refusing(task(image)) == set()) is accepted


@pytest.mark.parametrize(
    "props",
    [
        {"imageScanningConfiguration": {"scanOnPush": True}},
        {"imageTagMutability": "MUTABLE_WITH_EXCLUSION", "imageScanningConfiguration": {"scanOnPush": True}},
        {"imageTagMutability": "IMMUTABLE"},
        {"imageTagMutability": "IMMUTABLE", "imageScanningConfiguration": {"scanOnPush": False}},
    ],
    ids=str,
)
def test_a_repository_whose_tags_move_or_whose_images_nobody_scans_is_refused(props: dict[str, Any]) -> None:
    repository = Resource(type="aws:ecr/repository:Repository", props=props)
    assert refusing(repository) == {"image-repositories-hold-still"}


def test_a_function_from_a_bucket_is_named_by_no_digest() -> None:
    function = Resource(type="aws:lambda/function:Function", props={"s3Bucket": "elsewhere", "s3Key": "failover.zip"})
    assert refusing(function) == {"image-by-digest"}


def test_a_parameter_written_twice_is_refused_though_each_value_is_a_published_one() -> None:
    values = {**{f"pcr{index}": value for index, value in NEW.items()}, "eif_version": "1.1.0"}
    good = [parameter(f"/mrgc/prod/measurements/{name}", value) for name, value in values.items()]
    assert whole(*good) == set()
    first = parameter("/mrgc/prod/measurements/pcr0", OLD[0])
    assert refusing(first) == set(), "by itself it is published"
    assert whole(first, *good) == {"published-measurements-agree"}


def made(type_: str, props: dict[str, Any], depends: dict[str, Sequence[str]] | None = None, urn: str = "") -> Resource:
    found = {name: tuple(urns) for name, urns in (depends or {}).items()}
    return Resource(type=type_, name="one", urn=urn, props=props, depends=found)


ROLE = made("aws:iam/role:Role", {"name": "host", "arn": "arn:aws:iam::1:role/host"}, urn="urn:role")
PROFILE = made(
    "aws:iam/instanceProfile:InstanceProfile",
    {"role": "host", "name": "host", "arn": "arn:aws:iam::1:instance-profile/host"},
    urn="urn:profile",
)
TEMPLATE = "aws:ec2/launchTemplate:LaunchTemplate"


@pytest.mark.parametrize(
    "taker",
    [
        made(TEMPLATE, {"iamInstanceProfile": {"arn": "arn:aws:iam::1:instance-profile/admin"}}),
        made(TEMPLATE, {"iamInstanceProfile": {"name": "admin"}}, {"iamInstanceProfile": ["urn:profile"]}),
        made("aws:ec2/instance:Instance", {"iamInstanceProfile": "admin"}),
        made("aws:iam/instanceProfile:InstanceProfile", {"role": "admin"}),
        made("aws:ecs/taskDefinition:TaskDefinition", {"taskRoleArn": "arn:aws:iam::1:role/admin"}),
        made("aws:ecs/taskDefinition:TaskDefinition", {"executionRoleArn": "arn:aws:iam::1:role/admin"}),
        made("aws:lambda/function:Function", {"role": "arn:aws:iam::1:role/admin"}),
    ],
    ids=lambda one: f"{one.type.rpartition(':')[2]} {' '.join(one.props)}",
)
def test_a_role_that_no_rule_has_judged_is_not_taken(taker: Resource) -> None:
    assert "admin" in says(ROLE, PROFILE, taker)[0]


def test_the_programs_own_roles_are_taken_at_preview_and_by_arn() -> None:
    by_arn = made(TEMPLATE, {"iamInstanceProfile": {"arn": "arn:aws:iam::1:instance-profile/host"}})
    unknown = made(TEMPLATE, {"iamInstanceProfile": {"arn": UNKNOWN}}, {"iamInstanceProfile": ["urn:profile"]})
    task_role = made("aws:ecs/taskDefinition:TaskDefinition", {"taskRoleArn": "arn:aws:iam::1:role/host"})
    assert says(ROLE, PROFILE, by_arn, unknown, task_role) == []


@pytest.mark.parametrize("version", ["$Latest", "$Default"])
def test_hosts_start_from_no_version_that_somebody_else_may_make(version: str) -> None:
    template = made(TEMPLATE, {"id": "lt-1"}, urn="urn:template")
    for specification in ({"id": "lt-1", "version": version}, {"launchTemplateId": "lt-1", "version": version}):
        mixed = {"launchTemplate": {"launchTemplateSpecification": specification}}
        for props in ({"launchTemplate": specification}, {"mixedInstancesPolicy": mixed}):
            assert version in says(template, made("aws:autoscaling/group:Group", props))[0]
    numbered = {"launchTemplate": {"id": "lt-1", "version": "7"}}
    assert says(template, made("aws:autoscaling/group:Group", numbered)) == []
