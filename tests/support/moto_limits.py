"""What moto 5.2 cannot do of what the program needs, and where in moto's source the reason stands.

`tests/schema/test_apply.py` leaves out and forgives what is written here, and nothing else;
`tests/schema/test_emulator.py` asks moto itself whether each entry is true.
"""

from __future__ import annotations

from typing import Final

NOT_MADE: Final = {
    "aws_appautoscaling_target": "applicationautoscaling/responses.py has no ListTagsForResource, which reading needs",
    "aws_fsx_data_repository_association": "fsx/responses.py has no data repository associations",
    "aws_fsx_lustre_file_system": "fsx/models.py FileSystem.to_dict has no Lifecycle, which creating waits for",
    "aws_globalaccelerator_accelerator": "moto has no Global Accelerator",
    "aws_globalaccelerator_endpoint_group": "moto has no Global Accelerator",
    "aws_globalaccelerator_listener": "moto has no Global Accelerator",
    "aws_kms_replica_key": "kms/responses.py replicate_key drops the tags, which creating waits for",
}
"""Types that moto cannot make, and where in moto it shows. They are validated, not applied."""

NOT_SET: Final = {
    ("aws_dynamodb_table", "replica"): "dynamodb/models knows no replicas, and creating waits for them",
    ("aws_ec2_transit_gateway_vpc_attachment", "transit_gateway_default_route_table_association"): (
        "ec2/models/transit_gateway.py makes a default table although it is disabled, and taking the attachment out "
        "of it is a KeyError in disassociate_transit_gateway_route_table"
    ),
    ("aws_ec2_transit_gateway_vpc_attachment", "transit_gateway_default_route_table_propagation"): (
        "as above, in disable_transit_gateway_route_table_propagation"
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
    ("aws_lb", "enforce_security_group_inbound_rules_on_private_link_traffic"): "elbv2/models.py does not keep it",
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
