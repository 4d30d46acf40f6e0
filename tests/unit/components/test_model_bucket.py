"""A region's bucket of models under mocks."""

from __future__ import annotations

import json
from typing import Any

import pulumi
import pulumi_aws as aws
import pytest

from components.model_bucket import ModelBucket, ModelBucketArgs
from components.placement import Placement
from tests.support.pulumi_program import ACCOUNT, Program, record

KEY = f"arn:aws:kms:us-east-2:{ACCOUNT}:key/storage"


ARNS: list[str] = []
"""The component's own output of each run, in order."""


def bucket(*, protect: bool = True, **more: Any) -> Program:
    def program() -> None:
        made = ModelBucket(
            "model-bucket-us-east-2",
            ModelBucketArgs(
                placement=Placement(region="us-east-2", environment="dev", account=ACCOUNT),
                key_arn=KEY,
                protect=protect,
                **more,
            ),
            pulumi.ResourceOptions(provider=aws.Provider("aws", region="us-east-2")),
        )
        made.bucket_arn.apply(ARNS.append)

    return record(program)


def test_everything_stands_in_the_region_under_the_component() -> None:
    made = bucket()
    for one in made:
        if one.type.startswith("aws:"):
            assert made.region(one) == "us-east-2"
            assert one.parent.endswith("mrgc:model_bucket:ModelBucket::model-bucket-us-east-2")


def test_nothing_of_it_is_public() -> None:
    private = bucket().one("s3/bucketPublicAccessBlock:BucketPublicAccessBlock").inputs
    for switch in ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets"):
        assert private[switch] is True, switch
    ownership = bucket().one("s3/bucketOwnershipControls:BucketOwnershipControls").inputs
    assert ownership["rule"] == {"objectOwnership": "BucketOwnerEnforced"}, "access control lists are off"


def test_it_keeps_versions_for_the_days_of_backup() -> None:
    made = bucket(backup_days=30)
    versioning = made.one("s3/bucketVersioning:BucketVersioning")
    assert versioning.inputs["versioningConfiguration"] == {"status": "Enabled"}
    lifecycle = made.one("s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration")
    (rule,) = lifecycle.inputs["rules"]
    assert rule["noncurrentVersionExpiration"] == {"noncurrentDays": 30}
    assert "expiration" not in rule, "a current model never expires"
    assert versioning.urn in lifecycle.dependencies


def test_no_days_of_backup_is_the_one_day_that_s3_allows() -> None:
    (rule,) = bucket(backup_days=0).one("s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration").inputs["rules"]
    assert rule["noncurrentVersionExpiration"] == {"noncurrentDays": 1}


def test_it_encrypts_under_the_regions_key() -> None:
    found = bucket().one("s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration")
    (rule,) = found.inputs["rules"]
    assert rule["applyServerSideEncryptionByDefault"] == {"sseAlgorithm": "aws:kms", "kmsMasterKeyId": KEY}
    assert rule["bucketKeyEnabled"] is True


def test_its_policy_denies_plain_http_and_other_encryption_and_allows_nobody() -> None:
    made = bucket()
    policy = json.loads(made.one("s3/bucketPolicy:BucketPolicy").inputs["policy"])
    arn = ARNS[-1]
    assert arn.startswith("arn:aws:s3:")
    statements = {one["Sid"]: one for one in policy["Statement"]}
    assert {one["Effect"] for one in policy["Statement"]} == {"Deny"}
    assert statements["OnlyTls"]["Resource"] == [arn, f"{arn}/*"]
    assert statements["OnlyTls"]["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    for sid in ("OnlyKms", "OnlyThisKey"):
        (operator,) = statements[sid]["Condition"]
        assert operator == "StringNotEqualsIfExists", "an upload that asks for nothing gets the bucket's encryption"
    (wanted,) = statements["OnlyThisKey"]["Condition"]["StringNotEqualsIfExists"].values()
    assert wanted == KEY
    assert "None" not in json.dumps(policy), "an output that was never there"


@pytest.mark.parametrize("protect", [True, False])
def test_models_are_kept_where_data_lives(protect: bool) -> None:  # noqa: FBT001 - both cases of one column
    found = bucket(protect=protect).one("s3/bucket:Bucket")
    assert (found.protect, found.retain_on_delete, found.inputs["forceDestroy"]) == (protect, protect, not protect)
    assert "bucket" not in found.inputs, "no fixed name: another stack may have it"
