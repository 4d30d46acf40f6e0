"""A region's repositories and parameters under mocks."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pulumi
import pulumi_aws as aws
import pytest

from components.placement import Placement
from components.registries import Registries, RegistriesArgs
from tests.support.pulumi_program import ACCOUNT, Program, record

DIGEST = "sha256:" + "ab" * 32
PLACE = Placement(region="us-west-2", environment="dev", account=ACCOUNT)
IMAGES = {"router": f"mrgc/router@{DIGEST}", "control": f"mrgc/control@{DIGEST}"}
MEASUREMENTS = {0: "0a" * 48, 1: "1b" * 48, 2: "2c" * 48}


MADE: list[Registries] = []
"""The component of each run, in order; what is read of it is plain."""


def registries(
    images: Mapping[str, str] = IMAGES, measurements: Mapping[int, str] = MEASUREMENTS, *, protect: bool = False
) -> Program:
    def program() -> None:
        made = Registries(
            "registries-us-west-2",
            RegistriesArgs(
                placement=PLACE,
                measurements=measurements,
                eif_version="0.1.0",
                images=images,
                key_arn=f"arn:aws:kms:us-west-2:{ACCOUNT}:key/storage",
                functions=("control",),
                protect=protect,
            ),
            pulumi.ResourceOptions(provider=aws.Provider("aws", region="us-west-2")),
        )
        MADE.append(made)

    return record(program)


def test_every_repository_is_immutable_scanned_and_encrypted() -> None:
    made = registries()
    repositories = made.of("ecr/repository:Repository")
    assert {one.inputs["name"] for one in repositories} == {"mrgc/router", "mrgc/control"}
    for one in repositories:
        assert made.region(one) == "us-west-2"
        assert one.inputs["imageTagMutability"] == "IMMUTABLE"
        assert one.inputs["imageScanningConfiguration"] == {"scanOnPush": True}
        (encryption,) = one.inputs["encryptionConfigurations"]
        assert encryption["encryptionType"] == "KMS"
        assert encryption["kmsKey"].endswith("key/storage")


@pytest.mark.parametrize("protect", [True, False])
def test_repositories_keep_their_images_where_they_are_protected(protect: bool) -> None:  # noqa: FBT001 - a case
    for one in registries(protect=protect).of("ecr/repository:Repository"):
        assert (one.protect, one.retain_on_delete) == (protect, protect)
        assert one.inputs["forceDelete"] is not protect, "elsewhere a stack goes with what is in it"


def test_only_untagged_images_expire() -> None:
    policies = registries().of("ecr/lifecyclePolicy:LifecyclePolicy")
    assert len(policies) == 2
    for one in policies:
        (rule,) = json.loads(one.inputs["policy"])["rules"]
        assert rule["selection"]["tagStatus"] == "untagged", "a tagged image may be running"


def test_lambda_pulls_the_image_of_functions_and_no_other_and_only_for_this_account_and_region() -> None:
    made = registries()
    policy = made.one("ecr/repositoryPolicy:RepositoryPolicy")
    control = next(one for one in made.of("ecr/repository:Repository") if one.inputs["name"] == "mrgc/control")
    assert policy.inputs["repository"] == control.inputs["name"]
    (statement,) = json.loads(policy.inputs["policy"])["Statement"]
    assert statement["Principal"] == {"Service": "lambda.amazonaws.com"}
    assert statement["Action"] == ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    assert statement["Condition"] == {"ArnLike": {"aws:SourceArn": f"arn:aws:lambda:us-west-2:{ACCOUNT}:function:*"}}


def test_two_roles_of_one_repository_share_it() -> None:
    made = registries({"router": f"mrgc/all@{DIGEST}", "control": f"mrgc/all@{DIGEST}"})
    assert made.one("ecr/repository:Repository").inputs["name"] == "mrgc/all"
    assert set(MADE[-1].image) == {"router", "control"}


def test_images_are_named_whole_and_by_digest_in_the_regions_own_registry() -> None:
    made = registries()
    expected = f"{ACCOUNT}.dkr.ecr.us-west-2.amazonaws.com/mrgc/router@{DIGEST}"
    assert MADE[-1].image["router"] == expected
    parameter = made.one("ssm/parameter:Parameter", "registries-us-west-2-images-router")
    assert (parameter.inputs["name"], parameter.inputs["insecureValue"]) == ("/mrgc/dev/images/router", expected)


def test_measurements_are_published_register_by_register() -> None:
    made = registries(measurements={**MEASUREMENTS, 8: "8d" * 48})
    published = {one.inputs["name"]: one.inputs["insecureValue"] for one in made.of("ssm/parameter:Parameter")}
    assert published["/mrgc/dev/measurements/pcr0"] == "0a" * 48
    assert published["/mrgc/dev/measurements/pcr8"] == "8d" * 48
    assert published["/mrgc/dev/measurements/eif_version"] == "0.1.0"
    assert set(MADE[-1].parameter_names.values()) == set(published), "every parameter is found by its path"
    assert {one.inputs["type"] for one in made.of("ssm/parameter:Parameter")} == {"String"}, "nothing here is secret"


def test_an_unsigned_image_publishes_no_signing_register() -> None:
    registries()
    assert "measurements/pcr8" not in MADE[-1].parameter_names


def test_everything_belongs_to_the_component() -> None:
    for one in registries():
        if one.type.startswith("aws:"):
            assert one.parent.endswith("mrgc:registries:Registries::registries-us-west-2")
