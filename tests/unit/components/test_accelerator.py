from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pulumi
import pulumi_aws as aws
import pytest

from components.accelerator import Accelerator, AcceleratorArgs, log_policy
from components.placement import Placement
from tests.support.pulumi_program import ACCOUNT, Program, record

REGIONS = ("us-east-1", "us-east-2", "us-west-2", "eu-west-1")
GROUP = "globalaccelerator/endpointGroup:EndpointGroup"


def accelerator(
    count: int = 3,
    *,
    dials: Mapping[str, int] | None = None,
    weights: Mapping[str, int] | None = None,
    alternate_port: bool = False,
    protect: bool = False,
) -> Program:
    outputs: dict[str, Any] = {}

    def program() -> None:
        made = Accelerator(
            "accelerator",
            AcceleratorArgs(
                placement=Placement(region="us-east-1", environment="dev", account=ACCOUNT),
                load_balancers={region: pulumi.Output.from_input(f"arn:nlb:{region}") for region in REGIONS[:count]},
                dials=dials or {},
                weights=weights or {},
                alternate_port=alternate_port,
                protect=protect,
            ),
            opts=pulumi.ResourceOptions(provider=aws.Provider("aws-accelerator", region="us-west-2")),
        )
        pulumi.Output.all(
            arn=made.arn,
            listener_arn=made.listener_arn,
            dns_name=made.dns_name,
            hosted_zone_id=made.hosted_zone_id,
            addresses=made.addresses,
            log_bucket_name=made.log_bucket_name,
        ).apply(outputs.update)

    return replace(record(program), outputs=outputs)


@pytest.fixture(scope="module")
def made() -> Program:
    return accelerator()


@pytest.mark.parametrize("count", [3, 4])
def test_every_region_has_a_group_of_its_load_balancer_with_client_addresses_preserved(count: int) -> None:
    made = accelerator(count)
    groups = [one.inputs for one in made.of(GROUP)]
    assert {one["endpointGroupRegion"] for one in groups} == set(REGIONS[:count])
    assert len(groups) == count
    for one in groups:
        assert one["listenerArn"] == made.outputs["listener_arn"]
        (configuration,) = one["endpointConfigurations"]
        assert configuration["endpointId"] == f"arn:nlb:{one['endpointGroupRegion']}"
        assert configuration["clientIpPreservationEnabled"] is True, "an internal load balancer is no endpoint without"


def test_a_region_without_a_dial_or_weight_takes_everything_nearest_to_it(made: Program) -> None:
    for one in made.of(GROUP):
        assert one.inputs["trafficDialPercentage"] == 100
        assert one.inputs["endpointConfigurations"][0]["weight"] == 128


def test_dials_and_weights_are_taken_per_region_and_zero_is_not_taken_for_none() -> None:
    made = accelerator(dials={"us-east-2": 0, "us-west-2": 40}, weights={"us-east-1": 0})
    found = {
        one.inputs["endpointGroupRegion"]: (
            one.inputs["trafficDialPercentage"],
            one.inputs["endpointConfigurations"][0]["weight"],
        )
        for one in made.of(GROUP)
    }
    assert found == {"us-east-1": (100, 0), "us-east-2": (0, 128), "us-west-2": (40, 128)}


def test_groups_claim_no_health_check_of_their_own(made: Program) -> None:
    for one in made.of(GROUP):
        assert not [key for key in one.inputs if key.startswith("healthCheck") or key == "thresholdCount"], (
            "ignored in front of load balancers: a figure here would promise what does not hold"
        )


@pytest.mark.parametrize(("alternate_port", "ports"), [(False, [443]), (True, [443, 8080])])
def test_one_tcp_listener_has_all_ports_so_that_a_region_has_one_dial(alternate_port: bool, ports: list[int]) -> None:  # noqa: FBT001 - a case
    made = accelerator(alternate_port=alternate_port)
    listener = made.one("globalaccelerator/listener:Listener").inputs
    assert listener["protocol"] == "TCP"
    assert [(one["fromPort"], one["toPort"]) for one in listener["portRanges"]] == [(port, port) for port in ports]
    assert listener["acceleratorArn"] == made.outputs["arn"]


def test_the_outputs_are_two_addresses_a_name_and_a_zone(made: Program) -> None:
    assert made.outputs["addresses"] == ["192.0.2.1", "192.0.2.2"]
    assert made.outputs["dns_name"].startswith("dnsName-accelerator-anycast")
    assert made.outputs["hosted_zone_id"].startswith("hostedZoneId-accelerator-anycast")


def test_flow_logs_go_to_the_bucket_once_its_policy_lets_them_in(made: Program) -> None:
    anycast = made.one("globalaccelerator/accelerator:Accelerator")
    assert anycast.inputs["enabled"] is True
    attributes = anycast.inputs["attributes"]
    assert attributes["flowLogsEnabled"] is True
    assert attributes["flowLogsS3Bucket"] == made.outputs["log_bucket_name"]
    assert attributes["flowLogsS3Prefix"] == "accelerator"
    assert made.one("s3/bucketPolicy:BucketPolicy").urn in anycast.dependencies


def test_the_bucket_is_private_encrypted_owned_and_forgets_after_90_days(made: Program) -> None:
    assert "bucket" not in made.one("s3/bucket:Bucket").inputs, "bucket names are the whole world's"
    access = made.one("s3/bucketPublicAccessBlock:BucketPublicAccessBlock").inputs
    assert all(
        access[key] is True
        for key in ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")
    )
    encryption = made.one("s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration").inputs
    assert encryption["rules"][0]["applyServerSideEncryptionByDefault"] == {"sseAlgorithm": "AES256"}
    owner = made.one("s3/bucketOwnershipControls:BucketOwnershipControls").inputs
    assert owner["rule"] == {"objectOwnership": "BucketOwnerEnforced"}
    (rule,) = made.one("s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration").inputs["rules"]
    assert rule["status"] == "Enabled"
    assert rule["expiration"] == {"days": 90}
    assert rule["filter"].get("prefix", "") == "", "the rule is for every object"
    buckets = {one.inputs["bucket"] for one in made if one.type.startswith("aws:s3/bucket") and "bucket" in one.inputs}
    assert len(buckets) == 1


@pytest.mark.parametrize("protect", [True, False])
def test_the_logs_outlive_the_stack_where_it_is_protected_and_go_with_it_elsewhere(protect: bool) -> None:  # noqa: FBT001 - a case
    bucket = accelerator(protect=protect).one("s3/bucket:Bucket")
    assert bucket.protect is protect
    assert bucket.retain_on_delete is protect
    assert bucket.inputs["forceDestroy"] is not protect


def statements(policy: Mapping[str, Any]) -> dict[str, Any]:
    return {one["Sid"]: one for one in policy["Statement"]}


def test_the_buckets_policy_is_the_one_for_its_own_arn(made: Program) -> None:
    policy = json.loads(made.one("s3/bucketPolicy:BucketPolicy").inputs["policy"])
    bucket_arn = statements(policy)["AWSLogDeliveryAclCheck"]["Resource"]
    assert bucket_arn.startswith("arn:aws:s3:")
    assert policy == log_policy(bucket_arn, ACCOUNT)


def test_only_the_delivery_service_for_this_account_is_let_in_and_only_below_the_prefix() -> None:
    found = statements(log_policy("arn:aws:s3:::logs", ACCOUNT))
    allowed = [one for one in found.values() if one["Effect"] == "Allow"]
    assert len(allowed) == 2
    for one in allowed:
        assert one["Principal"] == {"Service": "delivery.logs.amazonaws.com"}
        assert one["Condition"]["StringEquals"]["aws:SourceAccount"] == ACCOUNT
        assert one["Condition"]["ArnLike"] == {"aws:SourceArn": f"arn:aws:logs:*:{ACCOUNT}:*"}
    write = found["AWSLogDeliveryWrite"]
    assert write["Action"] == "s3:PutObject"
    assert write["Resource"] == f"arn:aws:s3:::logs/accelerator/AWSLogs/{ACCOUNT}/*"
    assert write["Condition"]["StringEquals"]["s3:x-amz-acl"] == "bucket-owner-full-control"
    check = found["AWSLogDeliveryAclCheck"]
    assert check["Resource"] == "arn:aws:s3:::logs"
    assert "s3:x-amz-acl" not in check["Condition"]["StringEquals"], "a read carries no ACL and would be refused"


def test_whoever_speaks_without_tls_is_refused() -> None:
    deny = statements(log_policy("arn:aws:s3:::logs", ACCOUNT))["TlsOnly"]
    assert (deny["Effect"], deny["Principal"], deny["Action"]) == ("Deny", "*", "s3:*")
    assert deny["Resource"] == ["arn:aws:s3:::logs", "arn:aws:s3:::logs/*"]
    assert deny["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_everything_is_the_components_child_tagged_and_made_where_the_api_is(made: Program) -> None:
    component = made.one("mrgc:accelerator:Accelerator")
    for one in made:
        if one.custom and not one.type.startswith("pulumi:providers:"):
            assert one.parent == component.urn, one.name
            assert made.region(one) == "us-west-2", one.name
    for kind in ("globalaccelerator/accelerator:Accelerator", "s3/bucket:Bucket"):
        tags = made.one(kind).inputs["tags"]
        assert tags["mrgc:component"] == "accelerator"
        assert tags["mrgc:region"] == "us-west-2", "where it is, not the home region"
