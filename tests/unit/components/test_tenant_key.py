"""The tenant's key as the tenant's own project plans it, judged by a policy evaluator: who may decrypt, where."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pulumi
import pulumi_aws as aws
import pytest
import yaml

from components.placement import Placement
from components.tenant_key import TenantKey, TenantKeyArgs
from dataplane.enclave.build import render_measurements
from dataplane.protocol.attestation.key_policy import KeyPolicyError
from stacks.local.aws.policy import Call, decide, parse_policy
from stacks.local.aws.principals import Identity
from stacks.tenant import program
from stacks.tenant.settings import PROJECT, TenantSettings, TenantSettingsError, load, parse, read_measurements
from tests.support.pulumi_program import ROOT, Program, record

FOLDER = ROOT / "stacks" / "tenant"
EXAMPLE = yaml.safe_load((FOLDER / "Pulumi.example.yaml").read_text())["config"]
VALUES: dict[str, Any] = {
    key.removeprefix(PROJECT + ":"): value for key, value in EXAMPLE.items() if key.startswith(PROJECT + ":")
}
PCRS = {0: bytes([0xAB]) * 48, 1: bytes([2]) * 48, 2: bytes([3]) * 48, 8: bytes([9]) * 48}
REGIONS = ("us-east-1", "us-east-2", "us-west-2")
CONTEXT = {
    "kms:encryptioncontext:mrgc:tenant": ("tenant-a",),
    "kms:encryptioncontext:mrgc:session": ("0" * 32,),
    "kms:encryptioncontext:mrgc:expires": ("1790000000",),
    "kms:encryptioncontextkeys": ("mrgc:tenant", "mrgc:session", "mrgc:expires"),
}


def config(**changes: Any) -> dict[str, str]:
    """Configuration as the engine hands it over: texts as they are, all else as JSON."""
    values = {**VALUES, **changes}
    return {f"{PROJECT}:{key}": v if isinstance(v, str) else json.dumps(v) for key, v in values.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "measurements.json").write_text(render_measurements(PCRS))
    return tmp_path


@pytest.fixture
def planned(folder: Path) -> Program:
    return plan(folder)


def plan(folder: Path, **changes: Any) -> Program:
    return record(lambda: program.build(load(), folder), config=config(**changes))


def policies(planned: Program) -> dict[str, dict[str, Any]]:
    """The policy of the key that stands in each region."""
    found = {}
    for key in (*planned.of("kms/key:Key"), *planned.of("kms/replicaKey:ReplicaKey")):
        region = planned.region(key)
        assert region is not None
        found[region] = parse_policy(key.inputs["policy"])
    return found


def attested(pcrs: Mapping[int, bytes] = PCRS) -> dict[str, tuple[str, ...]]:
    return {f"kms:recipientattestation:pcr{index}": (value.hex(),) for index, value in pcrs.items()}


def allowed(policy: Mapping[str, Any], arn: str, action: str, context: Mapping[str, tuple[str, ...]]) -> bool:
    who = Identity(arn=arn, account=arn.split(":")[4], names=frozenset({arn}))
    return decide(policy, Call(identity=who, action=f"kms:{action}", resource="*", context=context)).allowed


def test_the_key_stands_in_every_region_named(planned: Program) -> None:
    assert set(policies(planned)) == set(REGIONS)
    primary = planned.one("kms/key:Key")
    assert planned.region(primary) == "us-east-1"
    assert primary.inputs["multiRegion"] is True


def test_every_host_decrypts_with_the_right_document_in_every_region(planned: Program) -> None:
    for region, policy in policies(planned).items():
        for role in VALUES["platform_role_arns"]:
            assert allowed(policy, role, "Decrypt", CONTEXT | attested()), f"{role} in {region}"


def test_without_a_document_nobody_decrypts_in_any_region(planned: Program) -> None:
    for region, policy in policies(planned).items():
        for arn in (*VALUES["platform_role_arns"], VALUES["admin_arn"], VALUES["user_arn"]):
            assert not allowed(policy, arn, "Decrypt", CONTEXT), f"{arn} in {region}"


@pytest.mark.parametrize("index", PCRS)
def test_with_one_wrong_register_nobody_decrypts_in_any_region(planned: Program, index: int) -> None:
    wrong = attested({**PCRS, index: bytes([0xEE]) * 48})
    missing = attested({other: value for other, value in PCRS.items() if other != index})
    for region, policy in policies(planned).items():
        for role in VALUES["platform_role_arns"]:
            assert not allowed(policy, role, "Decrypt", CONTEXT | wrong), f"PCR{index} is another image's in {region}"
            assert not allowed(policy, role, "Decrypt", CONTEXT | missing), f"PCR{index} is not shown in {region}"


def test_another_principal_does_not_decrypt_with_the_right_document(planned: Program) -> None:
    others = (
        VALUES["admin_arn"],
        VALUES["user_arn"],
        "arn:aws:iam::111122223333:root",
        "arn:aws:iam::123456789012:root",
        "arn:aws:iam::123456789012:role/mrgc-prod-eu-west-1-host",
        "arn:aws:iam::999900001111:role/mrgc-prod-us-east-1-host",
    )
    for region, policy in policies(planned).items():
        for arn in others:
            assert not allowed(policy, arn, "Decrypt", CONTEXT | attested()), f"{arn} in {region}"


def test_another_tenants_context_is_not_decrypted(planned: Program) -> None:
    other = CONTEXT | {"kms:encryptioncontext:mrgc:tenant": ("tenant-b",)}
    for policy in policies(planned).values():
        assert not allowed(policy, VALUES["platform_role_arns"][0], "Decrypt", other | attested())


def test_a_host_changes_and_grants_nothing_and_the_tenant_keeps_its_part(planned: Program) -> None:
    everything = CONTEXT | attested()
    for policy in policies(planned).values():
        for role in VALUES["platform_role_arns"]:
            for action in ("PutKeyPolicy", "CreateGrant", "GenerateDataKey", "Encrypt", "ReEncryptFrom", "DescribeKey"):
                assert not allowed(policy, role, action, everything), action
        assert allowed(policy, VALUES["user_arn"], "GenerateDataKey", CONTEXT)
        assert allowed(policy, VALUES["admin_arn"], "PutKeyPolicy", {})
        assert not allowed(policy, VALUES["admin_arn"], "CreateGrant", {})


def test_two_images_are_allowed_during_a_roll_out(folder: Path) -> None:
    newer = {index: bytes([index + 100]) * 48 for index in (0, 1, 2)}
    (folder / "next.json").write_text(render_measurements(newer))
    role = VALUES["platform_role_arns"][0]
    for policy in policies(plan(folder, measurements_files=["measurements.json", "next.json"])).values():
        assert allowed(policy, role, "Decrypt", CONTEXT | attested())
        assert allowed(policy, role, "Decrypt", CONTEXT | attested(newer))
        assert not allowed(policy, role, "Decrypt", CONTEXT | attested({**PCRS, 0: newer[0]})), (
            "registers of two images"
        )


def test_registers_are_compared_without_case_and_are_plain_ninety_six_digits(planned: Program) -> None:
    for policy in policies(planned).values():
        (decrypts,) = [one for one in policy["Statement"] if one["Action"] == "kms:Decrypt"]
        registers = decrypts["Condition"]["StringEqualsIgnoreCase"]
        assert set(registers) == {f"kms:RecipientAttestation:PCR{index}" for index in PCRS}
        assert all(re.fullmatch("[0-9a-f]{96}", value) for value in registers.values())


def test_the_key_rotates_is_kept_and_says_whose_it_is(planned: Program) -> None:
    primary = planned.one("kms/key:Key")
    assert primary.inputs["enableKeyRotation"] is True
    for key in (primary, *planned.of("kms/replicaKey:ReplicaKey")):
        assert (key.protect, key.retain_on_delete) == (True, True), "what it wrapped could never be opened again"
        assert key.inputs["deletionWindowInDays"] == 30
        assert key.inputs["tags"]["mrgc:key"] == "tenant"
        assert key.inputs["tags"]["mrgc:tenant"] == "tenant-a"
        assert not key.inputs.get("bypassPolicyLockoutSafetyCheck")


def test_every_provider_refuses_another_accounts_credentials(planned: Program) -> None:
    providers = planned.of("pulumi:providers:aws")
    assert len(providers) == len(REGIONS)
    for provider in providers:
        accounts = provider.inputs["allowedAccountIds"]
        assert (json.loads(accounts) if isinstance(accounts, str) else accounts) == ["111122223333"]


def test_a_fourth_region_is_configuration_alone(folder: Path) -> None:
    made = plan(folder, replica_regions=["us-east-2", "us-west-2", "eu-west-1"])
    found = policies(made)
    assert set(found) == {*REGIONS, "eu-west-1"}
    assert all(policy == found["us-east-1"] for policy in found.values())


def test_no_safe_policy_means_no_key() -> None:
    def unsafe() -> None:
        place = Placement(region="us-east-1", environment="dev", account="111122223333")
        with pytest.raises(KeyPolicyError, match="zero"):
            TenantKey(
                "key",
                TenantKeyArgs(
                    admin_arn=VALUES["admin_arn"],
                    user_arn=VALUES["user_arn"],
                    platform_role_arns=VALUES["platform_role_arns"],
                    tenant_id="tenant-a",
                    measurements=[{0: "0" * 96, 1: "1" * 96, 2: "2" * 96}],
                    home="us-east-1",
                    replica_regions=(),
                    providers={"us-east-1": aws.Provider("aws", region="us-east-1")},
                    placements={"us-east-1": place},
                ),
            )

    assert not record(unsafe).of("kms/key:Key")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"account": "1111"}, "mrgc-tenant:account is '1111'; an account number of twelve digits was expected."),
        (
            {"admin_arn": "arn:aws:iam::123456789012:root"},
            "mrgc-tenant:admin_arn: arn:aws:iam::123456789012:root is not of your account",
        ),
        (
            {"platform_role_arns": ["arn:aws:iam::111122223333:role/mrgc-prod-us-east-1-host"]},
            "is of your own account",
        ),
        ({"platform_role_arns": ["arn:aws:iam::123456789012:root"]}, "the ARN of a role was expected"),
        ({"platform_role_arns": []}, "mrgc-tenant:platform_role_arns"),
        ({"replica_regions": ["us-east-1"]}, "a region is named twice, or is the home region"),
        ({"home": "Virginia"}, "mrgc-tenant:home is 'Virginia'; a region's name, such as us-east-1 was expected."),
        ({"tenant_id": "*"}, "mrgc-tenant:tenant_id is '*'"),
        ({"surprise": "x"}, "mrgc-tenant:surprise"),
    ],
)
def test_a_wrong_value_is_one_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TenantSettingsError, match=re.escape(sentence)):
        parse({**VALUES, **change})


def test_a_missing_value_is_named() -> None:
    with pytest.raises(TenantSettingsError, match="mrgc-tenant:user_arn is not set"):
        parse({key: value for key, value in VALUES.items() if key != "user_arn"})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not JSON"),
        ("[]", "no object"),
        (json.dumps({"PCR0": "1" * 96, "PCR1": "1" * 96}), "has no PCR2"),
        (json.dumps({f"PCR{index}": "1" * 95 for index in range(3)}), "PCR0 .* is not 96 hex digits"),
        (json.dumps({f"PCR{index}": "0" * 96 for index in range(3)}), "debug enclave"),
    ],
)
def test_measurements_that_bind_nothing_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "measurements.json"
    path.write_text(text)
    with pytest.raises(TenantSettingsError, match=sentence):
        read_measurements(path)


def test_a_missing_measurements_file_ends_the_run_with_its_sentence() -> None:
    with pytest.raises(pulumi.RunError, match=r"missing\.json can't be read"):
        record(program.main, config=config(measurements_files=["missing.json"]))


def test_the_example_is_complete() -> None:
    settings = TenantSettings.model_validate(VALUES)
    assert set(VALUES) == set(TenantSettings.model_fields), "every setting is shown"
    assert settings.regions == REGIONS
    assert EXAMPLE["pulumi:disable-default-providers"] == ["aws"]


def test_the_project_imports_the_platforms_components_from_its_own_folder() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import stacks.tenant.program, components.tenant_key"],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    project = yaml.safe_load((FOLDER / "Pulumi.yaml").read_text())
    assert project["name"] == PROJECT
    assert project["runtime"]["options"]["toolchain"] == "uv", "which finds the repository's lock above this folder"
