from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import pytest
from pulumi_policy.proxy import UnknownValueError

from policies.rule import UNKNOWN, Resource
from tests.support.enclave_resources import AMI, CONFIG, allow, attach, host, refusing, role_policy, said, without

LEVEL_1 = {**CONFIG, "assuranceLevel": 1}
INSTANCE = "aws:ec2/instance:Instance"


def test_a_launch_template_as_hosts_need_it_is_accepted() -> None:
    assert refusing(host()) == set()


def test_an_instance_is_held_to_the_same() -> None:
    instance = without(host(INSTANCE, ami=AMI, metadataOptions=host().props["metadataOptions"]), "imageId")
    assert refusing(instance) == set()
    assert refusing(without(instance, "enclaveOptions")) == {"gpu-host-enclave"}
    assert refusing(without(instance, "ami")) == {"level-2-attestable-image"}


@pytest.mark.parametrize(
    "options", [None, {}, {"enabled": False}, {"enabled": UNKNOWN}, UNKNOWN, [{"enabled": "false"}]]
)
def test_a_template_without_enclaves_is_refused(options: Any) -> None:
    assert refusing(host(enclaveOptions=options)) == {"gpu-host-enclave"}


@pytest.mark.parametrize("type_", ["t3.micro", None, UNKNOWN])
def test_an_instance_type_excuses_nothing_because_a_group_can_override_it(type_: Any) -> None:
    assert refusing(host(instanceType=type_, enclaveOptions=None)) == {"gpu-host-enclave"}


def test_a_state_that_shows_blocks_as_lists_is_read() -> None:
    props = host().props
    listed = host(enclaveOptions=[props["enclaveOptions"]], metadataOptions=[props["metadataOptions"]])
    assert refusing(listed) == set()


def test_old_ways_of_starting_hosts_know_no_enclaves() -> None:
    configuration = host("aws:ec2/launchConfiguration:LaunchConfiguration")
    assert refusing(configuration) == {"gpu-host-enclave"}
    fleet = Resource(type="aws:ec2/spotFleetRequest:SpotFleetRequest", props={"launchSpecifications": [{"ami": AMI}]})
    assert refusing(fleet) == {"gpu-host-enclave"}
    assert refusing(Resource(type=fleet.type, props={"launchTemplateConfigs": []})) == set()


@pytest.mark.parametrize(
    "options",
    [
        None,
        UNKNOWN,
        {"httpTokens": "optional", "httpPutResponseHopLimit": 1},
        {"httpPutResponseHopLimit": 1},
        {"httpTokens": "required"},
        {"httpTokens": "required", "httpPutResponseHopLimit": 2},
        {"httpTokens": UNKNOWN, "httpPutResponseHopLimit": 1},
    ],
)
def test_metadata_for_other_than_the_host_itself_is_refused(options: Any) -> None:
    assert refusing(host(metadataOptions=options)) == {"gpu-host-imdsv2"}


@pytest.mark.parametrize("name", ["operators", UNKNOWN])
@pytest.mark.parametrize("config", [CONFIG, LEVEL_1])
def test_a_key_pair_is_refused_at_every_level(name: Any, config: dict[str, Any]) -> None:
    assert refusing(host(keyName=name), config) == {"gpu-host-no-key-pair"}
    pair = Resource(type="aws:ec2/keyPair:KeyPair", props={"publicKey": "ssh-ed25519 AAAA"})
    assert refusing(pair, config) == {"gpu-host-no-key-pair"}


@pytest.mark.parametrize("image", ["ami-0b0b0b0b0b0b0b0b2", None, UNKNOWN, "resolve:ssm:/ami", AMI.upper()])
def test_at_level_2_another_image_is_refused_and_at_level_1_it_is_not(image: Any) -> None:
    assert refusing(host(imageId=image)) == {"level-2-attestable-image"}
    assert refusing(host(imageId=image), LEVEL_1) == set()


def test_an_unset_level_is_the_strict_one_and_no_image_is_attestable_unless_configured() -> None:
    assert refusing(host(), {}) == {"level-2-attestable-image"}
    assert "No attestable image is configured" in said("level-2-attestable-image", host(), {})[0]


@pytest.mark.parametrize("level", [0, 3, True, "2", "high"])
def test_a_level_that_is_none_is_a_violation_and_no_pass(level: Any) -> None:
    assert "it is 1 or 2" in said("level-2-attestable-image", host(), {**CONFIG, "assuranceLevel": level})[0]


@pytest.mark.parametrize(
    "text",
    [
        "#cloud-config\nssh_authorized_keys:\n  - ssh-ed25519 AAAAC3",
        "echo ssh-rsa AAAAB3 >> /home/ec2-user/.ssh/authorized_keys",
        "echo root:x | chpasswd",
        "#cloud-config\nssh_pwauth: true",
        "dnf install -y ec2-instance-connect",
        "systemctl enable --now sshd",
        "systemctl --now enable amazon-ssm-agent.service",
        "service sshd start",
    ],
)
def test_at_level_2_user_data_that_opens_a_login_is_refused(text: str) -> None:
    for data in (base64.b64encode(text.encode()), base64.b64encode(gzip.compress(text.encode()))):
        assert refusing(host(userData=data.decode())) == {"level-2-no-login-in-user-data"}
    plain = without(host(INSTANCE, ami=AMI, userData=text), "imageId")
    assert refusing(plain) == {"level-2-no-login-in-user-data"}
    assert refusing(host(userData=base64.b64encode(text.encode()).decode()), LEVEL_1) == set()


@pytest.mark.parametrize("level", [CONFIG, LEVEL_1])
@pytest.mark.parametrize(
    "text",
    [
        "echo '/var/crash/%e' > /proc/sys/kernel/core_pattern",
        "sysctl -w kernel.core_pattern=/tmp/core",
        "ulimit -c unlimited",
        "ulimit -S -c 1000",
        "[Service]\nLimitCORE=infinity",
        "dnf install -y systemd-coredump",
        "VLLM_TORCH_PROFILER_DIR=/tmp/p",
        "nsys profile -o /tmp/x mrgc worker",
        "py-spy record -p 1",
        "perf record -a",
        "gdb -p $(pidof python)",
        "echo VLLM_DEBUG_LOG_API_SERVER_RESPONSE=1 >> /etc/mrgc/worker.env",
        "VLLM_LOGGING_LEVEL='DEBUG'",
        "mrgc worker --enable-log-requests",
        "swapon /swapfile",
    ],
)
def test_user_data_that_would_keep_what_a_worker_holds_is_refused(text: str, level: dict[str, Any]) -> None:
    for data in (base64.b64encode(text.encode()), base64.b64encode(gzip.compress(text.encode()))):
        assert refusing(host(userData=data.decode()), level) == {"gpu-host-no-recording"}


@pytest.mark.parametrize(
    "text", ["ulimit -c 0", "[Service]\nLimitCORE=0\n", "swapoff -a", "LOG_LEVEL=INFO", "VLLM_LOGGING_LEVEL=WARNING"]
)
def test_user_data_that_keeps_nothing_is_accepted(text: str) -> None:
    assert refusing(host(userData=base64.b64encode(text.encode()).decode())) == set()


def test_user_data_that_closes_a_login_is_accepted() -> None:
    text = "systemctl disable --now sshd amazon-ssm-agent\nsystemctl mask sshd\nssh_pwauth: false\n"
    assert refusing(host(userData=base64.b64encode(text.encode()).decode())) == set()


def test_user_data_not_known_yet_is_judged_at_the_update() -> None:
    with pytest.raises(UnknownValueError):
        said("level-2-no-login-in-user-data", host(userData=UNKNOWN))


def endpoint(service: str) -> Resource:
    return Resource(type="aws:ec2/vpcEndpoint:VpcEndpoint", props={"serviceName": f"com.amazonaws.us-east-1.{service}"})


SESSION = "level-2-no-session"


@pytest.mark.parametrize(
    "resource",
    [
        endpoint("ssmmessages"),
        endpoint("ec2messages"),
        Resource(type="aws:ssm/activation:Activation", props={}),
        Resource(type="aws:ec2transitgateway/instanceConnectEndpoint:InstanceConnectEndpoint", props={}),
        Resource(type="aws:ec2/serialConsoleAccess:SerialConsoleAccess", props={"enabled": True}),
        Resource(type="aws:ec2/serialConsoleAccess:SerialConsoleAccess", props={}),
        attach("arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"),
        role_policy(allow("ssmmessages:*")),
        role_policy(allow("ssm:Update*")),
        Resource(type="aws:ecs/service:Service", props={"enableExecuteCommand": True}),
        role_policy(allow("ec2messages:GetMessages")),
        Resource(
            type="aws:iam/role:Role",
            props={"inlinePolicies": [{"policy": json.dumps({"Statement": allow("ssmmessages:OpenDataChannel")})}]},
        ),
    ],
    ids=lambda one: one.type.rpartition(":")[2],
)
def test_at_level_2_a_way_to_a_session_is_refused_and_at_level_1_it_is_not(resource: Resource) -> None:
    assert refusing(resource) == {SESSION}
    assert refusing(resource, LEVEL_1) == set()


@pytest.mark.parametrize(
    "resource",
    [
        endpoint("ssm"),
        endpoint("kms"),
        role_policy(allow(["ssm:GetParameters", "ssm:GetParameter"])),
        Resource(type="aws:ec2/serialConsoleAccess:SerialConsoleAccess", props={"enabled": False}),
    ],
    ids=lambda one: one.type.rpartition(":")[2],
)
def test_reading_parameters_is_no_session(resource: Resource) -> None:
    assert refusing(resource) == set()


def ingress(protocol: str, low: Any, high: Any) -> dict[str, Any]:
    return {"ipProtocol": protocol, "fromPort": low, "toPort": high}


@pytest.mark.parametrize(
    ("protocol", "low", "high", "refused"),
    [
        ("tcp", 22, 22, True),
        ("TCP", 0, 65535, True),
        ("6", 20, 30, True),
        ("tcp", 3389, 3389, True),
        ("-1", None, None, True),
        ("tcp", None, None, True),
        ("tcp", 443, 443, False),
        ("tcp", 988, 1023, False),
        ("udp", 22, 22, False),
        ("icmp", -1, -1, False),
    ],
)
def test_at_level_2_ports_to_log_in_by_are_closed(protocol: str, low: Any, high: Any, *, refused: bool) -> None:
    expected = {"level-2-no-login-port"} if refused else set()
    rule = Resource(
        type="aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", props=ingress(protocol, low, high)
    )
    assert refusing(rule) == expected
    inline = {"protocol": protocol, "fromPort": low, "toPort": high}
    assert refusing(Resource(type="aws:ec2/securityGroup:SecurityGroup", props={"ingress": [inline]})) == expected
    old = Resource(type="aws:ec2/securityGroupRule:SecurityGroupRule", props={**inline, "type": "ingress"})
    assert refusing(old) == expected
    out = Resource(type="aws:ec2/securityGroupRule:SecurityGroupRule", props={**inline, "type": "egress"})
    assert refusing(out) == set(), "what goes out lets nobody in"
    assert refusing(rule, LEVEL_1) == set()
