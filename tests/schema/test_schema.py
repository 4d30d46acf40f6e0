"""Every resource of the program against the AWS provider's own schema and validators."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import pulumi
import pulumi_aws as aws
import pytest

from stacks.program import deploy
from stacks.settings import parse
from tests.support.pulumi_program import Program, record
from tests.support.stacks import stack_values
from tests.support.terraform_cli import Finding, Terraform
from tests.support.terraform_document import Document, Omission, document

pytestmark = [pytest.mark.terraform, pytest.mark.timeout(300)]

NEWER_THAN_THE_PROVIDER: Final = {
    Omission("aws:dynamodb/table:Table", "replicas.consistencyMode"): "multi-region strong consistency came with 6.0",
    Omission(
        "aws:dynamodb/table:Table", "replicas.deletionProtectionEnabled"
    ): "replicas' own protection came with 6.0",
}
"""Arguments of pulumi-aws 7, which is built of the provider's major version 6, that version 5.100 has no place for."""


@pytest.fixture(scope="module")
def program() -> Program:
    """Prod with four regions, and with the control loops, which its configuration leaves off."""
    settings = parse({**stack_values("prod", 4), "control_loops": True})
    return record(lambda: deploy(settings), stack="prod")


@pytest.fixture(scope="module")
def whole(program: Program, terraform: Terraform) -> Document:
    return document(program, terraform.schema)


def test_every_resource_has_a_type_that_the_provider_has(program: Program, whole: Document) -> None:
    assert not whole.unmapped, "no Terraform type for these"
    aws_resources = [one for one in program if one.custom and one.type.startswith("aws:")]
    assert len(aws_resources) > 800, "the program was not recorded whole"
    assert len(whole.resources) == len(aws_resources), "two resources have one address"


def test_every_argument_has_a_place_but_those_newer_than_the_provider(whole: Document, terraform: Terraform) -> None:
    known = set(NEWER_THAN_THE_PROVIDER)
    assert whole.dropped <= known, "the provider has no such argument"
    if terraform.provider_version.startswith("5."):
        assert whole.dropped == known, "written as newer, but the provider has it or nobody sets it"


def test_every_output_that_is_used_is_one_that_the_provider_gives(whole: Document) -> None:
    assert not whole.unknown_outputs


def test_the_provider_accepts_every_resource(whole: Document, terraform: Terraform) -> None:
    assert terraform.validate("whole", whole) == []


# That the check can fail


def small() -> None:
    """A few resources that are right."""
    here = pulumi.ResourceOptions(provider=aws.Provider("aws-us-east-1", region="us-east-1"))
    for name in ("right", "typed"):
        aws.ec2.Vpc(name, cidr_block="10.66.0.0/18", enable_dns_support=True, opts=here)
    aws.ec2.Subnet("misspelled", vpc_id="vpc-1", cidr_block="10.66.0.0/24", opts=here)
    aws.ec2.VpcEndpoint("missing", vpc_id="vpc-1", service_name="com.amazonaws.us-east-1.kms", opts=here)
    aws.ec2.FlowLog("refused", vpc_id="vpc-1", traffic_type="ALL", opts=here)
    aws.ec2.Eip("unknown", domain="vpc", opts=here)


def changed(program: Program, name: str, type_: str | None = None, **inputs: Any) -> None:
    """Change a resource's arguments, as no typed class would; None takes one away."""
    at = next(index for index, one in enumerate(program.resources) if one.name == name)
    one = program.resources[at]
    kept = {key: value for key, value in {**one.inputs, **inputs}.items() if value is not None}
    program.resources[at] = dataclasses.replace(one, inputs=kept, type=type_ or one.type)


@pytest.fixture(scope="module")
def wrong(terraform: Terraform) -> Document:
    program = record(small)
    changed(program, "misspelled", cidrBlock=None, cidrBlok="10.66.0.0/24")
    changed(program, "missing", vpcId=None)
    changed(program, "typed", enableDnsSupport="perhaps")
    changed(program, "refused", trafficType="EVERYTHING")
    changed(program, "unknown", type_="aws:ec2/spaceship:Spaceship")
    return document(program, terraform.schema)


@pytest.fixture(scope="module")
def findings(wrong: Document, terraform: Terraform) -> Mapping[str, Finding]:
    return {one.address: one for one in terraform.validate("wrong", wrong)}


def test_a_misspelled_argument_is_reported(wrong: Document) -> None:
    assert wrong.dropped == {Omission("aws:ec2/subnet:Subnet", "cidrBlok")}


def test_a_type_that_the_provider_lacks_is_reported(wrong: Document) -> None:
    assert wrong.unmapped == {"aws:ec2/spaceship:Spaceship"}


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("aws_vpc_endpoint.missing", 'The argument "vpc_id" is required'),
        ("aws_vpc.typed", "a bool is required"),
        ("aws_flow_log.refused", "expected traffic_type to be one of"),
    ],
)
def test_what_the_provider_refuses_is_reported_where_it_stands(
    findings: Mapping[str, Finding], address: str, words: str
) -> None:
    assert words in findings[address].text


def test_what_is_right_is_not_reported(findings: Mapping[str, Finding]) -> None:
    assert set(findings) == {"aws_vpc_endpoint.missing", "aws_vpc.typed", "aws_flow_log.refused"}
