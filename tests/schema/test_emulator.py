"""Every entry of tests/support/moto_limits.py asked of moto itself, without Terraform and without the program.

A failure here means that moto has learned something: take the entry out, and the apply covers more.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, Final

import boto3
import pytest
from moto import mock_aws

from tests.support.moto_limits import DRIFT, NOT_MADE, NOT_REMOVED, NOT_SET

HERE: Final = "us-east-1"
THERE: Final = "us-west-2"
TAGS: Final = [{"Key": "end", "Value": "here"}]
PROTOCOL_ICMP: Final = "1"


def client(service: str, region: str = HERE) -> Any:
    made: Any = boto3.client(service, region_name=region)  # type: ignore[call-overload]  # any service's
    return made


class World:
    """A VPC with what the questions need."""

    def __init__(self) -> None:
        self.ec2 = client("ec2")
        self.vpc = self.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        zones = [f"{HERE}{letter}" for letter in "ab"]
        self.subnets = [
            self.ec2.create_subnet(VpcId=self.vpc, CidrBlock=f"10.0.{at}.0/24", AvailabilityZone=zone)["Subnet"][
                "SubnetId"
            ]
            for at, zone in enumerate(zones)
        ]
        self.template = self.ec2.create_launch_template(
            LaunchTemplateName="hosts",
            LaunchTemplateData={"ImageId": "ami-12c6146b", "InstanceType": "t3.micro"},
            TagSpecifications=[{"ResourceType": "launch-template", "Tags": TAGS}],
        )["LaunchTemplate"]["LaunchTemplateId"]
        options = {"DefaultRouteTableAssociation": "disable", "DefaultRouteTablePropagation": "disable"}
        self.gateway = self.ec2.create_transit_gateway(Options=options)["TransitGateway"]
        self.attachment = self.attach(self.vpc, self.subnets[0])

    def attach(self, vpc: str, subnet: str) -> dict[str, Any]:
        attachment: dict[str, Any] = self.ec2.create_transit_gateway_vpc_attachment(
            TransitGatewayId=self.gateway["TransitGatewayId"],
            VpcId=vpc,
            SubnetIds=[subnet],
            TagSpecifications=[{"ResourceType": "transit-gateway-attachment", "Tags": TAGS}],
        )["TransitGatewayVpcAttachment"]
        return attachment

    def default_table(self) -> dict[str, str]:
        return {
            "TransitGatewayAttachmentId": self.attachment["TransitGatewayAttachmentId"],
            "TransitGatewayRouteTableId": self.gateway["Options"]["AssociationDefaultRouteTableId"],
        }

    def file_system(self) -> dict[str, Any]:
        subnet = self.subnets[:1]
        made = client("fsx").create_file_system(FileSystemType="LUSTRE", StorageCapacity=1200, SubnetIds=subnet)
        return dict(made["FileSystem"])

    def group(self, name: str, **more: Any) -> dict[str, Any]:
        template = {"LaunchTemplateId": self.template, "Version": "1"}
        policy = {
            "LaunchTemplate": {"LaunchTemplateSpecification": template, "Overrides": [{"InstanceType": "t3.micro"}]}
        }
        scaling = client("autoscaling")
        scaling.create_auto_scaling_group(
            AutoScalingGroupName=name,
            MinSize=1,
            MaxSize=1,
            VPCZoneIdentifier=self.subnets[0],
            MixedInstancesPolicy=policy,
            **more,
        )
        return described(name)


def described(group: str) -> dict[str, Any]:
    found: dict[str, Any] = client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[group])
    return dict(found["AutoScalingGroups"][0])


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with mock_aws():
        yield World()


@pytest.fixture(scope="module")
def ask(world: World) -> Callable[[Callable[[World], bool]], bool]:
    """Asks each question once, however many limits rest on it."""
    return functools.cache(lambda question: question(world))


def no_scaling_targets_tags(_: World) -> bool:
    with pytest.raises(NotImplementedError):
        client("application-autoscaling").list_tags_for_resource(ResourceARN="arn")
    return True


def no_data_repositories(world: World) -> bool:
    made = world.file_system()["FileSystemId"]
    with pytest.raises(NotImplementedError):
        client("fsx").create_data_repository_association(FileSystemId=made, DataRepositoryPath="s3://models")
    return True


def no_lifecycle(world: World) -> bool:
    return "Lifecycle" not in world.file_system()


def no_accelerator(_: World) -> bool:
    return importlib.util.find_spec("moto.globalaccelerator") is None


def no_replicas_tags(_: World) -> bool:
    key = client("kms").create_key(MultiRegion=True)["KeyMetadata"]["KeyId"]
    client("kms").replicate_key(KeyId=key, ReplicaRegion=THERE, Tags=[{"TagKey": "end", "TagValue": "there"}])
    return not client("kms", THERE).list_resource_tags(KeyId=key)["Tags"]


def no_table_replicas(_: World) -> bool:
    keys = [{"AttributeName": "key", "KeyType": "HASH"}]
    names = [{"AttributeName": "key", "AttributeType": "S"}]
    dynamodb = client("dynamodb")
    dynamodb.create_table(TableName="state", KeySchema=keys, AttributeDefinitions=names, BillingMode="PAY_PER_REQUEST")
    updates = [{"Create": {"RegionName": THERE}}]
    return "Replicas" not in dynamodb.update_table(TableName="state", ReplicaUpdates=updates)["TableDescription"]


def no_disassociation(world: World) -> bool:
    with pytest.raises(KeyError):
        world.ec2.disassociate_transit_gateway_route_table(**world.default_table())
    return True


def no_end_of_propagation(world: World) -> bool:
    with pytest.raises(KeyError):
        world.ec2.disable_transit_gateway_route_table_propagation(**world.default_table())
    return True


def a_protected_instance_stays(world: World) -> bool:
    group = world.group("protected", NewInstancesProtectedFromScaleIn=True)
    scaling = client("autoscaling")
    scaling.update_auto_scaling_group(AutoScalingGroupName="protected", MinSize=0, MaxSize=0, DesiredCapacity=0)
    scaling.set_instance_protection(
        AutoScalingGroupName="protected",
        InstanceIds=[one["InstanceId"] for one in group["Instances"]],
        ProtectedFromScaleIn=False,
    )
    return len(described("protected")["Instances"]) == 1


def a_deleted_attachment_is_gone_at_once(world: World) -> bool:
    vpc = world.ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    subnet = world.ec2.create_subnet(VpcId=vpc, CidrBlock="10.1.0.0/24")["Subnet"]["SubnetId"]
    ident = world.attach(vpc, subnet)["TransitGatewayAttachmentId"]
    world.ec2.delete_transit_gateway_vpc_attachment(TransitGatewayAttachmentId=ident)
    left = world.ec2.describe_transit_gateway_vpc_attachments(TransitGatewayAttachmentIds=[ident])
    return not left["TransitGatewayVpcAttachments"]


def no_capacity_reservations(world: World) -> bool:
    group = world.group("reserved", CapacityReservationSpecification={"CapacityReservationPreference": "none"})
    return "CapacityReservationSpecification" not in group


def an_update_forgets_the_policy(world: World) -> bool:
    kept = "MixedInstancesPolicy" in world.group("mixed")
    client("autoscaling").update_auto_scaling_group(AutoScalingGroupName="mixed", MinSize=0)
    return kept and "MixedInstancesPolicy" not in described("mixed")


def a_hook_has(argument: str) -> Callable[[World], bool]:
    def asked(world: World) -> bool:
        world.group(argument)
        scaling = client("autoscaling")
        scaling.put_lifecycle_hook(
            AutoScalingGroupName=argument,
            LifecycleHookName="launch",
            LifecycleTransition="autoscaling:EC2_INSTANCE_LAUNCHING",
        )
        hooks = scaling.describe_lifecycle_hooks(AutoScalingGroupName=argument)["LifecycleHooks"]
        return argument in hooks[0]

    return asked


def both_ends_have_one_set_of_tags(world: World) -> bool:
    there = client("ec2", THERE)
    peering = world.ec2.create_transit_gateway_peering_attachment(
        TransitGatewayId=world.gateway["TransitGatewayId"],
        PeerTransitGatewayId=there.create_transit_gateway()["TransitGateway"]["TransitGatewayId"],
        PeerAccountId="123456789012",
        PeerRegion=THERE,
        TagSpecifications=[{"ResourceType": "transit-gateway-attachment", "Tags": TAGS}],
    )["TransitGatewayPeeringAttachment"]["TransitGatewayAttachmentId"]
    found = there.describe_transit_gateway_peering_attachments(TransitGatewayAttachmentIds=[peering])
    return bool(found["TransitGatewayPeeringAttachments"][0]["Tags"] == TAGS)


def a_route_has_no_attachment(world: World) -> bool:
    ids = world.default_table()
    world.ec2.create_transit_gateway_route(DestinationCidrBlock="10.2.0.0/16", **ids)
    filters = [{"Name": "type", "Values": ["static"]}]
    table = ids["TransitGatewayRouteTableId"]
    found = world.ec2.search_transit_gateway_routes(TransitGatewayRouteTableId=table, Filters=filters)
    return not found["Routes"][0]["TransitGatewayAttachments"]


def an_attachment_has_no_tags(world: World) -> bool:
    return not world.attachment.get("Tags")


def a_service_forgets(argument: str, *, value: object) -> Callable[[World], bool]:
    def asked(_: World) -> bool:
        ecs = client("ecs")
        cluster = ecs.create_cluster(clusterName=argument)["cluster"]["clusterArn"]
        container = {"name": "router", "image": "router", "memory": 128}
        ecs.register_task_definition(family="router", containerDefinitions=[container])
        given: dict[str, Any] = {argument: value}
        ecs.create_service(cluster=cluster, serviceName="router", taskDefinition="router", desiredCount=0, **given)
        service = ecs.describe_services(cluster=cluster, services=["router"])["services"][0]
        return bool(service.get(argument) != value)

    return asked


def a_template_tags_what_it_starts(world: World) -> bool:
    versions = world.ec2.describe_launch_template_versions(LaunchTemplateId=world.template)["LaunchTemplateVersions"]
    kinds = [one["ResourceType"] for one in versions[0]["LaunchTemplateData"].get("TagSpecifications", [])]
    return kinds == ["launch-template"]


def a_load_balancer_forgets_private_link(world: World) -> bool:
    group = world.ec2.create_security_group(GroupName="nlb", Description="nlb", VpcId=world.vpc)["GroupId"]
    balancing = client("elbv2")
    made = balancing.create_load_balancer(Name="nlb", Type="network", Subnets=world.subnets, SecurityGroups=[group])
    arn = made["LoadBalancers"][0]["LoadBalancerArn"]
    enforced = "EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic"
    balancing.set_security_groups(LoadBalancerArn=arn, SecurityGroups=[group], **{enforced: "on"})
    return enforced not in balancing.describe_load_balancers(LoadBalancerArns=[arn])["LoadBalancers"][0]


def an_entry_forgets_icmp(world: World) -> bool:
    acl = world.ec2.create_network_acl(VpcId=world.vpc)["NetworkAcl"]["NetworkAclId"]
    world.ec2.create_network_acl_entry(
        NetworkAclId=acl,
        RuleNumber=100,
        Protocol=PROTOCOL_ICMP,
        RuleAction="allow",
        Egress=True,
        CidrBlock="10.0.0.0/8",
        IcmpTypeCode={"Type": -1, "Code": -1},
    )
    entries = world.ec2.describe_network_acls(NetworkAclIds=[acl])["NetworkAcls"][0]["Entries"]
    return all("IcmpTypeCode" not in one for one in entries if one["Protocol"] == PROTOCOL_ICMP)


def replication_forgets_what_it_selects(_: World) -> bool:
    s3 = client("s3")
    for bucket in ("source", "copy"):
        s3.create_bucket(Bucket=bucket)
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    rule = {
        "ID": "all",
        "Priority": 1,
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "SourceSelectionCriteria": {"SseKmsEncryptedObjects": {"Status": "Enabled"}},
        "DeleteMarkerReplication": {"Status": "Disabled"},
        "Destination": {"Bucket": "arn:aws:s3:::copy"},
    }
    s3.put_bucket_replication(
        Bucket="source", ReplicationConfiguration={"Role": "arn:aws:iam::1:role/r", "Rules": [rule]}
    )
    found = s3.get_bucket_replication(Bucket="source")["ReplicationConfiguration"]["Rules"][0]
    return "SourceSelectionCriteria" not in found


def a_rule_among_groups_forgets_its_description(world: World) -> bool:
    group = world.ec2.create_security_group(GroupName="hosts", Description="hosts", VpcId=world.vpc)["GroupId"]
    pair = {"GroupId": group, "Description": "Sealed requests"}
    permission = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "UserIdGroupPairs": [pair]}
    world.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[permission])
    filters = [{"Name": "group-id", "Values": [group]}]
    rules = world.ec2.describe_security_group_rules(Filters=filters)["SecurityGroupRules"]
    return all("Description" not in one for one in rules if not one["IsEgress"])


ASKED: Final[dict[object, Callable[[World], bool]]] = {
    "aws_appautoscaling_target": no_scaling_targets_tags,
    "aws_fsx_data_repository_association": no_data_repositories,
    "aws_fsx_lustre_file_system": no_lifecycle,
    "aws_globalaccelerator_accelerator": no_accelerator,
    "aws_globalaccelerator_endpoint_group": no_accelerator,
    "aws_globalaccelerator_listener": no_accelerator,
    "aws_kms_replica_key": no_replicas_tags,
    ("aws_dynamodb_table", "replica"): no_table_replicas,
    ("aws_ec2_transit_gateway_vpc_attachment", "transit_gateway_default_route_table_association"): no_disassociation,
    (
        "aws_ec2_transit_gateway_vpc_attachment",
        "transit_gateway_default_route_table_propagation",
    ): no_end_of_propagation,
    "aws_autoscaling_group": a_protected_instance_stays,
    "aws_ec2_transit_gateway_vpc_attachment": a_deleted_attachment_is_gone_at_once,
    ("aws_autoscaling_group", "capacity_reservation_specification"): no_capacity_reservations,
    ("aws_autoscaling_group", "mixed_instances_policy"): an_update_forgets_the_policy,
    ("aws_autoscaling_lifecycle_hook", "notification_target_arn"): a_hook_has("NotificationTargetARN"),
    ("aws_autoscaling_lifecycle_hook", "role_arn"): a_hook_has("RoleARN"),
    ("aws_ec2_transit_gateway_peering_attachment_accepter", "tags"): both_ends_have_one_set_of_tags,
    ("aws_ec2_transit_gateway_route", "blackhole"): a_route_has_no_attachment,
    ("aws_ec2_transit_gateway_route", "transit_gateway_attachment_id"): a_route_has_no_attachment,
    ("aws_ec2_transit_gateway_vpc_attachment", "tags"): an_attachment_has_no_tags,
    ("aws_ecs_service", "availability_zone_rebalancing"): a_service_forgets(
        "availabilityZoneRebalancing", value="ENABLED"
    ),
    ("aws_ecs_service", "enable_ecs_managed_tags"): a_service_forgets("enableECSManagedTags", value=True),
    ("aws_ecs_service", "health_check_grace_period_seconds"): a_service_forgets(
        "healthCheckGracePeriodSeconds", value=60
    ),
    ("aws_launch_template", "tag_specifications"): a_template_tags_what_it_starts,
    ("aws_lb", "enforce_security_group_inbound_rules_on_private_link_traffic"): a_load_balancer_forgets_private_link,
    ("aws_network_acl", "egress"): an_entry_forgets_icmp,
    ("aws_network_acl", "ingress"): an_entry_forgets_icmp,
    ("aws_s3_bucket_replication_configuration", "rule.source_selection_criteria"): replication_forgets_what_it_selects,
    ("aws_vpc_security_group_egress_rule", "description"): a_rule_among_groups_forgets_its_description,
    ("aws_vpc_security_group_ingress_rule", "description"): a_rule_among_groups_forgets_its_description,
}


def test_every_limit_is_asked_about() -> None:
    assert set(ASKED) == {*NOT_MADE, *NOT_SET, *NOT_REMOVED, *DRIFT}


@pytest.mark.parametrize("limit", ASKED, ids=str)
def test_it_is_the_emulators(ask: Callable[[Callable[[World], bool]], bool], limit: object) -> None:
    assert ask(ASKED[limit]), "moto has learned this; take the entry out"
