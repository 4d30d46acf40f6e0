from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pulumi
import pulumi_aws as aws
import pytest
import yaml

from components.gpu_fleet import (
    LAUNCH_HEARTBEAT_S,
    TERMINATE_HEARTBEAT_S,
    GpuFleet,
    GpuFleetArgs,
    HostArtefacts,
    group_name,
)
from components.host_role import decrypt_attested, host_role_arn
from components.placement import Placement
from dataplane.protocol.attestation.key_policy import tenant_key_policy
from tests.support.pulumi_program import ACCOUNT, ROOT, Program, record

REGIONS = ("us-east-1", "us-east-2", "us-west-2", "eu-west-1")
PCRS = {0: "a1" * 48, 1: "b2" * 48, 2: "c3" * 48}
ARTEFACTS = HostArtefacts(
    bucket_name="models",
    bucket_arn="arn:aws:s3:::models",
    eif_sha256="1" * 64,
    wheel_sha256="2" * 64,
    version="0.1.0",
)


def args(region: str = "us-east-1", **changes: Any) -> GpuFleetArgs:
    plain = GpuFleetArgs(
        placement=Placement(region=region, environment="staging", account=ACCOUNT),
        subnet_ids=["subnet-a", "subnet-b", "subnet-c"],
        security_group_id="sg-gpu",
        ami_id="ami-0a0a0a0a0a0a0a0a1",
        instance_type="g6e.2xlarge",
        min=2,
        max=20,
        enclave_memory_mib=4096,
        enclave_cpus=2,
        assurance_level=1,
        on_demand_base=2,
        on_demand_percent=50,
        file_system_dns="fs-1.fsx.amazonaws.com",
        mount_name="abcdefgh",
        default_model_pool="llama",
        storage_key_arn="arn:aws:kms:us-east-1:123456789012:key/storage",
        tables_key_arn="arn:aws:kms:us-east-1:123456789012:key/mrk-tables",
        log_group_name="/mrgc/staging/host",
        metrics_log_group_name="/mrgc/staging/collector",
        table_names={"gpu_instances": "mrgc-staging-gpu_instances"},
        measurements=PCRS,
        artefacts=ARTEFACTS,
    )
    return replace(plain, **changes)


def fleet(*fleets: GpuFleetArgs) -> Program:
    def run() -> None:
        for one in fleets:
            region = one.placement.region
            provider = aws.Provider(f"aws-{region}", region=region)
            made = GpuFleet(f"gpu-{region}", one, pulumi.ResourceOptions(provider=provider))
            pulumi.export(f"group-{region}", made.group_name)
            pulumi.export(f"role-{region}", made.role_arn)

    return record(run)


@pytest.fixture(scope="module")
def program() -> Program:
    return fleet(args())


@pytest.fixture(scope="module")
def level_2() -> Program:
    return fleet(args(assurance_level=2, artefacts=None))


def template(program: Program) -> Mapping[str, Any]:
    return program.one("ec2/launchTemplate:LaunchTemplate").inputs


def group(program: Program) -> Mapping[str, Any]:
    return program.one("autoscaling/group:Group").inputs


def statements(program: Program) -> dict[str, dict[str, Any]]:
    return {
        statement["Sid"]: statement
        for one in program.of("iam/rolePolicy:RolePolicy")
        for statement in json.loads(one.inputs["policy"])["Statement"]
    }


def test_a_host_is_started_with_an_enclave_and_a_guarded_metadata_service(program: Program) -> None:
    made = template(program)
    assert made["enclaveOptions"] == {"enabled": True}
    options = made["metadataOptions"]
    assert (options["httpTokens"], options["httpPutResponseHopLimit"]) == ("required", 1)


def test_nobody_logs_into_a_host_with_a_key(program: Program) -> None:
    assert "keyName" not in template(program)


def test_a_hosts_disk_is_encrypted_under_the_platforms_key(program: Program) -> None:
    ebs = template(program)["blockDeviceMappings"][0]["ebs"]
    assert (ebs["encrypted"], ebs["volumeType"]) == ("true", "gp3")
    assert ebs["kmsKeyId"].endswith("key/storage")


def test_a_host_has_no_public_address_and_the_gpu_group_alone(program: Program) -> None:
    interface = template(program)["networkInterfaces"][0]
    assert interface["associatePublicIpAddress"] == "false"
    assert interface["securityGroups"] == ["sg-gpu"]
    assert "vpcSecurityGroupIds" not in template(program), "EC2 takes groups in one of the two places"


def test_what_is_launched_is_tagged_too(program: Program) -> None:
    tagged = {one["resourceType"]: one["tags"] for one in template(program)["tagSpecifications"]}
    assert tagged.keys() == {"instance", "volume", "network-interface"}
    for tags in tagged.values():
        assert tags["mrgc:environment"] == "staging"
        assert tags["mrgc:region"] == "us-east-1"


def test_the_template_carries_the_user_data(program: Program) -> None:
    text = base64.b64decode(template(program)["userData"]).decode()
    files = {one["path"]: one["content"] for one in yaml.safe_load(text)["write_files"]}
    assert "FSX_DNS=fs-1.fsx.amazonaws.com\n" in files["/etc/mrgc/setup.env"]
    assert f"EIF_PCR0={PCRS[0]}\n" in files["/etc/mrgc/setup.env"]
    assert f"GROUP_NAME={group_name(args().placement)}\n" in files["/etc/mrgc/setup.env"]


def test_a_measured_host_gets_settings_and_no_scripts(level_2: Program) -> None:
    text = base64.b64decode(template(level_2)["userData"]).decode()
    assert text.startswith("# mrgc-host 1\n")
    assert "mrgc-setup" not in text


def test_the_group_has_the_bounds_and_leaves_the_number_to_the_autoscaler(program: Program) -> None:
    made = program.one("autoscaling/group:Group")
    assert (made.inputs["minSize"], made.inputs["maxSize"]) == (2, 20)
    assert "desiredCapacity" not in made.inputs
    assert made.ignore_changes == ("desiredCapacity",)
    assert made.inputs["vpcZoneIdentifiers"] == ["subnet-a", "subnet-b", "subnet-c"]


def test_only_the_autoscaler_says_which_host_goes(program: Program) -> None:
    made = group(program)
    assert made["protectFromScaleIn"] is True
    assert made["suspendedProcesses"] == ["AZRebalance"]
    assert "instanceRefresh" not in made, "a new template must not restart hosts by itself"


def test_a_lack_of_gpus_does_not_fail_the_program(program: Program) -> None:
    assert group(program)["waitForCapacityTimeout"] == "0"


def test_what_the_alarms_watch_is_collected(program: Program) -> None:
    assert {"GroupInServiceInstances", "GroupDesiredCapacity"} <= set(group(program)["enabledMetrics"])
    assert group(program)["metricsGranularity"] == "1Minute"


def test_a_mixture_of_on_demand_and_spot_is_bought_as_configured(program: Program) -> None:
    policy = group(program)["mixedInstancesPolicy"]
    distribution = policy["instancesDistribution"]
    assert distribution["onDemandBaseCapacity"] == 2
    assert distribution["onDemandPercentageAboveBaseCapacity"] == 50
    assert distribution["spotAllocationStrategy"] == "capacity-optimized"
    assert [one["instanceType"] for one in policy["launchTemplate"]["overrides"]] == ["g6e.2xlarge"]
    assert group(program)["capacityRebalance"] is True


def test_without_spot_there_is_nothing_to_rebalance() -> None:
    assert group(fleet(args(on_demand_percent=100)))["capacityRebalance"] is False


def test_reserved_capacity_is_used_first() -> None:
    made = group(fleet(args(on_demand_percent=100, reservation_id="cr-0123456789abcdef0")))
    reservation = made["capacityReservationSpecification"]
    assert reservation["capacityReservationPreference"] == "capacity-reservations-first"
    assert reservation["capacityReservationTarget"]["capacityReservationIds"] == ["cr-0123456789abcdef0"]
    assert "mixedInstancesPolicy" not in made, "a reservation serves on-demand hosts alone"
    assert made["launchTemplate"]["id"]


def test_the_group_waits_for_the_rights_of_its_hosts(program: Program) -> None:
    waits = program.one("autoscaling/group:Group").dependencies
    assert {one.urn for one in program.of("iam/rolePolicy:RolePolicy")} <= set(waits)


def test_the_first_hosts_too_wait_at_the_hooks(program: Program) -> None:
    initial = {one["name"]: one for one in group(program)["initialLifecycleHooks"]}
    later = {one.inputs["name"]: one.inputs for one in program.of("autoscaling/lifecycleHook:LifecycleHook")}
    assert initial.keys() == later.keys() == {"mrgc-launch", "mrgc-terminate"}
    for name, hook in initial.items():
        for key in ("defaultResult", "heartbeatTimeout", "lifecycleTransition"):
            assert hook[key] == later[name][key]
    assert initial["mrgc-launch"]["defaultResult"] == "ABANDON", "a host that never served is replaced"
    assert initial["mrgc-terminate"]["defaultResult"] == "CONTINUE", "a host that hangs goes all the same"


def stop_limit_s(part: str) -> int:
    unit = (ROOT / f"dataplane/{part}/mrgc-{part}.service").read_text()
    found = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert found is not None, part
    return int(found[1])


def test_a_host_has_time_to_drain_before_it_is_ended() -> None:
    look_s = 5
    after = max(stop_limit_s("worker"), stop_limit_s("enclave") + stop_limit_s("proxy"))
    assert look_s + stop_limit_s("parent") + after < TERMINATE_HEARTBEAT_S


def test_a_spot_notice_covers_the_drain_of_requests() -> None:
    assert 5 + stop_limit_s("parent") < 120


def test_a_launch_has_no_more_time_than_ec2_gives() -> None:
    assert 520 * 2 <= LAUNCH_HEARTBEAT_S <= 7200


def test_the_roles_name_is_the_one_that_tenants_know(program: Program) -> None:
    role = program.one("iam/role:Role")
    assert role.inputs["name"] == "mrgc-staging-us-east-1-host"
    arn = host_role_arn(args().placement)
    assert arn == f"arn:aws:iam::{ACCOUNT}:role/mrgc-staging-us-east-1-host"
    policy = tenant_key_policy("arn:aws:iam::210987654321:root", "arn:aws:iam::210987654321:role/t", arn, PCRS)
    assert arn in json.dumps(policy)


def test_a_role_whose_id_tenants_policies_hold_is_protected() -> None:
    assert fleet(args(protect=True)).one("iam/role:Role").protect is True
    assert fleet(args(protect=False)).one("iam/role:Role").protect is False


def test_the_role_decrypts_under_the_same_conditions_as_a_tenants_policy(program: Program) -> None:
    own = statements(program)["AttestedEnclaveDecrypts0"]
    arn = host_role_arn(args().placement)
    tenants = tenant_key_policy("arn:aws:iam::210987654321:root", "arn:aws:iam::210987654321:role/t", arn, PCRS)
    theirs = next(one for one in tenants["Statement"] if one["Sid"] == "AttestedEnclaveDecrypts0")
    assert own["Condition"] == theirs["Condition"]
    assert own["Action"] == "kms:Decrypt"
    assert own["Resource"] == "arn:aws:kms:us-east-1:*:key/*", "the region's KMS is the only one that it reaches"


def test_during_a_roll_out_both_images_decrypt() -> None:
    earlier = {0: "d4" * 48, 1: "e5" * 48, 2: "f6" * 48}
    found = statements(fleet(args(earlier_measurements=[earlier])))
    assert [
        found[f"AttestedEnclaveDecrypts{number}"]["Condition"]["StringEqualsIgnoreCase"][
            "kms:RecipientAttestation:PCR0"
        ]
        for number in (0, 1)
    ] == [PCRS[0], earlier[0]]


def test_every_other_decryption_is_through_an_aws_service(program: Program) -> None:
    for sid, one in statements(program).items():
        actions = [one["Action"]] if isinstance(one["Action"], str) else one["Action"]
        assert not {"kms:*", "kms:CreateGrant", "kms:PutKeyPolicy", "*"} & set(actions), sid
        if "kms:Decrypt" in actions and not sid.startswith("Attested"):
            assert "kms:ViaService" in one["Condition"]["StringEquals"], sid


def test_only_calls_without_resources_are_allowed_on_all(program: Program) -> None:
    assert [sid for sid, one in statements(program).items() if one["Resource"] == "*"] == ["SendTraces"]


def test_a_host_reads_its_artefacts_and_nothing_else_of_the_bucket(program: Program) -> None:
    assert statements(program)["FetchArtefacts"]["Resource"] == "arn:aws:s3:::models/host/sha256/*"


def test_a_measured_host_fetches_nothing(level_2: Program) -> None:
    assert not {"FetchArtefacts", "OpenArtefacts"} & statements(level_2).keys()


def test_a_host_finishes_hooks_of_its_own_group_only(program: Program) -> None:
    assert statements(program)["FinishHooks"]["Resource"] == (
        f"arn:aws:autoscaling:us-east-1:{ACCOUNT}:autoScalingGroup:*:autoScalingGroupName/mrgc-staging-gpu"
    )
    assert group(program)["name"] == "mrgc-staging-gpu"


def test_session_manager_is_there_only_where_it_is_asked_for(program: Program) -> None:
    assert "SessionManager" not in statements(program)
    with_it = statements(fleet(args(session_manager=True)))
    assert "ssmmessages:OpenDataChannel" in with_it["SessionManager"]["Action"]
    assert "ssm:GetParameter" not in with_it["SessionManager"]["Action"], "the agent reads no parameters"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"assurance_level": 2, "artefacts": None, "session_manager": True}, "session_manager: a host that can be"),
        ({"artefacts": None}, "artefacts: a host of level 1 fetches them"),
        ({"assurance_level": 2}, "artefacts: a host of level 2 has everything"),
        ({"reservation_id": "cr-0123456789abcdef0"}, "set on_demand_percent to 100"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        args(**changes)


@pytest.mark.parametrize(
    ("pcrs", "sentence"),
    [
        ({0: "a1" * 48, 1: "b2" * 48}, "PCR2 is missing"),
        ({**PCRS, 1: "b2" * 47}, "PCR1 is not 96 hex digits"),
        ({**PCRS, 0: "g" * 96}, "PCR0 is not 96 hex digits"),
        ({**PCRS, 0: "0" * 96}, "PCR0 is zero, a debug enclave"),
        ({**PCRS, 2: "0" * 96}, "PCR2 is zero, a debug enclave"),
        ({**PCRS, -1: "a1" * 48}, "PCR-1 is no register"),
        ({**PCRS, 32: "a1" * 48}, "PCR32 is no register"),
    ],
)
def test_measurements_that_prove_nothing_are_refused(pcrs: dict[int, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        decrypt_attested(args().placement, pcrs)


def test_an_unsigned_image_may_be_named_by_its_zero_pcr8() -> None:
    statement = decrypt_attested(args().placement, {**PCRS, 8: "0" * 96})
    bound = statement["Condition"]["StringEqualsIgnoreCase"]
    assert bound["kms:RecipientAttestation:PCR8"] == "0" * 96, "compared like any other value"


@pytest.mark.parametrize("count", [3, 4])
def test_each_regions_fleet_is_its_own(count: int) -> None:
    made = fleet(*(args(region) for region in REGIONS[:count]))
    roles = [one.inputs["name"] for one in made.of("iam/role:Role")]
    assert sorted(roles) == sorted(f"mrgc-staging-{region}-host" for region in REGIONS[:count]), (
        "IAM's names are the account's"
    )
    for one in made.of("autoscaling/group:Group"):
        assert one.name.startswith(f"gpu-{made.region(one)}-")
    assert not [value for value in made.outputs.values() if "None" in str(value)]


def test_everything_is_the_components_child(program: Program) -> None:
    fleet_urn = program.one("mrgc:gpu_fleet:GpuFleet").urn
    role_urn = program.one("mrgc:host_role:HostRole").urn
    assert program.one("mrgc:host_role:HostRole").parent == fleet_urn
    for one in program:
        if one.custom and one.type.startswith("aws:"):
            assert one.parent == (role_urn if one.type.startswith("aws:iam/") else fleet_urn)
