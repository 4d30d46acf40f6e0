"""Dev with three regions, applied by the AWS provider: made, planned again, and taken down, on moto for want of an AWS.

moto is no AWS. What it cannot do is left out, and what it forgets shows as drift; both are written down below with
where in moto the reason stands, and anything that is not written down fails a test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

import pytest
from docker.errors import DockerException  # type: ignore[import-untyped]  # docker publishes no types
from testcontainers.core.docker_client import DockerClient

from stacks.program import deploy
from stacks.settings import parse
from tests.support.moto_server import IMAGE, moto_container, moto_process
from tests.support.pulumi_program import record
from tests.support.stacks import stack_values
from tests.support.terraform_cli import Outcome, Terraform
from tests.support.terraform_document import Document, document

pytestmark = [pytest.mark.terraform, pytest.mark.timeout(600)]

NOT_MADE: Final = {
    "aws_appautoscaling_target": "applicationautoscaling/responses.py has no ListTagsForResource, which reading needs",
    "aws_fsx_data_repository_association": "fsx/responses.py has no data repository associations",
    "aws_fsx_lustre_file_system": "fsx/models.py FileSystem.to_dict has no Lifecycle, which creating waits for",
    "aws_globalaccelerator_accelerator": "moto has no Global Accelerator",
    "aws_globalaccelerator_endpoint_group": "moto has no Global Accelerator",
    "aws_globalaccelerator_listener": "moto has no Global Accelerator",
    "aws_kms_replica_key": "kms/responses.py replicate_key drops the tags, which creating waits for",
}
"""Types that moto cannot make, and where in moto it shows. They are validated (test_schema.py), not applied."""

NOT_SET: Final = {
    ("aws_dynamodb_table", "replica"): "dynamodb/models knows no replicas, and creating waits for them",
    ("aws_ec2_transit_gateway_vpc_attachment", "transit_gateway_default_route_table_association"): (
        "ec2/models/transit_gateway.py makes a default table although it is disabled, and taking the attachment out "
        "of it is a KeyError in disassociate_transit_gateway_route_table"
    ),
    ("aws_ec2_transit_gateway_vpc_attachment", "transit_gateway_default_route_table_propagation"): (
        "as above, in disable_transit_gateway_route_table_propagation"
    ),
    ("aws_lb", "enforce_security_group_inbound_rules_on_private_link_traffic"): (
        "elbv2 does not keep it, and setting it waits half a minute for a load balancer"
    ),
}
"""Arguments that moto cannot take, and where in moto it shows."""

NOT_REMOVED: Final = {
    "aws_autoscaling_group": (
        "autoscaling/models.py set_desired_capacity ends no protected instance, and does not look again once the "
        "provider has unprotected it, as AWS does"
    ),
    "aws_ec2_transit_gateway_vpc_attachment": (
        "ec2/models/transit_gateway_attachments.py forgets a deleted attachment at once; the provider waits minutes "
        "to see it in AWS's state `deleted`"
    ),
}
"""Types whose removal the provider cannot see the end of on moto, and where in moto it shows."""

DRIFT: Final = {
    ("aws_autoscaling_group", "capacity_reservation_specification"): "autoscaling keeps none, AWS answers its default",
    ("aws_autoscaling_group", "mixed_instances_policy"): (
        "autoscaling/models.py update forgets the policy when an update names none; the provider updates the sizes "
        "once lifecycle hooks stand"
    ),
    (
        "aws_autoscaling_lifecycle_hook",
        "notification_target_arn",
    ): "autoscaling/models.py FakeLifeCycleHook: a constant",
    ("aws_autoscaling_lifecycle_hook", "role_arn"): "autoscaling/models.py FakeLifeCycleHook: a constant",
    ("aws_ec2_transit_gateway_peering_attachment_accepter", "tags"): (
        "ec2/models/transit_gateway_attachments.py has one object for both ends of a peering, and so one set of tags"
    ),
    ("aws_ec2_transit_gateway_route", "blackhole"): (
        "ec2/models/transit_gateway_route_tables.py answers a route's attachment as an object where AWS has a list, "
        "so that it reads as none"
    ),
    ("aws_ec2_transit_gateway_route", "transit_gateway_attachment_id"): "as above",
    ("aws_ec2_transit_gateway_vpc_attachment", "tags"): (
        "ec2/responses/transit_gateway_attachments.py takes the tags of type transit-gateway-route-table"
    ),
    ("aws_ecs_service", "availability_zone_rebalancing"): "ecs/models.py Service does not keep it",
    ("aws_ecs_service", "enable_ecs_managed_tags"): "ecs/models.py Service does not keep it",
    ("aws_ecs_service", "health_check_grace_period_seconds"): "ecs/models.py Service does not keep it",
    ("aws_launch_template", "tag_specifications"): (
        "ec2/responses/launch_templates.py adds the template's own tags to its instances'"
    ),
    ("aws_network_acl", "egress"): "ec2/responses/network_acls.py reads an entry's ICMP type and code under no name",
    ("aws_network_acl", "ingress"): "as above",
    ("aws_s3_bucket_replication_configuration", "rule.source_selection_criteria"): (
        "s3/responses.py get_bucket_replication does not answer it"
    ),
    ("aws_vpc_security_group_egress_rule", "description"): (
        "ec2/models/security_groups.py SecurityRule.description is that of an address range, never of a group or list"
    ),
    ("aws_vpc_security_group_ingress_rule", "description"): "as above",
}
"""What a second plan would change, by type and argument, and where in moto the reason stands."""


@dataclass(frozen=True)
class Applied:
    """One life of the platform on an emulator."""

    configuration: Document
    made: Outcome
    drift: Mapping[str, list[str]]
    unreadable: list[str]
    removed: Outcome

    def left(self) -> set[str]:
        """The addresses that are left to the emulator when the rest is removed."""
        return {one for one in self.configuration.resources if one.partition(".")[0] in NOT_REMOVED}


def emulator(kind: str, folder: pytest.TempPathFactory) -> AbstractContextManager[str]:
    if kind == "process":
        return moto_process(folder.mktemp("moto") / "moto.log")
    try:
        DockerClient().client.ping()
    except DockerException:
        pytest.skip(f"There is no Docker engine here to run {IMAGE} in; with one, this test runs too.")
    return moto_container()


@pytest.fixture(scope="module", params=["process", pytest.param("container", marks=pytest.mark.docker)])
def applied(
    request: pytest.FixtureRequest, terraform: Terraform, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Applied]:
    with emulator(request.param, tmp_path_factory) as endpoint:
        # As an operator does before a stack is taken down for good.
        settings = parse({**stack_values("dev"), "deletion_protection": False})
        program = record(lambda: deploy(settings), stack="dev")
        configuration = document(program, terraform.schema, without=NOT_MADE, without_arguments=NOT_SET)
        folder = terraform.folder(f"dev-{request.param}", configuration)
        made = terraform.apply(folder, endpoint)
        drift, unreadable = terraform.drift(folder, endpoint)
        left = [one for one in made.done if one.partition(".")[0] in NOT_REMOVED]
        terraform.forget(folder, left)
        removed = terraform.destroy(folder, endpoint)
        yield Applied(configuration, made, drift, [one.text for one in unreadable], removed)


def test_everything_that_the_emulator_knows_is_made(applied: Applied) -> None:
    assert applied.made.errors == []
    assert applied.made.done == set(applied.configuration.resources)
    assert len(applied.made.done) > 550, "the program was not applied whole"


def test_a_second_plan_reads_everything_and_changes_nothing_of_its_own(applied: Applied) -> None:
    assert applied.unreadable == []
    strange = {
        address: paths
        for address, changes in applied.drift.items()
        if (paths := [one for one in changes if reason(address, one) is None])
    }
    assert strange == {}, "no reason is written for this drift: the program's, or one more of the emulator's"


def test_every_written_drift_is_seen(applied: Applied) -> None:
    seen = {reason(address, one) for address, changes in applied.drift.items() for one in changes}
    assert set(DRIFT) <= seen, "the emulator has learned this; take it out of the list"


def test_everything_is_taken_down_again(applied: Applied) -> None:
    assert applied.removed.errors == []
    assert applied.removed.done == applied.made.done - applied.left()


def reason(address: str, change: str) -> tuple[str, str] | None:
    """The entry of DRIFT that a change (`path: before -> after`) of a resource falls under."""
    kind = address.partition(".")[0]
    path = change.partition(": ")[0].replace("tags_all", "tags")
    return next(((known, part) for known, part in DRIFT if known == kind and f"{path}.".startswith(f"{part}.")), None)
