"""Resources that every rule of the enclave pack accepts, and what breaks just one of them: shared by its tests."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dataplane.protocol.attestation.key_policy import tenant_key_policy
from policies.enclave.rules import RULES
from policies.rule import Resource, ResourceRule, Rule

TENANT = "111122223333"
PLATFORM = "444455556666"
ADMIN = f"arn:aws:iam::{TENANT}:role/tenant-admin"
USER = f"arn:aws:iam::{TENANT}:role/tenant-app"
HOST = f"arn:aws:iam::{PLATFORM}:role/mrgc-prod-us-east-1-host"
DIGEST = "sha256:" + "ab" * 32
AMI = "ami-0a0a0a0a0a0a0a0a1"

OLD = {0: "a0" * 48, 1: "a1" * 48, 2: "a2" * 48}
NEW = {0: "b0" * 48, 1: "b1" * 48, 2: "b2" * 48, 8: "b8" * 48}
"""Two published images, of which the second is signed."""


def entry(registers: Mapping[int, str], version: str) -> dict[str, str]:
    return {**{f"pcr{index}": value for index, value in registers.items()}, "eifVersion": version}


CONFIG: dict[str, Any] = {
    "measurements": [entry(OLD, "1.0.0"), entry(NEW, "1.1.0")],
    "tenantAccounts": [TENANT],
    "assuranceLevel": 2,
    "attestableAmis": [AMI],
}
"""The properties that a strict stack is configured with; every rule takes those that it declares."""


def rule(name: str) -> Rule:
    return next(one for one in RULES if one.name == name)


def of_rule(one: Rule, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The part of a configuration that a rule declares."""
    given = CONFIG if config is None else config
    return {setting.name: given[setting.name] for setting in one.settings if setting.name in given}


def refusing(resource: Resource, config: Mapping[str, Any] | None = None) -> set[str]:
    """The names of the resource rules that refuse a resource."""
    return {
        one.name for one in RULES if isinstance(one, ResourceRule) and one.violations(resource, of_rule(one, config))
    }


def said(name: str, resource: Resource, config: Mapping[str, Any] | None = None) -> list[str]:
    """What one resource rule says of a resource."""
    one = rule(name)
    assert isinstance(one, ResourceRule), name
    return one.violations(resource, of_rule(one, config))


def policy(*images: Mapping[int, str], admin: str = ADMIN, user: str = USER, host: str = HOST) -> dict[str, Any]:
    """What a tenant's key really gets."""
    return tenant_key_policy(admin, user, host, images or (OLD, NEW), tenant_id="tenant-a")


Change = Callable[[dict[str, Any]], None]


def changed(change: Change) -> dict[str, Any]:
    """The real policy of one image after a change to it."""
    found = copy.deepcopy(policy(OLD))
    change(found)
    return found


def decrypting(found: Mapping[str, Any]) -> dict[str, Any]:
    """The statement by which enclaves decrypt, to be changed in place."""
    statement: dict[str, Any] = found["Statement"][2]
    assert statement["Action"] == "kms:Decrypt"
    return statement


def key(document: Any = None, type_: str = "aws:kms/key:Key", **props: Any) -> Resource:
    """A tenant's key (or replica, or key policy) with a policy document."""
    given = {
        "policy": document if isinstance(document, str) else json.dumps(policy() if document is None else document),
        "enableKeyRotation": True,
        "tags": {"mrgc:key": "tenant"},
    }
    return Resource(type=type_, name="key", props={**given, **props})


def host(type_: str = "aws:ec2/launchTemplate:LaunchTemplate", **props: Any) -> Resource:
    """A launch template as hosts need it."""
    given = {
        "imageId": AMI,
        "instanceType": "g6e.2xlarge",
        "enclaveOptions": {"enabled": True},
        "metadataOptions": {"httpTokens": "required", "httpPutResponseHopLimit": 1},
        "userData": base64.b64encode(b"#cloud-config\nruncmd: [systemctl disable --now amazon-ssm-agent]\n").decode(),
    }
    return Resource(type=type_, name="host", props={**given, **props})


def without(resource: Resource, *names: str) -> Resource:
    """The resource less some of its properties."""
    props = {name: value for name, value in resource.props.items() if name not in names}
    return Resource(type=resource.type, name=resource.name, props=props)


def role_policy(*statements: Mapping[str, Any], type_: str = "aws:iam/rolePolicy:RolePolicy") -> Resource:
    """A role's own policy."""
    return Resource(type=type_, name="role", props={"policy": json.dumps({"Statement": list(statements)})})


def allow(actions: str | Sequence[str], condition: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A statement of a role's policy on all resources."""
    statement: dict[str, Any] = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    return statement if condition is None else {**statement, "Condition": condition}


def attach(arn: str) -> Resource:
    return Resource(type="aws:iam/rolePolicyAttachment:RolePolicyAttachment", props={"role": "r", "policyArn": arn})


def task(*images: str) -> Resource:
    containers = json.dumps([{"name": f"c{number}", "image": image} for number, image in enumerate(images)])
    return Resource(type="aws:ecs/taskDefinition:TaskDefinition", props={"containerDefinitions": containers})


def parameter(name: str, value: str) -> Resource:
    return Resource(type="aws:ssm/parameter:Parameter", props={"name": name, "value": value, "region": "us-east-1"})
