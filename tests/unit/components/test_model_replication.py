"""Replication of models from home to every other region, with three regions and four."""

from __future__ import annotations

import functools
import json
from typing import Any

import pulumi
import pulumi_aws as aws
import pytest

from components.model_bucket import ModelBucket, ModelBucketArgs
from components.model_replication import ModelReplication, ModelReplicationArgs, Place, role_policy
from components.placement import Placement
from tests.support.pulumi_program import ACCOUNT, Program, record

THREE = ("us-east-1", "us-east-2", "us-west-2")
FOUR = (*THREE, "eu-west-1")


def key(region: str) -> str:
    return f"arn:aws:kms:{region}:{ACCOUNT}:key/storage"


ARNS: dict[str, str] = {}
"""The bucket's ARN of every region in the last run."""


def replicated(regions: tuple[str, ...] = THREE) -> Program:
    def program() -> None:
        placements = {r: Placement(region=r, environment="dev", account=ACCOUNT) for r in regions}
        providers = {r: aws.Provider(f"aws-{r}", region=r) for r in regions}
        buckets = {
            r: ModelBucket(
                f"model-bucket-{r}",
                ModelBucketArgs(placement=placements[r], key_arn=key(r), protect=False),
                pulumi.ResourceOptions(provider=providers[r]),
            )
            for r in regions
        }
        for r in regions:
            buckets[r].bucket_arn.apply(functools.partial(ARNS.__setitem__, r))
        ModelReplication(
            "model-replication",
            ModelReplicationArgs(
                placements=placements,
                home=regions[0],
                buckets=buckets,
                key_arns={r: key(r) for r in regions},
            ),
            pulumi.ResourceOptions(provider=providers[regions[0]]),
        )

    return record(program)


@pytest.mark.parametrize("regions", [THREE, FOUR], ids=len)
def test_every_other_region_gets_a_rule_of_its_own(regions: tuple[str, ...]) -> None:
    made = replicated(regions)
    found = made.one("s3/bucketReplicationConfig:BucketReplicationConfig")
    assert made.region(found) == "us-east-1"
    rules = found.inputs["rules"]
    assert [rule["destination"]["bucket"] for rule in rules] == [ARNS[region] for region in regions[1:]]
    assert len({rule["priority"] for rule in rules}) == len(rules), "S3 refuses two rules of one priority"
    for region, rule in zip(regions[1:], rules, strict=True):
        assert rule["status"] == "Enabled"
        assert rule["destination"]["encryptionConfiguration"] == {"replicaKmsKeyId": key(region)}
        assert rule["sourceSelectionCriteria"] == {"sseKmsEncryptedObjects": {"status": "Enabled"}}
        assert rule["deleteMarkerReplication"] == {"status": "Disabled"}, "a slip at home empties no other region"
        assert rule["destination"]["replicationTime"] == {"status": "Enabled", "time": {"minutes": 15}}
        assert rule["destination"]["metrics"] == {"status": "Enabled", "eventThreshold": {"minutes": 15}}


@pytest.mark.parametrize("regions", [THREE, FOUR], ids=len)
def test_rules_wait_for_versions_at_both_ends(regions: tuple[str, ...]) -> None:
    made = replicated(regions)
    found = made.one("s3/bucketReplicationConfig:BucketReplicationConfig")
    for versioning in made.of("s3/bucketVersioning:BucketVersioning"):
        assert versioning.urn in found.dependencies, f"S3 would refuse the rules before {versioning.name}"
    assert made.one("iam/rolePolicy:RolePolicy").urn in found.dependencies


@pytest.mark.parametrize("regions", [THREE, FOUR], ids=len)
def test_the_role_reads_home_writes_elsewhere_and_uses_keys_through_s3(regions: tuple[str, ...]) -> None:
    made = replicated(regions)
    policy = json.loads(made.one("iam/rolePolicy:RolePolicy").inputs["policy"])
    statements: dict[str, Any] = {one["Sid"]: one for one in policy["Statement"]}
    home, *others = (ARNS[region] for region in regions)
    assert statements["ReadVersions"]["Resource"] == f"{home}/*"
    assert statements["WriteReplicas"]["Resource"] == [f"{other}/*" for other in others]
    assert "s3:ReplicateDelete" not in statements["WriteReplicas"]["Action"], "deletions stay where they were made"
    assert statements["DecryptAtHome"]["Resource"] == key("us-east-1")
    assert statements["DecryptAtHome"]["Condition"]["StringEquals"] == {
        "kms:ViaService": "s3.us-east-1.amazonaws.com",
        "kms:EncryptionContext:aws:s3:arn": home,
    }
    for number, region in enumerate(regions[1:]):
        statement = statements[f"EncryptElsewhere{number}"]
        assert statement["Resource"] == key(region)
        assert "kms:Decrypt" not in statement["Action"], "replicas are written and not read"
        assert statement["Condition"]["StringEquals"]["kms:ViaService"] == f"s3.{region}.amazonaws.com"


def test_nothing_is_granted_on_everything() -> None:
    places = [Place(region=r, bucket_arn=f"arn:aws:s3:::models-{r}", key_arn=key(r)) for r in THREE]
    for statement in role_policy(places[0], places[1:])["Statement"]:
        assert statement["Resource"] != "*"
        assert not any(action.endswith("*") for action in statement["Action"])


def test_only_s3_takes_the_role() -> None:
    role = replicated().one("iam/role:Role").inputs
    (statement,) = json.loads(role["assumeRolePolicy"])["Statement"]
    assert statement["Principal"] == {"Service": "s3.amazonaws.com"}
    assert "name" not in role, "a second stack of the account has its own"
