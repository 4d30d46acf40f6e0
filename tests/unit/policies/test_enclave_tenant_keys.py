from __future__ import annotations

import json
from typing import Any

import pytest
from pulumi_policy.proxy import UnknownValueError

from policies.enclave.measurements import fault
from policies.enclave.rules import RULES
from policies.rule import UNKNOWN, Resource, ResourceRule
from tests.support.enclave_resources import (
    ADMIN,
    CONFIG,
    HOST,
    NEW,
    OLD,
    PLATFORM,
    TENANT,
    USER,
    changed,
    decrypting,
    entry,
    key,
    policy,
    refusing,
    said,
    without,
)

ATTESTED = "tenant-key-attested-decrypt"
MEASURED = "tenant-key-measurements"
BYPASS = "tenant-key-no-bypass"
CONTEXT = "tenant-key-encryption-context"
CONTROL = "tenant-key-no-platform-control"
ACCOUNTS = "tenant-key-tenant-accounts"
PCR0 = "kms:RecipientAttestation:PCR0"
IGNORE_CASE = "StringEqualsIgnoreCase"
ZERO = "0" * 96


def statement(actions: Any, principal: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "Sid": "More",
        "Effect": "Allow",
        "Principal": {"AWS": ADMIN} if principal is None else principal,
        "Action": actions,
        "Resource": "*",
        **more,
    }


def with_statement(*more: dict[str, Any]) -> dict[str, Any]:
    return changed(lambda found: found["Statement"].extend(more))


def with_condition(**operators: Any) -> dict[str, Any]:
    """The real policy, the attestation condition replaced by other operators."""

    def change(found: dict[str, Any]) -> None:
        condition = decrypting(found)["Condition"]
        del condition[IGNORE_CASE]
        for name, keys in operators.items():
            condition.setdefault(name.replace("__", ":"), {}).update(keys)

    return changed(change)


REGISTERS = {f"kms:RecipientAttestation:PCR{index}": OLD[index] for index in (0, 1, 2)}


@pytest.mark.parametrize("images", [(OLD,), (NEW,), (OLD, NEW)])
def test_what_the_platform_writes_for_a_tenant_is_accepted(images: tuple[dict[int, str], ...]) -> None:
    assert refusing(key(policy(*images))) == set()


def test_a_policy_of_several_host_roles_is_accepted() -> None:
    roles = [HOST, HOST.replace("us-east-1", "us-west-2")]
    several = changed(lambda found: decrypting(found).update({"Principal": {"AWS": roles}}))
    assert refusing(key(several)) == set()


def test_a_tenants_account_may_own_its_key() -> None:
    assert refusing(key(policy(OLD, admin=f"arn:aws:iam::{TENANT}:root"))) == set()


def test_a_replica_with_the_same_policy_is_accepted() -> None:
    replica = without(key(type_="aws:kms/replicaKey:ReplicaKey"), "enableKeyRotation")
    assert refusing(replica) == set()


@pytest.mark.parametrize(
    "operator",
    [
        "StringEquals",
        "StringLike",
        "StringEqualsIgnoreCaseIfExists",
        "ForAllValues:StringEqualsIgnoreCase",
        "ForAnyValue:StringEqualsIgnoreCase",
        "StringNotEqualsIgnoreCase",
        "stringequalsignorecase",
    ],
)
def test_an_operator_that_does_not_bind_is_no_attestation(operator: str) -> None:
    document = with_condition(**{operator.replace(":", "__"): REGISTERS})
    assert refusing(key(document)) == {ATTESTED}
    assert "PCR0, PCR1, PCR2" in said(ATTESTED, key(document))[0]


def test_that_a_document_was_given_at_all_is_not_enough() -> None:
    assert refusing(key(with_condition(Null={PCR0: "false"}))) == {ATTESTED}
    assert refusing(key(with_condition(Null=dict.fromkeys(REGISTERS, "true")))) == {ATTESTED}


@pytest.mark.parametrize("index", [0, 1, 2])
def test_each_of_the_three_registers_must_be_named(index: int) -> None:
    def drop(found: dict[str, Any]) -> None:
        del decrypting(found)["Condition"][IGNORE_CASE][f"kms:RecipientAttestation:PCR{index}"]

    assert refusing(key(changed(drop))) == {ATTESTED}
    assert f"without PCR{index} " in said(ATTESTED, key(changed(drop)))[0]


def test_a_condition_keys_case_does_not_matter() -> None:
    document = with_condition(**{IGNORE_CASE: {name.upper(): value for name, value in REGISTERS.items()}})
    assert refusing(key(document)) == set()


def test_an_empty_list_of_values_binds_nothing() -> None:
    assert refusing(key(with_condition(**{IGNORE_CASE: {**REGISTERS, PCR0: []}}))) == {ATTESTED}


def test_a_second_statement_without_attestation_is_found_after_a_first_with_it() -> None:
    context = decrypting(policy(OLD))["Condition"]
    del context[IGNORE_CASE]
    second = statement("kms:Decrypt", {"AWS": HOST}, Condition=context)
    assert refusing(key(with_statement(second))) == {ATTESTED}


def test_denying_what_is_not_attested_does_not_replace_the_condition() -> None:
    def deny(found: dict[str, Any]) -> None:
        del decrypting(found)["Condition"][IGNORE_CASE]
        found["Statement"].append(
            statement("kms:Decrypt", "*", Effect="Deny", Condition={"StringNotEqualsIgnoreCase": REGISTERS})
        )

    assert refusing(key(changed(deny))) == {ATTESTED}


def test_a_deny_beside_the_real_policy_changes_nothing() -> None:
    assert refusing(key(with_statement(statement("kms:*", "*", Effect="Deny")))) == set()


@pytest.mark.parametrize("effect", ["allow", "ALLOW", "Maybe", None])
def test_an_effect_that_is_not_deny_is_taken_as_an_allow(effect: Any) -> None:
    assert ATTESTED in refusing(key(with_statement(statement("kms:Decrypt", Effect=effect))))


@pytest.mark.parametrize(
    "actions", ["kms:*", "kms:Dec*", "kms:Decryp?", "*", "KMS:DECRYPT", ["kms:DescribeKey", "kms:decrypt"]]
)
def test_decryption_is_found_by_wildcards_in_any_case_and_in_lists(actions: Any) -> None:
    assert ATTESTED in refusing(key(with_statement(statement(actions))))


@pytest.mark.parametrize("document", ["", "{", "[]", "{}", '{"Statement": []}', '{"Statement": ["x"]}'])
def test_a_tenant_key_whose_policy_cannot_be_read_is_refused(document: str) -> None:
    assert refusing(key(document)) == {ATTESTED}


def test_a_tenant_key_without_a_policy_would_get_the_default_one_and_is_refused() -> None:
    assert refusing(without(key(), "policy")) == {ATTESTED}


def test_a_key_named_twice_in_the_policy_is_refused_because_readers_differ() -> None:
    text = json.dumps(policy(OLD))
    twice = text.replace('"Condition": {"ForAll', '"Condition": {}, "Condition": {"ForAll')
    assert twice != text
    assert refusing(key(twice)) == {ATTESTED}


@pytest.mark.parametrize(
    "odd",
    [
        {"Conditions": {}},
        {"action": "kms:Decrypt"},
        {"Principal": ["*"]},
        {"Condition": ["x"]},
        {"Condition": {"StringEquals": "x"}},
        {"Condition": {"StringEquals": {"aws:x": "1", "AWS:X": "2"}}},
        {"NotAction": "kms:DescribeKey"},
    ],
)
def test_a_statement_that_could_be_read_two_ways_is_refused(odd: dict[str, Any]) -> None:
    assert refusing(key(with_statement({**statement("kms:DescribeKey"), **odd}))) == {ATTESTED}


def test_a_tenant_keys_unknown_policy_is_refused_at_preview_and_not_put_off() -> None:
    assert refusing(key(policy=UNKNOWN)) == {ATTESTED}
    assert "not known before the update" in said(ATTESTED, key(policy=UNKNOWN))[0]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (ZERO, "all zero"),
        ("ab", "96 hex digits"),
        ("zz" * 48, "96 hex digits"),
        ("*" * 96, "96 hex digits"),
        ("${aws:x}", "96 hex digits"),
        (OLD[0] + "\n", "96 hex digits"),
        (7, "96 hex digits"),
        ([OLD[0], NEW[0]], "2 values"),
        (NEW[0], "no published image"),
        ("cc" * 48, "no published image"),
    ],
)
def test_a_register_that_is_not_the_published_ones_is_refused(value: Any, reason: str) -> None:
    document = with_condition(**{IGNORE_CASE: {**REGISTERS, PCR0: value}})
    assert refusing(key(document)) == {MEASURED}
    assert reason in said(MEASURED, key(document))[0]


def test_the_zero_pcr8_of_an_unsigned_image_is_compared_with_the_published_ones() -> None:
    signer = {**REGISTERS, "kms:RecipientAttestation:PCR8": ZERO}
    document = with_condition(**{IGNORE_CASE: signer})
    assert "of no published image" in said(MEASURED, key(document))[0], "no published image says so of its PCR8"
    assert fault(ZERO, 8) is None, "it is a value"
    assert all(fault(ZERO, index) for index in (0, 1, 2)), "where it is a debug enclave's it is none"


def test_registers_are_compared_whatever_their_case() -> None:
    upper = {name: value.upper() for name, value in REGISTERS.items()}
    assert refusing(key(with_condition(**{IGNORE_CASE: upper}))) == set()


def test_a_signed_images_policy_must_name_its_signer() -> None:
    unsigned = {index: value for index, value in NEW.items() if index != 8}
    assert refusing(key(policy(unsigned))) == {MEASURED}


def test_a_signer_that_the_published_image_does_not_have_is_refused() -> None:
    assert refusing(key(policy({**OLD, 8: NEW[8]}))) == {MEASURED}


def test_without_configured_measurements_no_tenant_key_passes() -> None:
    tenants: dict[str, Any] = {"tenantAccounts": [TENANT]}
    configs: list[dict[str, Any]] = [tenants, {**tenants, "measurements": []}]
    for config in configs:
        assert refusing(key(), config) == {MEASURED}
        assert "No measurement is configured" in said(MEASURED, key(), config)[0]


@pytest.mark.parametrize(
    "wrong", [entry({**OLD, 0: ZERO}, "1"), entry({**OLD, 0: "ab"}, "1"), {"pcr0": OLD[0]}, "text"]
)
def test_a_configured_measurement_that_is_none_is_refused_and_not_used(wrong: Any) -> None:
    sentences = said(MEASURED, key(), {"measurements": [wrong]})
    assert sentences
    assert "of this rule's configuration" in sentences[0]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (statement("kms:DescribeKey", "*"), "every principal"),
        (statement("kms:DescribeKey", {"AWS": "*"}), "every principal"),
        (statement("kms:DescribeKey", {"AWS": ["arn:aws:iam::*:root"]}), "every principal"),
        (statement("kms:DescribeKey", {"Service": "ec2.amazonaws.com"}), "attests nothing"),
        (statement("kms:DescribeKey", {"Federated": "x"}), "attests nothing"),
        (statement("kms:DescribeKey", {"AWS": "AROAEXAMPLEID"}), "not the ARN"),
        (statement("kms:DescribeKey", {"AWS": "${aws:PrincipalArn}"}), "not the ARN"),
        (statement("kms:CreateGrant"), "goes around"),
        (statement("KMS:creategrant"), "goes around"),
        (statement(["kms:DescribeKey", "kms:ReEncryptFrom"]), "goes around"),
        (statement("kms:GenerateDataKeyPair"), "goes around"),
        (statement("kms:Create*"), "name each action"),
        (statement("kms:ReEncrypt*"), "name each action"),
        (statement("kms:Put*"), "name each action"),
    ],
)
def test_what_reaches_the_key_beside_the_attested_statement_is_refused(more: dict[str, Any], reason: str) -> None:
    document = with_statement(more)
    assert refusing(key(document)) == {BYPASS}
    assert reason in said(BYPASS, key(document))[0]


def test_a_statement_without_a_principal_is_refused() -> None:
    more = statement("kms:DescribeKey")
    del more["Principal"]
    assert refusing(key(with_statement(more))) == {BYPASS}


def test_everyone_but_one_is_everyone() -> None:
    more = statement("kms:DescribeKey", NotPrincipal={"AWS": USER})
    del more["Principal"]
    assert refusing(key(with_statement(more))) == {BYPASS}


def test_everything_but_one_action_is_everything() -> None:
    more = statement("x", NotAction="kms:ScheduleKeyDeletion")
    del more["Action"]
    assert {ATTESTED, BYPASS} <= refusing(key(with_statement(more)))


def test_harmless_wildcards_are_harmless() -> None:
    assert refusing(key(with_statement(statement(["kms:Describe*", "kms:List*"])))) == set()


def test_decryption_has_a_statement_of_its_own() -> None:
    document = changed(lambda found: decrypting(found).update({"Action": ["kms:Decrypt", "kms:DescribeKey"]}))
    assert refusing(key(document)) == {BYPASS}


@pytest.mark.parametrize("name", [f"arn:aws:iam::{PLATFORM}:root", PLATFORM])
def test_a_whole_account_may_not_decrypt_even_with_attestation(name: str) -> None:
    document = changed(lambda found: decrypting(found).update({"Principal": {"AWS": name}}))
    assert refusing(key(document)) == {BYPASS}


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda condition: condition.pop("ForAllValues:StringEquals"), "does not keep"),
        (
            lambda condition: condition["ForAllValues:StringEquals"].update(
                {"kms:EncryptionContextKeys": ["mrgc:tenant", "*"]}
            ),
            "does not keep",
        ),
        (lambda condition: condition.pop("StringEquals"), "does not require mrgc:tenant"),
        (
            lambda condition: condition.update({"StringLikeIfExists": condition.pop("StringLike")}),
            "does not require mrgc:session, mrgc:expires",
        ),
    ],
)
def test_a_statement_that_leaves_the_encryption_context_open_is_refused(number: int, change: Any, reason: str) -> None:
    document = changed(lambda found: change(found["Statement"][number]["Condition"]))
    assert refusing(key(document)) == {CONTEXT}
    assert reason in said(CONTEXT, key(document))[0]


@pytest.mark.parametrize("action", ["kms:PutKeyPolicy", "kms:ReplicateKey", "kms:GenerateDataKey", "kms:Encrypt"])
@pytest.mark.parametrize(
    "name",
    [
        HOST,
        f"arn:aws:iam::{PLATFORM}:role/mrgc-prod-us-west-2-router-task",
        f"arn:aws:sts::{PLATFORM}:assumed-role/mrgc-prod-us-west-2-host/i-0123456789abcdef0",
        f"arn:aws:iam::{PLATFORM}:root",
        PLATFORM,
    ],
)
def test_the_platform_gets_nothing_of_a_key_but_attested_decryption(action: str, name: str) -> None:
    more = statement(action, {"AWS": [ADMIN, name]})
    if action == "kms:GenerateDataKey":
        more["Condition"] = policy(OLD)["Statement"][1]["Condition"]
    assert refusing(key(with_statement(more))) == {CONTROL}


def test_whoever_decrypts_is_the_platform_whatever_it_is_called() -> None:
    own_name = f"arn:aws:iam::{PLATFORM}:role/innocent"
    document = policy(OLD, host=own_name)
    document["Statement"].append(statement("kms:PutKeyPolicy", {"AWS": own_name}))
    assert refusing(key(document)) == {CONTROL}


def test_a_grant_to_the_platform_is_refused_by_both_rules() -> None:
    document = with_statement(statement("kms:CreateGrant", {"AWS": HOST}))
    assert refusing(key(document)) == {BYPASS, CONTROL}


def test_role_patterns_are_configured() -> None:
    other = "arn:aws:iam::999999999999:role/deployer"
    document = with_statement(statement("kms:PutKeyPolicy", {"AWS": other}))
    two = {**CONFIG, "tenantAccounts": [TENANT, "999999999999"]}
    assert refusing(key(document), two) == set()
    config = {**two, "platformRolePatterns": ["arn:aws:iam::*:role/deployer"]}
    assert refusing(key(document), config) == {CONTROL}


THIRD = "777788889999"


@pytest.mark.parametrize("name", [f"arn:aws:iam::{THIRD}:role/helper", f"arn:aws:iam::{THIRD}:user/helper", THIRD])
@pytest.mark.parametrize(
    "action",
    ["kms:PutKeyPolicy", "kms:GenerateDataKey", "kms:ScheduleKeyDeletion", "kms:DescribeKey", "kms:TagResource"],
)
def test_a_third_account_has_no_part_in_a_tenants_key(name: str, action: str) -> None:
    more = statement(action, {"AWS": [ADMIN, name]})
    if action == "kms:GenerateDataKey":
        more["Condition"] = policy(OLD)["Statement"][1]["Condition"]
    assert refusing(key(with_statement(more))) == {ACCOUNTS}
    assert f"of the account {THIRD}, which is no tenant's" in said(ACCOUNTS, key(with_statement(more)))[0]


def test_a_third_account_as_the_keys_administrator_is_refused() -> None:
    assert refusing(key(policy(OLD, admin=f"arn:aws:iam::{THIRD}:role/tenant-admin"))) == {ACCOUNTS}


def test_a_third_account_that_is_configured_is_a_tenants() -> None:
    document = policy(OLD, admin=f"arn:aws:iam::{THIRD}:role/tenant-admin")
    assert refusing(key(document), {**CONFIG, "tenantAccounts": [TENANT, THIRD]}) == set()


def test_without_configured_tenant_accounts_no_tenant_key_passes() -> None:
    configs: list[dict[str, Any]] = [{}, {"tenantAccounts": []}]
    for accounts in configs:
        config = {"measurements": CONFIG["measurements"], **accounts}
        assert refusing(key(), config) == {ACCOUNTS}
        assert "No tenant account is configured" in said(ACCOUNTS, key(), config)[0]


@pytest.mark.parametrize("wrong", ["", "11112222333", f"{TENANT}\n", f"arn:aws:iam::{TENANT}:root", 111122223333, "*"])
def test_a_configured_account_that_is_none_is_refused(wrong: Any) -> None:
    assert "tenantAccounts[1]" in said(ACCOUNTS, key(), {"tenantAccounts": [TENANT, wrong]})[0]


PLATFORMS = {"enableKeyRotation": True, "tags": {"mrgc:key": "platform"}}
OPEN = statement("kms:Decrypt")
"""What must not be: added to a policy, it shows whether the policy is judged at all."""


def test_dropping_the_tag_leaves_the_rules_in_force() -> None:
    for kept in ({}, {"mrgc:key": "platform"}):
        assert ATTESTED in refusing(key(with_statement(OPEN), tags=kept)), "the policy names an attestation document"


def test_escapes_do_not_hide_the_attestation_document() -> None:
    text = json.dumps(with_statement(OPEN)).replace("RecipientAttestation", "\\u0052ecipientAttestation")
    assert ATTESTED in refusing(key(text, tags={"mrgc:key": "platform"}))


def test_dropping_tag_and_conditions_leaves_the_component() -> None:
    urn = "urn:pulumi:dev::mrgc-tenant::mrgc:tenant_key:TenantKey$aws:kms/key:Key::key"
    bare = Resource(
        type="aws:kms/key:Key",
        urn=urn,
        props={
            "policy": json.dumps({"Statement": [OPEN]}),
            "enableKeyRotation": True,
            "tags": {"mrgc:key": "platform"},
        },
    )
    assert ATTESTED in refusing(bare)


@pytest.mark.parametrize("tags", [{"MRGC:KEY": "Tenant"}, {"mrgc:tenant": "a", "mrgc:key": "platform"}])
def test_a_tag_counts_whatever_its_case(tags: dict[str, str]) -> None:
    assert ATTESTED in refusing(key({"Statement": [OPEN]}, tags=tags))


def test_a_policy_of_its_own_resource_is_always_judged_as_a_tenants() -> None:
    def attached(document: dict[str, Any]) -> Resource:
        props = {"keyId": "k", "policy": json.dumps(document)}
        return Resource(type="aws:kms/keyPolicy:KeyPolicy", props=props)

    assert refusing(attached(policy(OLD))) == set()
    assert ATTESTED in refusing(attached({"Statement": [OPEN]}))


@pytest.mark.parametrize(
    "type_",
    [
        "aws:kms/key:Key",
        "aws:kms/replicaKey:ReplicaKey",
        "aws:kms/externalKey:ExternalKey",
        "aws:kms/replicaExternalKey:ReplicaExternalKey",
    ],
)
def test_every_kind_of_key_is_judged(type_: str) -> None:
    assert ATTESTED in refusing(key(with_statement(OPEN), type_))


def test_a_platforms_own_key_is_not_held_to_a_tenants_rules() -> None:
    own = key(
        {"Statement": [statement("kms:*", {"AWS": f"arn:aws:iam::{PLATFORM}:root"})]}, tags={"mrgc:key": "platform"}
    )
    assert refusing(own) == set()


def test_whose_key_only_an_unknown_policy_could_tell_is_asked_again_at_the_update() -> None:
    unknown = key(policy=UNKNOWN, tags={"mrgc:key": "platform"})
    with pytest.raises(UnknownValueError):
        said(ATTESTED, unknown)


def test_every_rule_over_tenant_keys_reads_every_kind_of_key() -> None:
    for one in RULES:
        if one.name.startswith("tenant-key-"):
            assert isinstance(one, ResourceRule), "a stack rule comes too late for a key"
            assert one.reads("aws:kms/keyPolicy:KeyPolicy")
            assert one.reads("aws:kms/replicaKey:ReplicaKey")
