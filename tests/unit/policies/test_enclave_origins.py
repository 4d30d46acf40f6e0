from __future__ import annotations

from typing import Any

import pytest
from pulumi_policy import Policy, StackValidationPolicy
from pulumi_policy.proxy import UnknownValueError

from policies.enclave.rules import POLICIES, RULES
from policies.rule import UNKNOWN, Resource, StackRule
from tests.support.enclave_resources import CONFIG, refusing, rule

GROUP = "aws:autoscaling/group:Group"
TEMPLATE = "aws:ec2/launchTemplate:LaunchTemplate"


@pytest.mark.parametrize(
    "type_", ["aws:s3/bucket:Bucket", "pulumi:providers:aws", "pulumi:pulumi:Stack", "mrgc:keys:PlatformKeys"]
)
def test_what_the_program_is_made_of_is_accepted(type_: str) -> None:
    assert "nothing-unreadable" not in refusing(Resource(type=type_, props={}))


@pytest.mark.parametrize(
    "type_",
    [
        "aws-native:kms:Key",
        "awsx:ec2:Vpc",
        "pulumi-python:dynamic:Resource",
        "command:local:Command",
        "aws:cloudformation/stack:Stack",
        "aws:cloudcontrol/resource:Resource",
        "aws:lambda/invocation:Invocation",
    ],
)
def test_what_the_rules_cannot_read_is_refused(type_: str) -> None:
    assert refusing(Resource(type=type_, props={})) == {"nothing-unreadable"}


def test_other_packages_are_configured() -> None:
    config = {**CONFIG, "resourcePrefixes": ["aws:", "random:"]}
    assert refusing(Resource(type="random:index/randomId:RandomId", props={}), config) == set()


def borrowed(*resources: Resource) -> list[str]:
    one = rule("nothing-borrowed")
    assert isinstance(one, StackRule)
    return one.violations(resources)


def template(**props: Any) -> Resource:
    return Resource(type=TEMPLATE, name="template", urn="urn:template", props=props)


def group(specification: dict[str, Any], *, mixed: bool, depends: bool = True) -> Resource:
    inner = {"launchTemplate": {"launchTemplateSpecification": specification}}
    key = "mixedInstancesPolicy" if mixed else "launchTemplate"
    return Resource(
        type=GROUP,
        name="group",
        props={key: inner if mixed else specification},
        depends={key: ("urn:template",)} if depends else {},
    )


@pytest.mark.parametrize("mixed", [True, False])
def test_groups_start_hosts_from_the_programs_own_templates(*, mixed: bool) -> None:
    key = "launchTemplateId" if mixed else "id"
    assert borrowed(template(id="lt-1"), group({key: "lt-1"}, mixed=mixed)) == []
    assert borrowed(template(), group({key: UNKNOWN}, mixed=mixed)) == [], "at preview there is no id"
    assert "lt-2" in borrowed(template(id="lt-1"), group({key: "lt-2"}, mixed=mixed))[0]
    assert "lt-2" in borrowed(template(id="lt-1"), group({key: "lt-2"}, mixed=mixed, depends=False))[0]
    assert "lt-2" in borrowed(group({key: "lt-2"}, mixed=mixed))[0]


def test_an_override_may_not_bring_in_another_template() -> None:
    policy = {
        "launchTemplate": {
            "launchTemplateSpecification": {"launchTemplateId": "lt-1"},
            "overrides": [{"launchTemplateSpecification": {"launchTemplateId": "lt-2"}}],
        }
    }
    overriding = Resource(
        type=GROUP,
        name="group",
        props={"mixedInstancesPolicy": policy},
        depends={"mixedInstancesPolicy": ("urn:template",)},
    )
    assert "lt-2" in borrowed(template(id="lt-1"), overriding)[0]


def test_an_id_counts_where_a_state_shows_a_name_beside_it() -> None:
    shown = {"id": "lt-1", "name": "whatever"}
    assert borrowed(template(id="lt-1"), group(shown, mixed=False)) == []


def test_a_launch_configuration_is_always_borrowed() -> None:
    old = Resource(type=GROUP, name="group", props={"launchConfiguration": "lc"})
    assert "launch configuration" in borrowed(old)[0]


def test_what_is_unknown_and_made_from_nothing_of_the_programs_is_asked_again() -> None:
    with pytest.raises(UnknownValueError):
        borrowed(group({"id": UNKNOWN}, mixed=False, depends=False))


def attachment(arn: Any, *, depends: bool = False) -> Resource:
    return Resource(
        type="aws:iam/rolePolicyAttachment:RolePolicyAttachment",
        name="attachment",
        props={"policyArn": arn},
        depends={"policyArn": ("urn:policy",)} if depends else {},
    )


def test_roles_have_the_programs_own_policies_or_aws_managed_ones() -> None:
    own = Resource(type="aws:iam/policy:Policy", urn="urn:policy", props={"arn": "arn:aws:iam::1:policy/own"})
    assert borrowed(own, attachment("arn:aws:iam::1:policy/own")) == []
    assert borrowed(own, attachment("arn:aws:iam::aws:policy/ReadOnlyAccess")) == [], "another rule's business"
    assert "policy/other" in borrowed(own, attachment("arn:aws:iam::1:policy/other", depends=True))[0]
    unknown = Resource(type="aws:iam/policy:Policy", urn="urn:policy", props={"arn": UNKNOWN})
    assert borrowed(unknown, attachment(UNKNOWN, depends=True)) == []


def test_every_rule_has_a_name_of_its_own_and_is_mandatory() -> None:
    names = [one.name for one in RULES]
    assert len(set(names)) == len(names)
    assert [one.enforcement_level.value for one in RULES if one.enforcement_level] == ["mandatory"] * len(RULES)


def test_every_configuration_property_is_documented_and_has_a_safe_default() -> None:
    for one in RULES:
        schema = one.config_schema
        for name, declared in ({} if schema is None else schema.properties).items():
            assert declared["description"].endswith("."), f"{one.name}.{name}"
            assert declared["default"] is not None, f"{one.name}.{name}: an engine rejects null by its own schema"


def test_the_pack_is_a_list_of_policies() -> None:
    assert all(isinstance(one, Policy) for one in POLICIES)
    late = {one.name for one in POLICIES if isinstance(one, StackValidationPolicy)}
    assert late == {"kms-replica-repeats-policy", "published-measurements-agree", "nothing-borrowed"}, (
        "what must never exist is refused before it does: only what takes several resources may come later"
    )
