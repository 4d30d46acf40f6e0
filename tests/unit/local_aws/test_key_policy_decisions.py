"""The tenant's key policy and the evaluator: who is allowed what, and that doubt never allows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol.attestation.key_policy import (
    ADMIN_ACTIONS,
    CONTEXT_KEYS,
    MAX_MEASUREMENTS,
    MAX_PLATFORM_ROLES,
    KeyPolicyError,
    tenant_key_policy,
)
from stacks.local.aws.conditions import conditions_hold
from stacks.local.aws.policy import MAX_POLICY_BYTES, Call, PolicyError, decide, parse_policy
from stacks.local.aws.principals import Identity

ACCOUNT = "111122223333"
ADMIN = f"arn:aws:iam::{ACCOUNT}:root"
USER = f"arn:aws:iam::{ACCOUNT}:user/tenant-a"
ROLE = "arn:aws:iam::999900001111:role/mrgc-host"
SESSION = "arn:aws:sts::999900001111:assumed-role/mrgc-host/i-local"
KEY = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/mrk-0"
PCRS = {index: bytes([index + 1]) * 48 for index in (0, 1, 2, 8)}
CONTEXT = {"mrgc:tenant": "tenant-a", "mrgc:session": "0" * 32, "mrgc:expires": "1790000000"}

ADMIN_IDENTITY = Identity(arn=ADMIN, account=ACCOUNT, names=frozenset({ADMIN}))
USER_IDENTITY = Identity(arn=USER, account=ACCOUNT, names=frozenset({USER}))
HOST = Identity(arn=SESSION, account="999900001111", names=frozenset({SESSION, ROLE}))
POLICY = tenant_key_policy(ADMIN, USER, ROLE, PCRS, tenant_id="tenant-a")


def attested(pcrs: dict[int, bytes] | None = None) -> dict[str, tuple[str, ...]]:
    return {f"kms:recipientattestation:pcr{i}": (v.hex(),) for i, v in (PCRS if pcrs is None else pcrs).items()}


def sealed_with(context: dict[str, str] | None = None) -> dict[str, tuple[str, ...]]:
    context = CONTEXT if context is None else context
    keys = {f"kms:encryptioncontext:{key.lower()}": (value,) for key, value in context.items()}
    return keys | {"kms:encryptioncontextkeys": tuple(context)} if context else {}


def allowed(
    identity: Identity, action: str, context: dict[str, tuple[str, ...]], policy: dict[str, Any] | None = None
) -> bool:
    call = Call(identity=identity, action=f"kms:{action}", resource=KEY, context=context)
    return decide(POLICY if policy is None else policy, call).allowed


def statement(**elements: Any) -> dict[str, Any]:
    return {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"} | elements],
    }


def test_the_attested_enclave_may_decrypt() -> None:
    assert allowed(HOST, "Decrypt", sealed_with() | attested()), "or the refusals below would prove nothing"


def test_a_call_without_a_document_is_refused() -> None:
    assert not allowed(HOST, "Decrypt", sealed_with())


@pytest.mark.parametrize("index", PCRS)
def test_each_register_must_be_equal(index: int) -> None:
    assert not allowed(HOST, "Decrypt", sealed_with() | attested(PCRS | {index: bytes([99]) * 48}))
    without = {other: value for other, value in PCRS.items() if other != index}
    assert not allowed(HOST, "Decrypt", sealed_with() | attested(without))


@pytest.mark.parametrize(
    "context",
    [
        {},
        CONTEXT | {"mrgc:tenant": "tenant-b"},
        CONTEXT | {"extra": "x"},
        {"mrgc:tenant": "tenant-a"},
        CONTEXT | {"mrgc:session": ""},
    ],
)
def test_another_encryption_context_is_refused(context: dict[str, str]) -> None:
    assert not allowed(HOST, "Decrypt", sealed_with(context) | attested())
    assert not allowed(USER_IDENTITY, "GenerateDataKey", sealed_with(context))


def test_everyone_may_do_their_part_and_no_more() -> None:
    everything = sealed_with() | attested()
    assert allowed(USER_IDENTITY, "GenerateDataKey", everything)
    for action in ("Decrypt", "PutKeyPolicy", "CreateGrant", "ReEncryptFrom"):
        assert not allowed(USER_IDENTITY, action, everything), f"the tenant's user must not {action}"
    for action in ("GenerateDataKey", "PutKeyPolicy", "DescribeKey", "CreateGrant", "Encrypt"):
        assert not allowed(HOST, action, everything), f"a host must not {action}"
    assert all(allowed(ADMIN_IDENTITY, action.removeprefix("kms:"), {}) for action in ADMIN_ACTIONS)
    for action in ("Decrypt", "GenerateDataKey", "CreateGrant", "ReEncryptTo"):
        assert not allowed(ADMIN_IDENTITY, action, everything), f"the owner manages, and must not {action}"


def test_a_stranger_may_do_nothing() -> None:
    other = "arn:aws:iam::444455556666:role/mrgc-host"
    stranger = Identity(arn=other, account="444455556666", names=frozenset({other}))
    for action in ("Decrypt", "GenerateDataKey", "DescribeKey", "PutKeyPolicy"):
        assert not allowed(stranger, action, sealed_with() | attested())


def test_registers_of_two_images_do_not_mix() -> None:
    other = {index: bytes([index + 100]) * 48 for index in (0, 1, 2)}
    policy = tenant_key_policy(ADMIN, USER, ROLE, [PCRS, other], tenant_id="tenant-a")
    assert allowed(HOST, "Decrypt", sealed_with() | attested(), policy)
    assert allowed(HOST, "Decrypt", sealed_with() | attested(other), policy)
    assert not allowed(HOST, "Decrypt", sealed_with() | attested(PCRS | {0: other[0]}), policy)


def test_every_regions_host_role_may_decrypt_and_no_other_role_of_the_platform() -> None:
    roles = [f"arn:aws:iam::999900001111:role/mrgc-prod-{region}-host" for region in ("us-east-1", "us-west-2")]
    policy = tenant_key_policy(ADMIN, USER, roles, PCRS, tenant_id="tenant-a")
    everything = sealed_with() | attested()
    for role in roles:
        host = Identity(arn=role, account="999900001111", names=frozenset({role}))
        assert allowed(host, "Decrypt", everything, policy)
        assert not allowed(host, "Decrypt", sealed_with(), policy), f"{role} has no document"
    assert not allowed(HOST, "Decrypt", everything, policy), "a role of the platform that is not named"


def test_one_role_in_a_list_makes_the_policy_of_one_role() -> None:
    assert tenant_key_policy(ADMIN, USER, [ROLE], PCRS, tenant_id="tenant-a") == POLICY


def test_no_role_and_too_many_roles_make_no_policy() -> None:
    many = [f"{ROLE}-{number}" for number in range(MAX_PLATFORM_ROLES + 1)]
    for roles in ([], many):
        with pytest.raises(KeyPolicyError, match="1 to 8"):
            tenant_key_policy(ADMIN, USER, roles, PCRS)
    longest = [f"arn:aws:iam::999900001111:role/{'x' * 60}{number}" for number in range(MAX_PLATFORM_ROLES)]
    policy = tenant_key_policy(ADMIN, USER, longest, [PCRS] * MAX_MEASUREMENTS)
    assert len(json.dumps(policy)) < MAX_POLICY_BYTES, "KMS stores no longer policy"


def test_without_a_tenant_any_named_one_will_do() -> None:
    policy = tenant_key_policy(ADMIN, USER, ROLE, PCRS)
    assert allowed(HOST, "Decrypt", sealed_with(CONTEXT | {"mrgc:tenant": "anyone"}) | attested(), policy)
    assert not allowed(HOST, "Decrypt", sealed_with({}) | attested(), policy)


def test_registers_compare_without_case_as_the_policy_says() -> None:
    text = json.dumps(POLICY)
    policy = tenant_key_policy(ADMIN, USER, ROLE, {i: v.hex().upper() for i, v in PCRS.items()}, tenant_id="tenant-a")
    assert policy == json.loads(text), "hex digits are normalised"
    upper = {key: tuple(value.upper() for value in values) for key, values in attested().items()}
    assert allowed(HOST, "Decrypt", sealed_with() | upper)


def test_the_policy_fits_and_parses_with_the_most_measurements() -> None:
    policy = tenant_key_policy(ADMIN, USER, ROLE, [PCRS] * MAX_MEASUREMENTS)
    assert len(json.dumps(policy)) < MAX_POLICY_BYTES
    assert parse_policy(json.dumps(policy)) == policy


@pytest.mark.parametrize(
    ("pcrs", "match"),
    [
        ({0: PCRS[0], 1: PCRS[1]}, "PCR2"),
        *((PCRS | {index: bytes(48)}, "zero") for index in (0, 1, 2)),
        (PCRS | {-1: PCRS[0]}, "PCR -1"),
        (PCRS | {32: PCRS[0]}, "PCR 32"),
        (PCRS | {0: b"short"}, "48 bytes"),
        (PCRS | {0: "not hex"}, "hexadecimal"),
        ([], "1 to 8"),
        ([PCRS] * 9, "1 to 8"),
    ],
)
def test_measurements_that_allow_too_much_make_no_policy(pcrs: Any, match: str) -> None:
    with pytest.raises(KeyPolicyError, match=match):
        tenant_key_policy(ADMIN, USER, ROLE, pcrs)


@pytest.mark.parametrize("arn", ["*", "", "arn:aws:iam::*:root", "arn:aws:iam::111122223333:user/*", ACCOUNT])
def test_principals_are_named_one_by_one(arn: str) -> None:
    for arns in ((arn, USER, ROLE), (ADMIN, arn, ROLE), (ADMIN, USER, arn)):
        with pytest.raises(KeyPolicyError):
            tenant_key_policy(*arns, PCRS)


def test_the_platform_is_neither_owner_nor_user() -> None:
    for arns in ((ROLE, USER), (ADMIN, ROLE)):
        for roles in (ROLE, [f"{ROLE}-other", ROLE]):
            with pytest.raises(KeyPolicyError):
                tenant_key_policy(*arns, roles, PCRS)


@pytest.mark.parametrize("tenant", ["", "*", "a?", "${aws:userid}", "x" * 129])
def test_a_tenant_that_a_policy_would_interpret_is_refused(tenant: str) -> None:
    with pytest.raises(KeyPolicyError):
        tenant_key_policy(ADMIN, USER, ROLE, PCRS, tenant_id=tenant)


def test_an_explicit_deny_wins() -> None:
    policy = statement()
    policy["Statement"].append({"Effect": "Deny", "Principal": {"AWS": ROLE}, "Action": "kms:Dec*", "Resource": "*"})
    assert allowed(HOST, "Encrypt", {}, policy)
    assert not allowed(HOST, "Decrypt", {}, policy)
    assert allowed(USER_IDENTITY, "Decrypt", {}, policy)


def test_an_account_allows_its_root_user_and_denies_to_all_of_it() -> None:
    for account in (ACCOUNT, ADMIN):
        assert allowed(ADMIN_IDENTITY, "Decrypt", {}, statement(Principal={"AWS": account}))
        assert not allowed(USER_IDENTITY, "Decrypt", {}, statement(Principal={"AWS": account})), "no IAM here"
        denied = statement()
        denied["Statement"].append(statement(Effect="Deny", Principal={"AWS": account})["Statement"][0])
        assert not allowed(USER_IDENTITY, "Decrypt", {}, denied)
        assert allowed(HOST, "Decrypt", {}, denied)


PCR0 = PCRS[0].hex()
KNOWN = "kms:RecipientAttestation:PCR0"


@pytest.mark.parametrize(
    ("condition", "with_pcr", "without_pcr"),
    [
        ({"StringEquals": {KNOWN: PCR0}}, True, False),
        ({"StringEquals": {KNOWN: ["x", PCR0]}}, True, False),
        ({"StringEquals": {KNOWN: PCR0.upper()}}, PCR0.upper() == PCR0, False),
        ({"StringEqualsIgnoreCase": {KNOWN.upper(): PCR0.upper()}}, True, False),
        ({"StringLike": {KNOWN: PCR0[:5] + "*"}}, True, False),
        ({"StringLike": {KNOWN: "?" * 95}}, False, False),
        ({"StringNotEquals": {KNOWN: PCR0}}, False, True),
        ({"StringNotEquals": {KNOWN: ["x", "y"]}}, True, True),
        ({"StringNotLike": {KNOWN: "0*"}}, False, True),
        ({"StringEqualsIfExists": {KNOWN: PCR0}}, True, True),
        ({"StringEqualsIfExists": {KNOWN: "x"}}, False, True),
        ({"Null": {KNOWN: "true"}}, False, True),
        ({"Null": {KNOWN: "false"}}, True, False),
        ({"Null": {KNOWN: False}}, True, False),
        ({"ForAllValues:StringEquals": {KNOWN: "x"}}, False, True),
        ({"ForAnyValue:StringEquals": {KNOWN: PCR0}}, True, False),
        ({"StringEquals": {KNOWN: PCR0}, "Null": {"kms:EncryptionContextKeys": "true"}}, True, False),
        ({}, True, True),
    ],
)
def test_operators_mean_what_iam_says(condition: dict[str, Any], with_pcr: bool, without_pcr: bool) -> None:  # noqa: FBT001 - columns of the table above
    assert conditions_hold(condition, attested({0: PCRS[0]})) is with_pcr
    assert conditions_hold(condition, {}) is without_pcr


UNKNOWN = [
    {"NumericEquals": {KNOWN: "1"}},
    {"StringEquals": {"aws:SourceVpc": "vpc-1"}},
    {"StringEquals": {"kms:RecipientAttestation:PCR32": "x"}},
    {"Sometimes:StringEquals": {KNOWN: "x"}},
    {"stringequals": {KNOWN: PCR0}},
    {"StringEquals": {"kms:EncryptionContextKeys": "mrgc:tenant"}},
    {"StringEquals": {KNOWN: []}},
    {"StringEquals": {KNOWN: {"a": 1}}},
    {"StringEquals": {KNOWN: "${aws:userid}"}},
    {"StringEquals": KNOWN},
    {"Null": {KNOWN: "perhaps"}},
    "StringEquals",
]


@pytest.mark.parametrize("condition", UNKNOWN)
def test_what_is_not_understood_never_allows_and_always_denies(condition: Any) -> None:
    context = attested({0: PCRS[0]}) | sealed_with()
    assert conditions_hold(condition, context) is None
    assert not allowed(HOST, "Decrypt", context, statement(Condition=condition))
    denied = statement()
    denied["Statement"].append(statement(Effect="Deny", Condition=condition)["Statement"][0])
    assert not allowed(HOST, "Decrypt", context, denied)


@pytest.mark.parametrize(
    "element",
    [{"NotPrincipal": {"AWS": USER}}, {"NotAction": "kms:Encrypt"}, {"NotResource": "x"}, {"Obligation": 1}],
)
def test_elements_that_are_not_understood_fail_closed(element: dict[str, Any]) -> None:
    assert not allowed(HOST, "Decrypt", {}, statement(**element))
    denied = statement()
    denied["Statement"].append(statement(Effect="Deny", **element)["Statement"][0])
    assert not allowed(HOST, "Decrypt", {}, denied)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"Statement": []}',
        '{"Statement": [1]}',
        json.dumps(statement(Effect="Maybe")),
        json.dumps(statement(Condition=1)),
        json.dumps({"Version": "2020-01-01"} | {"Statement": statement()["Statement"]}),
        json.dumps(statement() | {"More": 1}),
        json.dumps({"Statement": [{"Effect": "Allow", "Principal": "*", "Action": "kms:*"}]}),
        json.dumps(statement(Sid="x" * MAX_POLICY_BYTES)),
    ],
)
def test_what_is_no_policy_is_not_stored(text: str) -> None:
    with pytest.raises(PolicyError):
        parse_policy(text)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["*", "kms:*", ROLE, KNOWN, PCR0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    condition=st.dictionaries(
        st.sampled_from(["StringEquals", "Null", "Bogus"]) | st.text(max_size=6), JSON, max_size=3
    )
)
def test_any_condition_gets_an_answer(condition: dict[str, Any]) -> None:
    assert conditions_hold(condition, attested()) in {True, False, None}


@given(
    base=st.sampled_from([{"StringEquals": {KNOWN: PCR0}}, {"StringEquals": {KNOWN: "x"}}, {}]),
    unknown=st.sampled_from([entry for entry in UNKNOWN if isinstance(entry, dict)]),
)
def test_adding_a_condition_that_is_not_understood_never_allows(base: dict[str, Any], unknown: dict[str, Any]) -> None:
    merged = {**unknown, **{f"ForAnyValue:{key}": value for key, value in base.items()}}
    assert not allowed(HOST, "Decrypt", attested({0: PCRS[0]}), statement(Condition=merged))


@given(
    st.dictionaries(st.sampled_from([*CONTEXT_KEYS, "extra", "MRGC:tenant"]), st.sampled_from(["", "tenant-a", "x"]))
)
def test_only_the_whole_context_of_the_tenant_is_allowed(context: dict[str, str]) -> None:
    # Condition keys have no case, so one key in two cases can't be told apart; KMS refuses such a context earlier.
    lowered = [key.lower() for key in context]
    if len(set(lowered)) != len(lowered):
        return
    expected = set(context) == set(CONTEXT_KEYS) and context["mrgc:tenant"] == "tenant-a" and all(context.values())
    assert allowed(HOST, "Decrypt", sealed_with(context) | attested()) is expected
