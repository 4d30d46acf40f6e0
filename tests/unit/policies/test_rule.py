from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from pulumi_policy import PolicyResourceOptions, ResourceValidationArgs, StackValidationArgs
from pulumi_policy.policy import PolicyCustomTimeouts, PolicyProviderResource, PolicyResource
from pulumi_policy.proxy import UNKNOWN_OBJECT_VALUE, UNKNOWN_STRING_VALUE, UnknownValueError, unknown_checking_proxy

from policies.rule import (
    UNKNOWN,
    Config,
    ConfigurationError,
    DocumentError,
    Resource,
    ResourceRule,
    Setting,
    StackRule,
    at,
    document,
    known,
    like,
    listed,
    plain,
    tags,
)

OPTIONS = PolicyResourceOptions(
    protect=True,
    ignore_changes=["policy"],
    delete_before_replace=None,
    aliases=[],
    custom_timeouts=PolicyCustomTimeouts(0, 0, 0),
    additional_secret_outputs=[],
    parent="urn:parent",
)


def loud(_: Resource, __: Config) -> Iterator[str]:
    yield "It is wrong."


def rule(check: Any = loud, *, types: Sequence[str] = ("aws:kms/key:Key",)) -> ResourceRule:
    return ResourceRule("a-rule", check, types=types, protects="It protects this.", fix="Do that.")


def arguments(props: dict[str, Any], *, type_: str = "aws:kms/key:Key") -> ResourceValidationArgs:
    provider = PolicyProviderResource(
        "pulumi:providers:aws", unknown_checking_proxy({"region": "us-east-1"}), "urn:provider", "provider"
    )
    urn = f"urn:pulumi:dev::mrgc::mrgc:a:A${type_}::name"
    return ResourceValidationArgs(type_, unknown_checking_proxy(props), urn, "name", OPTIONS, provider, {"k": 1})


def test_the_engines_proxies_become_plain_values_and_unknowns_say_so() -> None:
    proxy = unknown_checking_proxy(
        {"a": [1.0, {"b": UNKNOWN_STRING_VALUE}], "c": UNKNOWN_OBJECT_VALUE, "d": "text", "e": 1.5}
    )
    assert plain(proxy) == {"a": [1, {"b": UNKNOWN}], "c": UNKNOWN, "d": "text", "e": 1.5}


def test_a_path_leads_through_objects_and_lists_and_stops_at_what_is_unknown() -> None:
    value = {"a": [{"b": 1}], "u": UNKNOWN}
    assert at(value, "a", 0, "b") == 1
    assert at(value, "a", 1, "b") is None
    assert at(value, "a", "b") is None
    assert at(value, "u", "anything") is UNKNOWN


def test_one_value_and_a_list_of_one_are_the_same() -> None:
    assert listed("a") == listed(["a"]) == ["a"]
    assert listed(None) == []
    assert listed(UNKNOWN) == [UNKNOWN]


def test_an_unknown_value_is_neither_true_nor_false() -> None:
    with pytest.raises(TypeError, match="neither true nor false"):
        bool(UNKNOWN)


def test_what_must_be_known_asks_the_engine_to_come_back() -> None:
    assert known(1, "x") == 1
    with pytest.raises(UnknownValueError):
        known(UNKNOWN, "x")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "is missing"),
        (1, "is no JSON document"),
        ("{", "is not JSON"),
        ("[]", "is no JSON object"),
        ('{"Statement": [], "Statement": []}', "names a key twice"),
        ('{"a": [{"b": 1, "b": 2}]}', "names a key twice"),
    ],
)
def test_a_text_that_is_no_document_is_refused_with_its_reason(value: Any, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason):
        document(value)


def test_a_document_is_unknown_if_any_of_it_is() -> None:
    assert document(json.dumps({"a": UNKNOWN_STRING_VALUE})) is UNKNOWN
    assert document({"a": [{"b": UNKNOWN}]}) is UNKNOWN
    assert document('{"a": 1}') == document({"a": 1}) == {"a": 1}


def test_a_resources_region_is_its_own_or_its_providers() -> None:
    def region(props: dict[str, Any], provider: dict[str, Any] | None) -> Any:
        return Resource(type="t", props=props, provider=provider).region

    assert region({"region": "eu-west-1"}, {"region": "us-east-1"}) == "eu-west-1"
    assert region({"region": UNKNOWN}, {"region": "us-east-1"}) is UNKNOWN
    assert region({}, {"region": "us-east-1"}) == "us-east-1"
    assert region({"region": ""}, {"region": UNKNOWN}) is UNKNOWN
    assert region({}, None) is None


def test_a_urn_names_the_components_around_a_resource() -> None:
    urn = "urn:pulumi:dev::mrgc::mrgc:a:A$mrgc:b:B$aws:kms/key:Key::name"
    assert Resource(type="aws:kms/key:Key", props={}, urn=urn).components == ("mrgc:a:A", "mrgc:b:B")
    assert Resource(type="t", props={}, urn="urn:pulumi:dev::mrgc::t::name").components == ()
    assert Resource(type="t", props={}).components == ()


def test_tags_are_read_whatever_the_case_of_their_keys() -> None:
    resource = Resource(type="t", props={"tags": {"MRGC:Key": " tenant ", "x": UNKNOWN}, "tagsAll": {"y": "z"}})
    assert tags(resource) == {"mrgc:key": "tenant", "y": "z"}


def test_patterns_know_two_wildcards_and_no_case() -> None:
    assert like("kms:Decrypt", "KMS:dec*")
    assert like("kms:Decrypt", "kms:Decryp?")
    assert not like("kms:Decrypt", "kms:Decrypt?")
    assert not like("kmsxDecrypt", "kms.Decrypt"), "a dot is a dot"


def test_a_rule_is_a_mandatory_policy_that_says_what_it_protects_and_how_to_fix() -> None:
    made = rule()
    assert made.enforcement_level is not None
    assert made.enforcement_level.value == "mandatory"
    assert made.description == "It protects this. Do that."
    assert made.remediation_steps == "Do that."


def test_a_rule_is_explained_in_whole_sentences() -> None:
    with pytest.raises(ValueError, match="whole sentences"):
        ResourceRule("a-rule", loud, protects="no end", fix="Do that.")


@pytest.mark.parametrize(
    ("types", "reads"),
    [((), True), (("aws:kms/",), True), (("aws:",), True), (("aws:kms/key:Key",), True), (("aws:kms/key",), False)],
)
def test_types_are_tokens_or_prefixes_that_end_in_a_separator(types: Sequence[str], *, reads: bool) -> None:
    assert rule(types=types).reads("aws:kms/key:Key") is reads


def test_the_engines_arguments_reach_a_check_as_a_resource() -> None:
    seen: list[tuple[Resource, Config]] = []

    def look(resource: Resource, config: Config) -> Iterator[str]:
        seen.append((resource, config))
        yield "Found."

    said: list[tuple[str, str | None]] = []
    rule(look).validate(arguments({"policy": UNKNOWN_STRING_VALUE}), lambda text, urn: said.append((text, urn)))
    resource, config = seen[0]
    assert (resource.region, resource.parent, resource.protect) == ("us-east-1", "urn:parent", True)
    assert resource.components == ("mrgc:a:A",)
    assert resource.props == {"policy": UNKNOWN}
    assert config == {"k": 1}
    assert said == [("Found.", resource.urn)]


def test_what_was_found_before_an_unknown_value_is_reported_all_the_same() -> None:
    def look(resource: Resource, _: Config) -> Iterator[str]:
        yield "Found."
        known(resource.at("policy"), "policy")

    said: list[str] = []
    with pytest.raises(UnknownValueError):
        rule(look).validate(arguments({"policy": UNKNOWN_STRING_VALUE}), lambda text, _: said.append(text))
    assert said == ["Found."]


def test_a_configuration_that_cannot_be_used_is_a_violation_and_no_pass() -> None:
    def look(_: Resource, config: Config) -> Iterator[str]:
        if "something" not in config:
            raise ConfigurationError("Nothing is configured.")
        yield "It is wrong."

    said: list[str] = []
    rule(look).validate(arguments({}), lambda text, _: said.append(text))
    assert said == ["Nothing is configured."]
    assert rule(look).violations(Resource(type="aws:kms/key:Key", props={})) == said


def test_a_stack_rule_sees_dependencies_and_parents() -> None:
    seen: list[Resource] = []

    def look(resources: Sequence[Resource], _: Config) -> Iterator[tuple[str, str | None]]:
        seen.extend(resources)
        yield "Together they are wrong.", resources[0].urn

    one = PolicyResource("t", unknown_checking_proxy({"a": 1.0}), "urn:one", "one", OPTIONS, None, None, [], {})
    other = PolicyResource("t", unknown_checking_proxy({}), "urn:two", "two", OPTIONS, None, one, [], {"a": [one]})
    said: list[tuple[str, str | None]] = []
    StackRule("a-rule", look, protects="It protects this.", fix="Do that.").validate(
        StackValidationArgs([one, other]), lambda text, urn: said.append((text, urn))
    )
    assert said == [("Together they are wrong.", "urn:one")]
    assert (seen[0].props, seen[0].parent) == ({"a": 1}, "urn:parent")
    assert (seen[1].parent, seen[1].depends) == ("urn:one", {"a": ("urn:one",)})


def test_a_setting_is_its_default_until_it_is_set() -> None:
    setting = Setting(name="most", description="The most.", default=3, schema={"type": "integer"})
    assert setting.read({}) == setting.read({"most": None}) == 3
    assert setting.read({"most": 0}) == 0, "a configured zero is configured"
    assert setting.declaration() == {"type": "integer", "description": "The most.", "default": 3}
