"""What lets another account in, or data out, and breaks just one rule of the network pack."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from tests.support.network_breaks import Break, Change, add, breaks, change, gone
from tests.support.network_world import ACCOUNT, ALLOWED, OURS, Made, Ref, World, allow, document, made

R = "us-east-1"
STRANGER = "999999999999"
ROOT = f"arn:aws:iam::{STRANGER}:root"
PROVIDER = "pulumi:providers:aws"
TOPIC_POLICY = "aws:sns/topicPolicy:TopicPolicy"
REPLICATION = "aws:s3/bucketReplicationConfig:BucketReplicationConfig"
ASSOCIATION = "aws:fsx/dataRepositoryAssociation:DataRepositoryAssociation"
PERMISSION = "aws:lambda/permission:Permission"
FUNCTION = f"arn:aws:lambda:{R}:{ACCOUNT}:function:f"


def admits(principal: Any, condition: Any = None, action: str = "sns:Publish") -> Change:
    """A topic whose policy admits somebody."""
    bound = {} if condition is None else {"Condition": condition}
    statement = {"Effect": "Allow", "Principal": principal, "Action": action, "Resource": "*", **bound}
    return add(TOPIC_POLICY, arn=Ref(f"topic-{R}"), policy=document(statement))


def trusts(principal: Any) -> Change:
    statement = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
    return add("aws:iam/role:Role", assumeRolePolicy=document(statement))


def endpoint(service: str, *statements: dict[str, Any]) -> Change:
    return change(f"endpoint-{service}-{R}", policy=document(*statements))


def replicates(*buckets: Any) -> Change:
    rules = [{"destination": {"bucket": bucket}, "status": "Enabled"} for bucket in buckets]
    return add(REPLICATION, bucket=Ref(f"bucket-{R}"), rules=rules)


def of_two_accounts(world: World) -> None:
    """A topic with a provider of another account."""
    topic = made("aws:sns/topic:Topic", "more", R, kmsMasterKeyId=Ref(f"key-{R}"))
    world["more"] = replace(topic, account=STRANGER)


ANYBODY = {"StringLike": {"aws:PrincipalArn": "*"}}
SECURE = {"Bool": {"aws:SecureTransport": "true"}}
NOT_NULL = {"Null": {"aws:PrincipalAccount": "false"}}
IF_THERE = {"StringEqualsIfExists": {"aws:PrincipalAccount": ACCOUNT}}
EITHER = {"StringEquals": {"aws:PrincipalAccount": [ACCOUNT, STRANGER]}}
EXCEPT = {"StringNotEquals": {"aws:PrincipalAccount": STRANGER}}
ALL_OF_NONE = {"ForAllValues:StringEquals": {"aws:PrincipalAccount": ACCOUNT}}
VAGUE = {"ArnLike": {"aws:SourceArn": f"arn:aws:*:*:*:{ACCOUNT}*"}}

BREAKS: list[Break] = [
    *breaks(
        "provider-names-its-account",
        any_account=add(PROVIDER, "", "p", region=R),
        two_accounts=add(PROVIDER, "", "p", region=R, allowedAccountIds=json.dumps([ACCOUNT, STRANGER])),
        calls_that_go_elsewhere=add(PROVIDER, "", "p", region=R, allowedAccountIds=ALLOWED,
                                    endpoints='[{"kms": "https://kms.example.com"}]'),
        without_tls_checks=add(PROVIDER, "", "p", region=R, allowedAccountIds=ALLOWED, insecure="true"),
    ),
    *breaks("one-account", a_resource_of_another=of_two_accounts),
    *breaks(
        "no-other-account",
        a_strangers_key=change(f"log-{R}", kmsKeyId=f"arn:aws:kms:{R}:{STRANGER}:key/k"),
        a_strangers_key_for_a_replica=change(f"images-{R}", encryptionConfigurations=[
            {"encryptionType": "KMS", "kmsKey": f"arn:aws:kms:{R}:{STRANGER}:key/k"}]),
        alarms_to_a_stranger=add("aws:cloudwatch/metricAlarm:MetricAlarm",
                                 alarmActions=[f"arn:aws:sns:{R}:{STRANGER}:t"]),
        a_strangers_image=add("aws:ecs/taskDefinition:TaskDefinition", containerDefinitions=json.dumps(
            [{"image": f"{STRANGER}.dkr.ecr.{R}.amazonaws.com/x@sha256:{'ab' * 32}"}])),
        a_strangers_secret=add("aws:ecs/taskDefinition:TaskDefinition", containerDefinitions=json.dumps(
            [{"secrets": [{"valueFrom": f"arn:aws:ssm:{R}:{STRANGER}:parameter/x"}]}])),
        a_strangers_layer=add("aws:lambda/function:Function", layers=[f"arn:aws:lambda:{R}:{STRANGER}:layer:l:1"]),
        replication_owned_by_a_stranger=add(REPLICATION, bucket=Ref(f"bucket-{R}"), rules=[
            {"destination": {"bucket": Ref("bucket-us-east-2"), "account": STRANGER}}]),
        a_peering_with_a_stranger=change(f"peering-{R}-us-east-2", peerAccountId=STRANGER),
    ),
    *breaks(
        "policies-admit-no-stranger",
        a_stranger=admits({"AWS": ROOT}),
        a_stranger_by_digits=admits({"AWS": [ACCOUNT, STRANGER]}),
        everybody=admits("*"),
        everything_for_everybody_of_the_account=admits("*", OURS, "sns:*"),
        everybody_over_tls=admits("*", SECURE),
        everybody_with_an_arn=admits({"AWS": "*"}, ANYBODY),
        everybody_with_an_account=admits({"AWS": "*"}, NOT_NULL),
        everybody_if_there_is_an_account=admits({"AWS": "*"}, IF_THERE),
        one_of_two_accounts=admits({"AWS": "*"}, EITHER),
        all_but_one=admits({"AWS": "*"}, EXCEPT),
        all_of_no_values=admits({"AWS": "*"}, ALL_OF_NONE),
        a_vague_source=admits({"Service": "cloudwatch.amazonaws.com"}, VAGUE),
        a_service_for_anybody=admits({"Service": "s3.amazonaws.com"}),
        another_login=admits({"Federated": "cognito-identity.amazonaws.com"}, OURS),
        all_but_somebody=add(TOPIC_POLICY, policy=document(
            {"Effect": "Allow", "NotPrincipal": {"AWS": ROOT}, "Action": "sns:Publish", "Resource": "*"})),
        two_lists_of_statements=add(TOPIC_POLICY, policy='{"statement": [], "Statement": []}'),
        no_json=add(TOPIC_POLICY, policy="{"),
        a_role_for_a_stranger=trusts({"AWS": ROOT}),
        a_role_for_everybody=trusts("*"),
        a_role_for_another_login=trusts({"Federated": f"arn:aws:iam::{ACCOUNT}:oidc-provider/x"}),
        a_key_for_everybody=change(f"key-{R}", policy=document(allow("kms:*"))),
        a_key_for_a_stranger=change(f"key-{R}", policy=document(allow("kms:Decrypt", Principal={"AWS": ROOT}))),
        a_key_for_a_service_and_whoever_sends_it=change(
            f"key-{R}", policy=document(allow("kms:Decrypt", Principal={"Service": "s3.amazonaws.com"}))),
        a_key_with_awss_policy=change(f"key-{R}", policy=None),
        a_policy_inside_a_queue=change(f"queue-{R}", policy=document(allow("sqs:SendMessage"))),
        a_function_for_everybody=add(PERMISSION, principal="*", function=FUNCTION, action="lambda:InvokeFunction"),
        a_function_for_a_stranger=add(PERMISSION, principal=STRANGER, function=FUNCTION),
        a_function_for_a_service_of_anybodys=add(PERMISSION, principal="s3.amazonaws.com", function=FUNCTION,
                                                 sourceArn="arn:aws:s3:::b"),
    ),
    *breaks(
        "endpoints-have-policies",
        everybody_over_tls=endpoint("kms", allow("kms:Decrypt", "*", Condition=SECURE)),
        everybody_with_an_arn=endpoint("kms", allow("kms:Decrypt", "*", Condition=ANYBODY)),
        a_stranger=endpoint("kms", allow("kms:Decrypt", "*", Principal={"AWS": ROOT})),
        ours_into_any_bucket=endpoint("s3", allow("s3:PutObject", "*", Condition=OURS)),
        ours_into_buckets_by_a_pattern=endpoint("s3", allow(["s3:*"], "arn:aws:s3:::*", Condition=OURS)),
        ours_into_anybodys_tables=endpoint(
            "dynamodb", allow("dynamodb:PutItem", f"arn:aws:dynamodb:{R}:*:table/*", Condition=OURS)),
        everybody_into_a_named_bucket=endpoint("s3", allow("s3:PutObject", "arn:aws:s3:::b/*")),
        everybody_out_of_any_bucket=endpoint("s3", allow("s3:GetObject", "arn:aws:s3:::*")),
        nobody=endpoint("kms", {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "*"}),
    ),
    *breaks(
        "nothing-from-elsewhere",
        a_route_by_a_strangers_gateway=change(f"to-us-east-2-{R}", transitGatewayId="tgw-0123456789abcdef0"),
        a_route_of_the_mesh_to_elsewhere=change(
            f"mesh-us-east-2-{R}", transitGatewayAttachmentId="tgw-attach-0123456789abcdef0"),
        a_log_under_awss_key=change(f"log-{R}", kmsKeyId="alias/aws/logs"),
        a_disk_under_awss_key=change(f"hosts-{R}", blockDeviceMappings=[
            {"ebs": {"encrypted": "true", "kmsKeyId": "alias/aws/ebs"}}]),
        files_of_another_network=change(f"files-{R}", subnetIds="subnet-0123456789abcdef0"),
        one_subnet_of_another_network=change(
            f"attachment-{R}", subnetIds=[Ref(f"transit-1-{R}"), "subnet-0123456789abcdef0"]),
        targets_of_elsewhere=change(f"listener-{R}", defaultActions=[
            {"type": "forward", "targetGroupArn": f"arn:aws:elasticloadbalancing:{R}:{ACCOUNT}:targetgroup/t/0"}]),
        another_load_balancer_for_tenants=change(f"service-{R}", networkLoadBalancerArns=[
            f"arn:aws:elasticloadbalancing:{R}:{ACCOUNT}:loadbalancer/net/l/0"]),
    ),
    *breaks(
        "data-stays-where-it-is",
        logs_as_they_come=add("aws:cloudwatch/logSubscriptionFilter:LogSubscriptionFilter"),
        a_tables_changes=add("aws:dynamodb/kinesisStreamingDestination:KinesisStreamingDestination"),
        images_to_elsewhere=add("aws:ecr/replicationConfiguration:ReplicationConfiguration"),
        an_image_of_a_host=add("aws:ec2/amiFromInstance:AmiFromInstance"),
        another_way_into_a_bucket=add("aws:s3/accessPoint:AccessPoint"),
        snapshots_for_everybody=add("aws:ebs/snapshotBlockPublicAccess:SnapshotBlockPublicAccess", state="unblocked"),
        images_for_everybody=add("aws:ec2/imageBlockPublicAccess:ImageBlockPublicAccess", state="unblocked"),
    ),
    *breaks(
        "data-goes-to-own-buckets",
        models_to_a_strangers_bucket=replicates("arn:aws:s3:::strangers"),
        one_of_two=replicates(Ref("bucket-us-east-2"), "arn:aws:s3:::strangers"),
        models_from_a_strangers_bucket=add(ASSOCIATION, dataRepositoryPath="s3://strangers/models"),
        flow_logs=change("anycast", attributes={"flowLogsEnabled": True, "flowLogsS3Bucket": "strangers"}),
    ),
    *breaks(
        "targets-are-routers",
        the_administration=change(f"targets-{R}", port=8080),
        hosts=change(f"targets-{R}", targetType="instance"),
        opened_before=change(f"targets-{R}", protocol="TLS"),
        tasks_on_somebodys_machines=change(f"routers-{R}", launchType="EXTERNAL"),
        a_service_at_another_port=change(f"routers-{R}", loadBalancers=[{"containerPort": 8080}]),
    ),
    *breaks(
        "security-groups-as-listed",
        hosts_in_awss_default_group=change(f"hosts-{R}", networkInterfaces=[{"associatePublicIpAddress": "false"}]),
        files_in_awss_default_group=change(f"files-{R}", securityGroupIds=[]),
        a_group_of_elsewhere_beside_its_own=change(
            f"files-{R}", securityGroupIds=[Ref(f"fsx-{R}"), "sg-0123456789abcdef0"]),
        tasks_in_a_group_of_elsewhere=change(
            f"routers-{R}", networkConfiguration={"assignPublicIp": False, "securityGroups": ["sg-0123456789abcdef0"]}),
        a_default_group_as_aws_makes_it=gone(f"default-group-{R}"),
    ),
    *breaks(
        "accelerator-reaches-every-region",
        a_host_beside_the_load_balancer=change(f"group-{R}", endpointConfigurations=[
            {"endpointId": Ref(f"balancer-{R}"), "clientIpPreservationEnabled": True},
            {"endpointId": "i-0123456789abcdef0", "clientIpPreservationEnabled": True}]),
    ),
    *breaks(
        "encrypted-at-rest",
        a_hosts_disk_by_awss_key=change(f"hosts-{R}", blockDeviceMappings=[{"ebs": {"encrypted": "true"}}]),
        a_volume_by_awss_key=add("aws:ebs/volume:Volume", encrypted=True),
        images_by_awss_key=change(f"images-{R}", encryptionConfigurations=[{"encryptionType": "KMS"}]),
    ),
    *breaks(
        "buckets-are-private",
        a_grant_to_somebody=change(f"bucket-{R}", grants=[
            {"type": "CanonicalUser", "id": "79a5", "permissions": ["READ"]}]),
        an_object_for_everybody=add("aws:s3/bucketObject:BucketObject", bucket=Ref(f"bucket-{R}"), acl="public-read"),
    ),
    *breaks(
        "load-balancers-are-guarded",
        ipv6=change(f"balancer-{R}", ipAddressType="dualstack"),
    ),
    *breaks(
        "only-configured-regions",
        a_secret_copied_to_another_region=add(
            "aws:secretsmanager/secret:Secret", kmsKeyId=Ref(f"key-{R}"), replicas=[{"region": "eu-central-1"}]),
    ),
    *breaks(
        "no-other-door",
        connections_accepted_by_the_program=add("aws:ec2/vpcEndpointConnectionAccepter:VpcEndpointConnectionAccepter"),
        names_answered_elsewhere=add("aws:ec2/vpcDhcpOptions:VpcDhcpOptions", domainNameServers=["203.0.113.1"]),
        a_service_with_a_load_balancer_of_its_own=add("aws:ecs/expressGatewayService:ExpressGatewayService"),
        a_zone_for_another_accounts_network=add(
            "aws:route53/vpcAssociationAuthorization:VpcAssociationAuthorization", vpcId=Ref(f"vpc-{R}")),
        a_key_to_the_account=add("aws:iam/accessKey:AccessKey"),
        a_target_by_hand=add("aws:lb/targetGroupAttachment:TargetGroupAttachment", targetId="10.66.10.4"),
    ),
]  # fmt: skip

ACCEPTED: dict[str, Change] = {
    "a service on behalf of the account": admits(
        {"Service": "cloudwatch.amazonaws.com"}, {"StringEquals": {"aws:SourceAccount": ACCOUNT}}
    ),
    "the account itself": admits({"AWS": f"arn:aws:iam::{ACCOUNT}:root"}),
    "everybody of the account": admits({"AWS": "*"}, OURS),
    "a source of the account": admits(
        {"Service": "s3.amazonaws.com"}, {"ArnLike": {"aws:SourceArn": f"arn:aws:sns:*:{ACCOUNT}:*"}}
    ),
    "a role for a service": trusts({"Service": "ec2.amazonaws.com"}),
    "a function for a rule of the account": add(
        PERMISSION,
        principal="events.amazonaws.com",
        function=FUNCTION,
        sourceArn=f"arn:aws:events:{R}:{ACCOUNT}:rule/r",
    ),
    "AWS's own layers": endpoint("s3", allow("s3:GetObject", f"arn:aws:s3:::prod-{R}-starport-layer-bucket/*")),
    "our buckets by our roles": endpoint(
        "s3",
        allow(
            ["s3:*"],
            "*",
            Condition={"StringEquals": {"aws:PrincipalAccount": ACCOUNT, "aws:ResourceAccount": ACCOUNT}},
        ),
    ),
    "tenants' keys by our roles": endpoint("kms", allow("kms:Decrypt", f"arn:aws:kms:{R}:*:key/*", Condition=OURS)),
    "replication to the next region": replicates(Ref("bucket-us-east-2")),
    "models of the region": add(ASSOCIATION, dataRepositoryPath=Ref(f"bucket-{R}")),
}
"""What comes close to a break, and is needed."""


def tenant_key() -> Made:
    """A key that says it is a tenant's; the enclave pack judges its policy, which names the platform's account."""
    policy = document(allow("kms:Decrypt", Principal={"AWS": f"arn:aws:iam::{STRANGER}:role/host"}))
    return made("aws:kms/key:Key", "tenant", R, tags={"mrgc:key": "tenant"}, policy=policy)
