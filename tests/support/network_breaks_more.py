"""What breaks just one rule of the network pack: the mesh, endpoints, logs, load balancers, data at rest, tables."""

from __future__ import annotations

from tests.support.network_breaks import Break, R, add, both, breaks, change, gone, health, replicas, role, swap
from tests.support.network_world import Ref, allow, document, made, table

TRANSIT = "aws:ec2transitgateway/"
ENDPOINT = "aws:ec2/vpcEndpoint:VpcEndpoint"

BREAKS: list[Break] = [
    *breaks(
        "transit-routes-only-to-region-blocks",
        everything=change(f"drop-{R}", blackhole=None, destinationCidrBlock="0.0.0.0/0"),
        the_whole_cluster=change(f"drop-{R}", blackhole=False, destinationCidrBlock="10.66.0.0/16"),
        propagation=add(TRANSIT + "routeTablePropagation:RouteTablePropagation"),
        a_prefix_list=add(TRANSIT + "prefixListReference:PrefixListReference"),
        no_destination=change(f"mesh-{R}-{R}", destinationCidrBlock=None),
    ),
    *breaks(
        "transit-gateways-wait-for-routes",
        association=change(f"gateway-{R}", defaultRouteTableAssociation="enable"),
        propagation_left_to_aws=change(f"gateway-{R}", defaultRouteTablePropagation=None),
        acceptance=change(f"gateway-{R}", autoAcceptSharedAttachments="enable"),
    ),
    *breaks(
        "transit-mesh-is-full",
        a_pair_without_peering=gone(f"peering-{R}-us-west-2", f"accept-{R}-us-west-2"),
        a_peering_not_accepted=gone(f"accept-{R}-us-west-2"),
        accepted_elsewhere=swap(f"accept-{R}-us-west-2", made(
            TRANSIT + "peeringAttachmentAccepter:PeeringAttachmentAccepter", f"accept-{R}-us-west-2", R,
            transitGatewayAttachmentId=Ref(f"peering-{R}-us-west-2"))),
        a_gateway_of_elsewhere=change(f"peering-{R}-us-west-2", peerTransitGatewayId="tgw-0"),
        a_network_not_attached=gone(f"attachment-{R}"),
    ),
    *breaks(
        "tiers-hold-what-is-theirs",
        hosts_in_the_public_tier=add("aws:autoscaling/group:Group", vpcZoneIdentifiers=[
            Ref(f"private-1-{R}"), Ref(f"public-1-{R}")]),
        routers_in_the_public_tier=change(f"routers-{R}", networkConfiguration={
            "subnets": [Ref(f"public-1-{R}")], "securityGroups": [Ref(f"router-{R}")]}),
        files_beside_hosts=change(f"files-{R}", subnetIds=Ref(f"private-1-{R}")),
        a_gateway_in_the_private_tier=change(f"attachment-{R}", subnetIds=[Ref(f"private-1-{R}")]),
        a_load_balancer_among_hosts=change(f"balancer-{R}", subnets=[Ref(f"private-1-{R}")]),
        what_is_not_named=add("aws:ec2/networkInterface:NetworkInterface", subnetId=Ref(f"private-1-{R}")),
    ),
    *breaks(
        "endpoints-have-policies",
        no_policy=change(f"endpoint-kms-{R}", policy=None),
        everything=change(f"endpoint-kms-{R}", policy=document(allow("*", "*"))),
        everything_with_a_condition=change(
            f"endpoint-kms-{R}", policy=document(allow("*", "*", Condition={"StringEquals": {"aws:x": "y"}}))),
        everybody_everywhere=change(f"endpoint-kms-{R}", policy=document(allow("kms:*", "*"))),
        everybody_by_another_word=change(
            f"endpoint-kms-{R}", policy=document(allow("kms:*", "*", Principal={"AWS": "*"}))),
        all_but_one_action=change(f"endpoint-kms-{R}", policy=document(
            {"Effect": "Allow", "Principal": "*", "NotAction": "kms:ReEncrypt*", "Resource": "arn:aws:kms:x"})),
        no_json=change(f"endpoint-kms-{R}", policy="{"),
        one_wide_statement_of_two=change(
            f"endpoint-s3-{R}", policy=document(allow("s3:GetObject"), allow("s3:PutObject", "*"))),
        a_policy_beside=add("aws:ec2/vpcEndpointPolicy:VpcEndpointPolicy", policy=document(allow("*", "*"))),
        somebody_elses_service=add(ENDPOINT, vpcEndpointType="Interface", privateDnsEnabled=True,
                                   securityGroupIds=[Ref(f"endpoints-{R}")], policy=document(allow("x:Get*")),
                                   serviceName=f"com.amazonaws.vpce.{R}.vpce-svc-0"),
        another_type=add(ENDPOINT, vpcEndpointType="Resource", policy=document(allow("x:Get*")),
                         serviceName=f"com.amazonaws.{R}.s3"),
        no_private_name=change(f"endpoint-kms-{R}", privateDnsEnabled=False),
        the_default_group=change(f"endpoint-kms-{R}", securityGroupIds=[]),
    ),
    *breaks(
        "endpoints-for-every-service",
        always_needed=gone(f"endpoint-sts-{R}"),
        a_tasks_permission=gone(f"endpoint-xray-{R}"),
        an_instances_permission=role("ec2.amazonaws.com", "ssm:GetParameter"),
        every_action_of_a_service=role("ecs-tasks.amazonaws.com", "secretsmanager:*"),
        everything=role("ec2.amazonaws.com", "*"),
        an_api_that_has_no_endpoint=role("ecs-tasks.amazonaws.com", "globalaccelerator:UpdateEndpointGroup"),
        a_function_in_the_network=both(
            role("lambda.amazonaws.com", "sns:Publish"),
            add("aws:lambda/function:Function", R, "f", role=Ref("asker"), vpcConfig={
                "subnetIds": ["s"], "securityGroupIds": [Ref(f"control-{R}")]}),
        ),
        an_attached_policy=both(
            add("aws:iam/policy:Policy", R, "p", policy=document(
                {"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": "*"})),
            add("aws:iam/rolePolicyAttachment:RolePolicyAttachment", role=Ref(f"role-{R}"), policyArn=Ref("p")),
        ),
        inside_the_role=change(f"role-{R}", inlinePolicies=[{"policy": document(
            {"Effect": "Allow", "Action": ["sns:Publish"], "Resource": "*"})}]),
    ),
    *breaks(
        "endpoint-service-requires-acceptance",
        none=change(f"service-{R}", acceptanceRequired=False),
        not_said=change(f"service-{R}", acceptanceRequired=None),
        everybody=change(f"service-{R}", allowedPrincipals=["*"]),
        every_role_of_an_account=change(f"service-{R}", allowedPrincipals=["arn:aws:iam::111122223333:role/*"]),
        everybody_beside=add(
            "aws:ec2/vpcEndpointServiceAllowedPrinciple:VpcEndpointServiceAllowedPrinciple", principalArn="*"),
    ),
    *breaks(
        "logs-kept-long-enough",
        a_month=add("aws:cloudwatch/logGroup:LogGroup", retentionInDays=30, kmsKeyId=Ref(f"key-{R}")),
        the_short_class=add("aws:cloudwatch/logGroup:LogGroup", logGroupClass="DELIVERY", kmsKeyId=Ref(f"key-{R}")),
        a_bucket=change(f"expiry-{R}", rules=[{"expiration": {"days": 90}}, {"id": "x", "expiration": {"days": 7}}]),
        a_bucket_by_date=change(f"expiry-{R}", rules=[{"expiration": {"date": "2027-01-01T00:00:00Z"}}]),
    ),
    *breaks(
        "flow-logs-on-every-network",
        none=gone(f"flows-{R}"),
        only_what_was_refused=change(f"flows-{R}", trafficType="REJECT"),
        of_a_subnet_only=change(f"flows-{R}", vpcId=None, subnetId=Ref(f"public-1-{R}")),
        into_somebody_elses_log=change(f"flows-{R}", logDestination="arn:aws:logs:us-east-1:1:log-group:x"),
    ),
    *breaks(
        "load-balancers-are-guarded",
        public=change(f"balancer-{R}", internal=False),
        public_by_default=change(f"balancer-{R}", internal=None),
        opening_tls=change(f"balancer-{R}", loadBalancerType="application"),
        no_group=change(f"balancer-{R}", securityGroups=[]),
        past_the_group=change(f"balancer-{R}", enforceSecurityGroupInboundRulesOnPrivateLinkTraffic="off"),
    ),
    *breaks(
        "listeners-as-listed",
        another_port=change(f"listener-{R}", port=22),
        tls_that_ends_here=change(f"listener-{R}", protocol="TLS"),
        a_range_at_the_accelerator=change("anycast-listener", portRanges=[{"fromPort": 443, "toPort": 8080}]),
        udp_at_the_accelerator=change("anycast-listener", protocol="UDP"),
    ),
    *breaks(
        "health-checks-meet-the-failover-budget",
        slow=health(interval=30),
        patient=health(unhealthyThreshold=3),
        a_long_time_out=health(timeout=20),
        thresholds_of_aws=health(unhealthyThreshold=""),
        an_interval_of_aws=health(interval=""),
        by_tcp=health(protocol="TCP", path=""),
        no_path=health(path=""),
        off=health(enabled=False),
        takes_errors=health(matcher="200,503"),
        none=change(f"targets-{R}", healthCheck=None),
    ),
    *breaks(
        "accelerator-keeps-client-addresses",
        hidden=change(f"group-{R}", endpointConfigurations=[
            {"endpointId": Ref(f"balancer-{R}"), "clientIpPreservationEnabled": False}]),
        not_said=change(f"group-{R}", endpointConfigurations=[{"endpointId": Ref(f"balancer-{R}")}]),
        another_accounts=change(f"group-{R}", endpointConfigurations=[
            {"endpointId": Ref(f"balancer-{R}"), "clientIpPreservationEnabled": True, "attachmentArn": "arn:aws:x"}]),
    ),
    *breaks(
        "accelerator-keeps-flow-logs",
        off=change("anycast", attributes={"flowLogsEnabled": False, "flowLogsS3Bucket": Ref("bucket-us-east-1")}),
        not_said=change("anycast", attributes=None),
        nowhere=change("anycast", attributes={"flowLogsEnabled": True}),
    ),
    *breaks(
        "accelerator-reaches-every-region",
        a_region_less=gone(f"group-{R}"),
        a_region_twice=change(f"group-{R}", endpointGroupRegion="us-east-2", endpointConfigurations=[
            {"endpointId": Ref("balancer-us-east-2"), "clientIpPreservationEnabled": True}]),
        another_regions_load_balancer=change(f"group-{R}", endpointConfigurations=[
            {"endpointId": Ref("balancer-us-east-2"), "clientIpPreservationEnabled": True}]),
        no_accelerator=gone("anycast", "anycast-listener", *(f"group-{one}" for one in (R, "us-east-2", "us-west-2"))),
    ),
    *breaks(
        "encrypted-at-rest",
        a_log=change(f"log-{R}", kmsKeyId=None),
        a_topic=change(f"topic-{R}", kmsMasterKeyId=None),
        a_queue=change(f"queue-{R}", sqsManagedSseEnabled=False),
        files=change(f"files-{R}", kmsKeyId=None),
        images=change(f"images-{R}", encryptionConfigurations=None),
        images_with_anothers_key=change(f"images-{R}", encryptionConfigurations=[{"encryptionType": "AES256"}]),
        a_hosts_disk=change(f"hosts-{R}", blockDeviceMappings=[{"ebs": {"encrypted": "false"}}]),
        a_hosts_second_disk=change(f"hosts-{R}", blockDeviceMappings=[
            {"ebs": {"encrypted": "true"}}, {"deviceName": "/dev/sdb", "ebs": {"volumeSize": 10}}]),
        disks_of_the_image=change(f"hosts-{R}", blockDeviceMappings=None),
        a_volume=add("aws:ebs/volume:Volume", size=1),
        a_copy_of_an_image=add("aws:ec2/amiCopy:AmiCopy", encrypted=False),
        an_accounts_default=add("aws:ebs/encryptionByDefault:EncryptionByDefault", enabled=False),
        an_instances_disk=add("aws:ec2/instance:Instance", rootBlockDevice={"volumeSize": 8}),
        a_tasks_volume=change(f"routers-{R}", volumeConfiguration={"managedEbsVolume": {"encrypted": False}}),
        a_table=change("metrics", serverSideEncryption=None),
        a_table_with_awss_key=change("metrics", serverSideEncryption={"enabled": True}),
        a_replica=replicas("metrics", kmsKeyArn=""),
        a_secret=add("aws:secretsmanager/secret:Secret"),
        a_secret_parameter=change(f"tls-{R}", type="String"),
        a_buckets_algorithm=change(f"sealed-{R}", rules=[{"bucketKeyEnabled": True}]),
        awss_key_for_a_bucket=change(
            f"sealed-{R}", rules=[{"applyServerSideEncryptionByDefault": {"sseAlgorithm": "aws:kms"}}]),
    ),
    *breaks(
        "buckets-are-private",
        one_way_open=change(f"closed-{R}", restrictPublicBuckets=False),
        not_said=change(f"closed-{R}", blockPublicPolicy=None),
        an_acl=change(f"bucket-{R}", acl="public-read"),
        a_website=add("aws:s3/bucketWebsiteConfiguration:BucketWebsiteConfiguration", bucket=Ref(f"bucket-{R}")),
    ),
    *breaks(
        "buckets-are-guarded",
        no_encryption=gone(f"sealed-{R}"),
        no_block=gone(f"closed-{R}"),
        anothers_block=change(f"closed-{R}", bucket=Ref("bucket-us-east-2")),
    ),
    *breaks(
        "tables-in-every-region",
        a_region_less=swap("metrics", table("metrics", "us-east-2")),
        none=swap("metrics", table("metrics")),
        weak_leases=swap("routing_state", table("routing_state", "us-east-2", "us-west-2")),
        two_consistencies=replicas("routing_state", consistencyMode="EVENTUAL"),
        a_region_twice=swap("metrics", table("metrics", "us-east-2", "us-east-2")),
        a_witness=change("routing_state", globalTableWitness={"regionName": "us-west-2"}),
        a_replica_beside=add("aws:dynamodb/tableReplica:TableReplica", kmsKeyArn="k"),
        the_old_kind=add("aws:dynamodb/globalTable:GlobalTable"),
    ),
    *breaks(
        "tables-are-protected",
        no_recovery=change("metrics", pointInTimeRecovery=None),
        recovery_off=change("metrics", pointInTimeRecovery={"enabled": False}),
        no_protection=change("metrics", deletionProtectionEnabled=False),
        a_replica_without_recovery=replicas("metrics", pointInTimeRecovery=False),
        a_replica_without_protection=replicas("metrics", deletionProtectionEnabled=""),
    ),
]  # fmt: skip
