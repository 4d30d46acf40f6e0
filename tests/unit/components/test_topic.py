from __future__ import annotations

import json

import pulumi
import pulumi_aws as aws

from components.placement import Placement
from components.topic import AlarmTopics, AlarmTopicsArgs
from tests.support.pulumi_program import ACCOUNT, Program, record

REGION = "us-west-2"
PLACE = Placement(region=REGION, environment="prod", account=ACCOUNT)
KEY = "arn:aws:kms:us-west-2:123456789012:key/logs"


def topics(email: str | None = None) -> Program:
    def program() -> None:
        provider = aws.Provider(REGION, region=REGION)
        made = AlarmTopics(
            f"topics-{REGION}",
            AlarmTopicsArgs(placement=PLACE, key_arn=KEY, email=email),
            pulumi.ResourceOptions(provider=provider),
        )
        assert set(made.arns) == {"critical", "warning"}, "who is woken depends on it"

    return record(program)


def test_there_is_an_encrypted_topic_for_each_severity_in_the_region() -> None:
    program = topics()
    found = program.of("sns/topic:Topic")
    assert {topic.name for topic in found} == {f"topics-{REGION}-critical", f"topics-{REGION}-warning"}
    assert all(topic.inputs["kmsMasterKeyId"] == KEY for topic in found)
    assert all(program.region(topic) == REGION for topic in found)
    assert all("name" not in topic.inputs for topic in found), "AWS replaces a topic by name"


def test_only_alarms_of_this_account_and_region_may_publish_and_only_over_tls() -> None:
    program = topics()
    policies = program.of("sns/topicPolicy:TopicPolicy")
    assert len(policies) == 2
    for policy in policies:
        allow, deny = json.loads(policy.inputs["policy"])["Statement"]
        assert allow["Effect"] == "Allow"
        assert allow["Principal"] == {"Service": "cloudwatch.amazonaws.com"}
        assert allow["Action"] == "sns:Publish"
        assert allow["Resource"] == policy.inputs["arn"], "its own topic and no other"
        assert allow["Condition"] == {
            "StringEquals": {"aws:SourceAccount": ACCOUNT},
            "ArnLike": {"aws:SourceArn": f"arn:aws:cloudwatch:{REGION}:{ACCOUNT}:alarm:*"},
        }
        assert (deny["Effect"], deny["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})


def test_the_configured_address_hears_of_both() -> None:
    found = topics("ops@example.com").of("TopicSubscription")
    assert [one.inputs["endpoint"] for one in found] == ["ops@example.com"] * 2
    assert {one.inputs["protocol"] for one in found} == {"email"}
    assert topics().of("TopicSubscription") == [], "without an address nobody is subscribed"
