"""The enclave pack as a process of its own, asked over gRPC as the engine asks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pulumi_policy.proxy import UNKNOWN_STRING_VALUE

from policies.enclave.rules import RULES
from policies.packs import expand, of_pack
from policies.rule import Resource, ResourceRule
from policies.runner import Pack, PackError, Subject, judge
from stacks.tenant import program as tenant_program
from stacks.tenant.settings import load as load_tenant
from tests.support.enclave_resources import (
    CONFIG,
    HOST,
    NEW,
    OLD,
    TENANT,
    allow,
    attach,
    changed,
    decrypting,
    entry,
    host,
    key,
    parameter,
    policy,
    role_policy,
    task,
    without,
)
from tests.support.policy_pack import judged, running
from tests.support.pulumi_program import Program, record

REPLICA = "aws:kms/replicaKey:ReplicaKey"


@pytest.fixture(scope="module")
def pack() -> Iterator[Pack]:
    with running("enclave", of_pack("enclave", expand(CONFIG))) as started:
        yield started


def subject(resource: Resource, name: str = "it", **more: Any) -> Subject:
    urn = f"urn:pulumi:dev::mrgc::{resource.type}::{name}"
    given = {"provider": {"region": "us-east-1"}, "provider_urn": "urn:pulumi:dev::mrgc::pulumi:providers:aws::aws"}
    return Subject(urn=urn, type=resource.type, name=name, inputs=resource.props, **{**given, **more})


def statement(actions: Any, principal: str) -> dict[str, Any]:
    return {"Effect": "Allow", "Principal": {"AWS": principal}, "Action": actions, "Resource": "*"}


def unconditioned(found: dict[str, Any]) -> None:
    del decrypting(found)["Condition"]["StringEqualsIgnoreCase"]


def contextless(found: dict[str, Any]) -> None:
    del decrypting(found)["Condition"]["StringLike"]


USER_DATA = "c3NoLWVkMjU1MTkgQUFBQQ=="
"""`ssh-ed25519 AAAA`."""
DEBUG = "bml0cm8tY2xpIHJ1bi1lbmNsYXZlIC0tZGVidWctbW9kZQ=="
"""`nitro-cli run-enclave --debug-mode`."""
RECORDING = "dWxpbWl0IC1jIHVubGltaXRlZA=="
"""`ulimit -c unlimited`."""

ACCEPTED: list[Resource] = [
    key(),
    host(),
    task(f"mrgc/router@sha256:{'ab' * 32}"),
    role_policy(allow("s3:GetObject")),
    parameter("/mrgc/prod/measurements/pcr0", OLD[0]),
]

BROKEN: dict[str, Resource] = {
    "tenant-key-attested-decrypt": key(changed(unconditioned)),
    "tenant-key-measurements": key(policy({**OLD, 0: "cc" * 48})),
    "tenant-key-no-bypass": key(changed(lambda found: found["Statement"].append(statement("kms:DescribeKey", "*")))),
    "tenant-key-encryption-context": key(changed(contextless)),
    "tenant-key-no-platform-control": key(
        changed(lambda found: found["Statement"].append(statement("kms:PutKeyPolicy", HOST)))
    ),
    "tenant-key-tenant-accounts": key(policy(OLD, admin="arn:aws:iam::777788889999:role/tenant-admin")),
    "kms-key-says-whose": key(tags={}),
    "kms-key-rotates": key(enableKeyRotation=False),
    "kms-replica-own-policy": without(key(type_=REPLICA, tags={"mrgc:key": "platform"}), "policy"),
    "kms-no-grants": Resource(type="aws:kms/grant:Grant", props={"operations": ["Decrypt"], "granteePrincipal": HOST}),
    "platform-role-no-key-control": role_policy(allow("kms:PutKeyPolicy")),
    "platform-role-leaves-what-runs": role_policy(allow("ssm:PutParameter")),
    "platform-role-managed-policies": attach("arn:aws:iam::aws:policy/AdministratorAccess"),
    "platform-role-attested-decrypt": role_policy(allow("kms:Decrypt")),
    "gpu-host-enclave": host(enclaveOptions={"enabled": False}),
    "gpu-host-imdsv2": host(metadataOptions={"httpTokens": "required", "httpPutResponseHopLimit": 2}),
    "gpu-host-no-key-pair": host(keyName="operators"),
    "gpu-host-no-debug-enclave": host(userData=DEBUG),
    "gpu-host-no-recording": host(userData=RECORDING),
    "level-2-attestable-image": host(imageId="ami-0b0b0b0b0b0b0b0b2"),
    "level-2-no-login-in-user-data": host(userData=USER_DATA),
    "level-2-no-session": attach("arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"),
    "level-2-no-login-port": Resource(
        type="aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
        props={"ipProtocol": "tcp", "fromPort": 22, "toPort": 22},
    ),
    "image-by-digest": task("mrgc/router:latest"),
    "image-repositories-hold-still": Resource(
        type="aws:ecr/repository:Repository",
        props={"imageTagMutability": "MUTABLE", "imageScanningConfiguration": {"scanOnPush": True}},
    ),
    "published-measurements": parameter("/mrgc/prod/measurements/pcr0", "0" * 96),
    "nothing-unreadable": Resource(type="aws:cloudformation/stack:Stack", props={"templateBody": "{}"}),
}
"""For every rule over single resources, one that breaks it and no other."""


def test_the_pack_has_exactly_the_rules_of_the_module(pack: Pack) -> None:
    assert pack.rules() == [rule.name for rule in RULES]


def test_every_rule_over_single_resources_has_a_program_that_breaks_just_it() -> None:
    assert set(BROKEN) == {rule.name for rule in RULES if isinstance(rule, ResourceRule)}


@pytest.mark.parametrize("resource", ACCEPTED, ids=lambda one: one.type.rpartition(":")[2])
def test_a_good_resource_is_accepted(pack: Pack, resource: Resource) -> None:
    assert pack.analyze(subject(resource)) == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_resource_that_breaks_one_rule_is_refused_by_that_rules_name(pack: Pack, name: str) -> None:
    said = pack.analyze(subject(BROKEN[name]))
    assert {one.rule for one in said} == {name}
    assert all(one.mandatory and not one.undecided and one.urn == subject(BROKEN[name]).urn for one in said)
    assert all(one.message for one in said), "a violation says what is wrong besides what the rule protects"


def test_a_replica_with_another_safe_policy_is_refused_with_the_whole(pack: Pack) -> None:
    primary = subject(key(policy(OLD), arn="arn:primary"), "primary")
    depends = {"depends": {"primaryKeyArn": (primary.urn,)}}
    same = subject(key(policy(OLD), REPLICA, primaryKeyArn="arn:primary"), "replica", **depends)
    other = subject(key(policy(NEW), REPLICA, primaryKeyArn="arn:primary"), "replica", **depends)
    assert judge(pack, [primary, same]) == []
    assert [(one.rule, one.urn) for one in judge(pack, [primary, other])] == [("kms-replica-repeats-policy", other.urn)]


def test_registers_of_two_images_are_refused_with_the_whole(pack: Pack) -> None:
    def published(registers: Mapping[int, str]) -> list[Subject]:
        values = {**{f"pcr{index}": value for index, value in registers.items()}, "eif_version": "1.0.0"}
        return [subject(parameter(f"/mrgc/prod/measurements/{name}", value), name) for name, value in values.items()]

    assert judge(pack, published(OLD)) == []
    assert [one.rule for one in judge(pack, published({**OLD, 2: NEW[2]}))] == ["published-measurements-agree"]


def test_a_template_from_elsewhere_is_refused_with_the_whole(pack: Pack) -> None:
    group = Resource(type="aws:autoscaling/group:Group", props={"launchTemplate": {"id": "lt-elsewhere"}})
    assert [one.rule for one in judge(pack, [subject(host(id="lt-1"), "template"), subject(group)])] == [
        "nothing-borrowed"
    ]


def test_an_unknown_policy_of_a_tenants_key_is_refused_and_of_a_role_put_off(pack: Pack) -> None:
    refused = pack.analyze(subject(key(policy=UNKNOWN_STRING_VALUE)))
    assert [(one.rule, one.mandatory) for one in refused] == [("tenant-key-attested-decrypt", True)]
    later = pack.analyze(
        subject(Resource(type="aws:iam/rolePolicy:RolePolicy", props={"policy": UNKNOWN_STRING_VALUE}))
    )
    assert later
    assert all(one.undecided and not one.mandatory for one in later)


def test_an_unconfigured_pack_refuses_rather_than_passes() -> None:
    with running("enclave") as bare:
        assert {one.rule for one in bare.analyze(subject(key()))} == {
            "tenant-key-measurements",
            "tenant-key-tenant-accounts",
        }
        assert {one.rule for one in bare.analyze(subject(host()))} == {"level-2-attestable-image"}


def test_a_folder_that_is_no_pack_says_so(tmp_path: Path) -> None:
    (tmp_path / "PulumiPolicy.yaml").write_text("runtime: python\nversion: 1.0.0\n")
    (tmp_path / "__main__.py").write_text("raise RuntimeError('nothing here')\n")
    with pytest.raises(PackError, match="did not start"), Pack(tmp_path):
        pass


REGIONS = ["us-east-1", "us-east-2", "us-west-2"]
MEASURED = {0: "ab" * 48, 1: "02" * 48, 2: "03" * 48}


@pytest.fixture(scope="module")
def tenants_program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """The project that a tenant runs in its own account, as the example configures it."""
    folder = tmp_path_factory.mktemp("tenant")
    measurements = {"HashAlgorithm": "SHA384", **{f"PCR{index}": value for index, value in MEASURED.items()}}
    (folder / "measurements.json").write_text(json.dumps({"Measurements": measurements, **measurements}))
    config = {
        "tenant_id": "tenant-a",
        "account": "111122223333",
        "environment": "prod",
        "admin_arn": "arn:aws:iam::111122223333:role/key-admin",
        "user_arn": "arn:aws:iam::111122223333:role/mrgc-client",
        "platform_role_arns": json.dumps([f"arn:aws:iam::123456789012:role/mrgc-prod-{r}-host" for r in REGIONS]),
        "home": REGIONS[0],
        "replica_regions": json.dumps(REGIONS[1:]),
        "measurements_files": json.dumps(["measurements.json"]),
    }
    given = {f"mrgc-tenant:{name}": value for name, value in config.items()}
    return record(lambda: tenant_program.build(load_tenant(), folder), config=given)


def test_the_tenants_own_program_passes_with_every_rule_mandatory(tenants_program: Program) -> None:
    config = expand({"tenantAccounts": [TENANT], "measurements": [entry(MEASURED, "1.0.0")]})
    with running("enclave", of_pack("enclave", config)) as pack:
        assert judged(pack, tenants_program) == []
    assert len(tenants_program.of("kms/key:Key")) + len(tenants_program.of(REPLICA)) == 3


def test_the_tenants_own_program_is_refused_for_other_measurements(tenants_program: Program) -> None:
    config = expand({"tenantAccounts": [TENANT], "measurements": [entry(OLD, "1.0.0")]})
    with running("enclave", of_pack("enclave", config)) as pack:
        assert {one.rule for one in judged(pack, tenants_program)} == {"tenant-key-measurements"}
