from __future__ import annotations

import json
from typing import Any

import pytest
from pulumi_policy.proxy import UnknownValueError

from policies.rule import UNKNOWN, Resource, StackRule
from tests.support.enclave_resources import NEW, OLD, key, policy, refusing, rule, said, without

REPLICA = "aws:kms/replicaKey:ReplicaKey"


@pytest.mark.parametrize("tags", [None, {}, {"mrgc:key": "mine"}, {"mrgc:key": ""}, UNKNOWN, {"mrgc:key": UNKNOWN}])
def test_a_key_that_does_not_say_whose_it_is_is_refused(tags: Any) -> None:
    assert refusing(key(tags=tags)) == {"kms-key-says-whose"}


def test_a_key_made_as_a_tenants_is_not_the_platforms() -> None:
    contrary = key(tags={"mrgc:key": "platform", "mrgc:tenant": "tenant-a"})
    assert refusing(contrary) == {"kms-key-says-whose"}


@pytest.mark.parametrize("enabled", [False, None, UNKNOWN, "no"])
def test_a_key_that_does_not_rotate_is_refused(enabled: Any) -> None:
    assert refusing(key(enableKeyRotation=enabled)) == {"kms-key-rotates"}


@pytest.mark.parametrize(("days", "refused"), [(90, False), (365, False), (366, True), (2560, True), (UNKNOWN, True)])
def test_a_key_rotates_once_a_year_or_more_often(days: Any, *, refused: bool) -> None:
    assert refusing(key(rotationPeriodInDays=days)) == ({"kms-key-rotates"} if refused else set())


def test_imported_material_cannot_rotate() -> None:
    assert refusing(key(type_="aws:kms/externalKey:ExternalKey")) == {"kms-key-rotates"}


def test_the_platforms_keys_rotate_too() -> None:
    own = key({"Statement": [{"Effect": "Deny"}]}, tags={"mrgc:key": "platform"}, enableKeyRotation=False)
    assert refusing(own) == {"kms-key-rotates"}


def test_a_replica_without_a_policy_of_its_own_is_refused() -> None:
    bare = without(key(type_=REPLICA, tags={"mrgc:key": "platform"}), "policy")
    assert refusing(bare) == {"kms-replica-own-policy"}


@pytest.mark.parametrize("operations", [["Decrypt"], ["DescribeKey"], UNKNOWN])
def test_there_are_no_grants(operations: Any) -> None:
    props = {"keyId": "k", "granteePrincipal": "p", "operations": operations}
    assert refusing(Resource(type="aws:kms/grant:Grant", props=props)) == {"kms-no-grants"}


def stack(*resources: Resource) -> list[str]:
    one = rule("kms-replica-repeats-policy")
    assert isinstance(one, StackRule)
    return one.violations(resources)


def primary(document: Any = None) -> Resource:
    made = key(document, arn="arn:primary")
    return Resource(type=made.type, name="primary", urn="urn:primary", props=made.props)


def replica(document: Any = None, arn: Any = "arn:primary", *, depends: str | None = None) -> Resource:
    made = key(document, type_=REPLICA, primaryKeyArn=arn)
    found = {} if depends is None else {"primaryKeyArn": (depends,)}
    return Resource(type=REPLICA, name="replica", urn="urn:replica", props=made.props, depends=found)


def test_replicas_repeat_their_primarys_policy() -> None:
    assert stack(primary(), replica()) == []
    assert stack(primary(), replica(json.dumps(policy(), indent=2))) == [], "spaces are no difference"


def test_a_replica_with_another_policy_is_found_even_if_that_policy_is_safe() -> None:
    assert "another policy than its primary primary" in stack(primary(policy(OLD)), replica(policy(NEW)))[0]


def test_before_there_are_arns_dependencies_say_which_key_is_replicated() -> None:
    assert stack(primary(), replica(arn=UNKNOWN, depends="urn:primary")) == []
    assert stack(primary(policy(OLD)), replica(policy(NEW), arn=UNKNOWN, depends="urn:primary"))


def test_a_replica_of_a_key_from_elsewhere_shows_no_policy_to_repeat() -> None:
    assert "not of this program" in stack(primary(), replica(arn="arn:elsewhere"))[0]
    assert "not of this program" in stack(replica(arn="arn:elsewhere"))[0]


def test_two_unreadable_policies_are_not_alike() -> None:
    assert stack(primary("{"), replica("{"))


def test_an_unknown_policy_of_a_replica_is_asked_again() -> None:
    with pytest.raises(UnknownValueError):
        stack(primary(), Resource(type=REPLICA, props={"policy": UNKNOWN, "primaryKeyArn": "arn:primary"}))


def test_a_refused_rotation_says_which_period() -> None:
    assert "2560 days" in said("kms-key-rotates", key(rotationPeriodInDays=2560))[0]
