"""The real program with one value turned round, over and over: some rule notices, or the table here says why none does.

Every switch of every resource is turned; every switch that is on is taken away; every policy's statement is opened;
every guard is removed. Rules are called as plain functions, on what a resource is asked to be and on what the whole
then is. What `ACCEPTED` lists is what no rule looks at: an entry that a rule has come to notice fails, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from policies.packs import expand
from stacks.packs import properties
from stacks.program import deploy
from stacks.settings import parse
from tests.support.flips import DROPPED, Bench, Judged, mutated, spelled, statements, walk, with_statement
from tests.support.pulumi_program import record
from tests.support.stacks import stack_values

STRANGER = "arn:aws:iam::999999999999:root"

AVAILABILITY = "It decides how well the platform serves, and not who reaches what."
NO_TABLE = "The gateway has no default route table (transit-gateways-wait-for-routes), so there is nothing to join."
FAILS = "AWS refuses the resource, or the next one that rests on it, so that nothing opens."
CLOSED = "Without it names or connections fail, so that nothing is reached that should not be."
LOSS = "It decides what is lost when the resource is deleted on purpose; protect stands before that."
COPY = "The file system is a copy of the bucket, which keeps versions."
SEALED = "A disk that outlives its host is sealed under the platform's key, and no rule lets it be shared or copied."
NUMBERED = "Groups name the template's version by its number (nothing-borrowed), and never its default."
COST = "It is about cost or about who finds what in the console."

ACCEPTED: dict[tuple[str, str], str] = {
    ("aws:autoscaling/group:Group", "capacityRebalance"): AVAILABILITY,
    ("aws:autoscaling/group:Group", "protectFromScaleIn"): AVAILABILITY,
    ("aws:autoscaling/group:Group", "tags.*.propagateAtLaunch"): COST,
    ("aws:cloudwatch/metricAlarm:MetricAlarm", "metricQueries.*.returnData"): AVAILABILITY,
    ("aws:dynamodb/table:Table", "replicas.*.propagateTags"): COST,
    ("aws:dynamodb/table:Table", "streamEnabled"): FAILS,
    ("aws:dynamodb/table:Table", "ttl.enabled"): AVAILABILITY,
    ("aws:ec2/launchTemplate:LaunchTemplate", "blockDeviceMappings.*.ebs.deleteOnTermination"): SEALED,
    ("aws:ec2/launchTemplate:LaunchTemplate", "monitoring.enabled"): COST,
    ("aws:ec2/launchTemplate:LaunchTemplate", "networkInterfaces.*.deleteOnTermination"): COST,
    ("aws:ec2/launchTemplate:LaunchTemplate", "updateDefaultVersion"): NUMBERED,
    ("aws:ec2/vpc:Vpc", "enableDnsHostnames"): CLOSED,
    ("aws:ec2/vpc:Vpc", "enableDnsSupport"): CLOSED,
    ("aws:ec2transitgateway/vpcAttachment:VpcAttachment", "transitGatewayDefaultRouteTableAssociation"): NO_TABLE,
    ("aws:ec2transitgateway/vpcAttachment:VpcAttachment", "transitGatewayDefaultRouteTablePropagation"): NO_TABLE,
    ("aws:ecr/repository:Repository", "forceDelete"): LOSS,
    ("aws:ecs/service:Service", "deploymentCircuitBreaker.enable"): AVAILABILITY,
    ("aws:ecs/service:Service", "deploymentCircuitBreaker.rollback"): AVAILABILITY,
    ("aws:ecs/service:Service", "enableEcsManagedTags"): COST,
    ("aws:ecs/service:Service", "waitForSteadyState"): AVAILABILITY,
    ("aws:fsx/dataRepositoryAssociation:DataRepositoryAssociation", "batchImportMetaDataOnCreate"): COPY,
    ("aws:fsx/dataRepositoryAssociation:DataRepositoryAssociation", "deleteDataInFilesystem"): COPY,
    ("aws:fsx/lustreFileSystem:LustreFileSystem", "skipFinalBackup"): COPY,
    ("aws:globalaccelerator/accelerator:Accelerator", "enabled"): CLOSED,
    ("aws:kms/key:Key", "multiRegion"): FAILS,
    ("aws:lb/loadBalancer:LoadBalancer", "enableCrossZoneLoadBalancing"): AVAILABILITY,
    ("aws:lb/targetGroup:TargetGroup", "preserveClientIp"): CLOSED,
    ("aws:lb/targetGroup:TargetGroup", "proxyProtocolV2"): CLOSED,
    (
        "aws:lb/targetGroup:TargetGroup",
        "targetHealthStates.*.enableUnhealthyConnectionTermination",
    ): AVAILABILITY,
    ("aws:s3/bucket:Bucket", "forceDestroy"): LOSS,
    (
        "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration",
        "rules.*.bucketKeyEnabled",
    ): COST,
}
"""Switches that no rule looks at, by type and path, and why."""

ON_BY_DEFAULT = {("aws:lb/targetGroup:TargetGroup", "healthCheck.enabled")}
"""Switches that AWS leaves on where nothing is said: turning them is noticed, and taking them away changes nothing."""

GUARDS = {
    "aws:ec2/networkAcl:NetworkAcl": "a subnet falls back to AWS's default ACL",
    "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup": "AWS's default group lets in whatever wears it",
    "aws:ec2/flowLog:FlowLog": "nobody sees who spoke to whom",
    "aws:ec2/vpcEndpoint:VpcEndpoint": "a service is out of reach, and next a way to the internet is asked for",
    "aws:ec2transitgateway/transitGateway:TransitGateway": "a region stands alone",
    "aws:ec2transitgateway/vpcAttachment:VpcAttachment": "a region stands alone",
    "aws:ec2transitgateway/peeringAttachment:PeeringAttachment": "the loss of one more peering cuts a region off",
    "aws:ec2transitgateway/peeringAttachmentAccepter:PeeringAttachmentAccepter": "a peering stays pending",
    "aws:globalaccelerator/endpointGroup:EndpointGroup": "there is one region less to fail over to",
    "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": "a slip in a policy opens the bucket to everybody",
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": "AWS's key is taken",
    "aws:iam/instanceProfile:InstanceProfile": "hosts take a role that no rule has judged",
    "aws:ec2/launchTemplate:LaunchTemplate": "hosts start from what no rule has judged",
}
"""What guards by being there, and what comes of it when it is gone."""

PUBLIC_READS = {"ContainerLayers", "AmazonLinuxPackages"}
"""Statements that are for whatever credentials: objects of AWS's own buckets, by the buckets' names."""


@pytest.fixture(scope="module")
def bench() -> Bench:
    settings = parse(stack_values("prod", 3))
    return Bench(record(lambda: deploy(settings), stack="prod"), expand(properties(settings)))


def switch(value: Any) -> bool | None:
    """A switch's position, whether it is a boolean or the provider has it as a text; None for what is no switch."""
    return (
        {True: True, False: False, "true": True, "false": False}.get(value) if isinstance(value, bool | str) else None
    )


def turned(value: Any) -> Any:
    return not value if isinstance(value, bool) else str(value == "false").lower()


def switches(bench: Bench) -> Iterator[tuple[Judged, tuple[str | int, ...], Any]]:
    for one in bench.all:
        if one.recorded.custom and one.asked.type.startswith("aws:"):
            yield from ((one, path, value) for path, value in walk(one.recorded.inputs) if switch(value) is not None)


def unnoticed(bench: Bench, *, drop: bool) -> set[tuple[str, str]]:
    """Switches that some resource can have turned, or taken away, with no rule saying anything.

    Every one is shown to the rules over single resources; what passes there, to those over the whole, until one of
    its kind passes there as well.
    """
    found: dict[tuple[str, str], bool] = {}
    for one, path, value in switches(bench):
        kind = one.asked.type, spelled(path)
        if found.get(kind) or (drop and not switch(value)):
            continue
        other = mutated(one, path, (lambda _: DROPPED) if drop else turned)
        if bench.alone(other) is None:
            found[kind] = bench.refusing(other) is None
    return {kind for kind, passed in found.items() if passed}


def test_the_program_as_it_stands_is_accepted(bench: Bench) -> None:
    assert not [one.asked.urn for one in bench.all if bench.alone(one)]
    assert bench.refusing(bench.all[0]) is None


def test_every_switch_that_is_turned_is_noticed_or_accepted_with_a_reason(bench: Bench) -> None:
    assert len({(one.asked.type, spelled(path)) for one, path, _ in switches(bench)}) > len(ACCEPTED) + 20
    found = unnoticed(bench, drop=False)
    assert not found - ACCEPTED.keys(), "no rule notices: write one, or say here why none is needed"
    assert not ACCEPTED.keys() - found, "noticed by now, or gone from the program: take the entry out"


def test_every_switch_that_is_on_and_taken_away_is_noticed_or_accepted_with_a_reason(bench: Bench) -> None:
    assert not unnoticed(bench, drop=True) - ACCEPTED.keys() - ON_BY_DEFAULT


def test_every_guard_that_is_missing_is_noticed(bench: Bench) -> None:
    there = {one.asked.type for one in bench.all}
    assert not GUARDS.keys() - there, "the program has no such guard any more"
    seen: set[tuple[str, str]] = set()
    for one in bench.all:
        kind = one.asked.type, str(one.asked.at("serviceName") or one.asked.at("bucket") or "")
        if one.asked.type in GUARDS and kind not in seen:
            seen.add(kind)
            assert bench.refusing_without(one), f"{one.asked.name} is gone: {GUARDS[one.asked.type]}"


def test_no_policy_can_be_opened_to_a_stranger(bench: Bench) -> None:
    passed = set()
    for one in bench.all:
        for key, number, statement in statements(one):
            if statement["Effect"] != "Allow" or "Principal" not in statement:
                continue
            free = {name: value for name, value in statement.items() if name != "Condition"}
            for principal in ("*", {"AWS": "*"}, {"AWS": STRANGER}):
                other = with_statement(one, key, number, {**free, "Principal": principal})
                if bench.alone(other) is None:
                    passed.add(statement.get("Sid"))
    assert passed == PUBLIC_READS


def test_no_role_and_no_endpoint_can_be_allowed_every_action(bench: Bench) -> None:
    opened = 0
    for one in bench.all:
        if not one.asked.type.startswith(("aws:iam/rolePolicy:", "aws:ec2/vpcEndpoint:")):
            continue
        for key, number, statement in statements(one):
            opened += 1
            for more in ({"Action": "*"}, {"NotAction": "s3:GetObject", "Action": None}):
                changed = {name: value for name, value in {**statement, **more}.items() if value is not None}
                assert bench.alone(with_statement(one, key, number, changed)), f"{one.asked.name} {number}: {more}"
    assert opened > 100, "the program's policies were not found"


def test_no_attestation_or_service_condition_of_a_role_that_decrypts_can_go(bench: Bench) -> None:
    judged = 0
    for one in bench.all:
        for key, number, statement in statements(one):
            if one.asked.type.startswith("aws:iam/rolePolicy:") and "kms:Decrypt" in statement["Action"]:
                judged += 1
                free = {name: value for name, value in statement.items() if name != "Condition"}
                assert bench.alone(with_statement(one, key, number, free)) == "platform-role-attested-decrypt"
    assert judged >= 6, "hosts, routers, loops and the replication decrypt"


def test_every_reason_is_a_sentence() -> None:
    assert all(reason.endswith(".") for reason in ACCEPTED.values())
