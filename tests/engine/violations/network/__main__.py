"""A subnet for hosts whose instances would get public addresses."""

import pulumi
import pulumi_aws as aws

region = aws.Provider("aws-us-east-1", region="us-east-1", allowed_account_ids=["123456789012"])
network = aws.ec2.Vpc("network", cidr_block="10.66.0.0/18", opts=pulumi.ResourceOptions(provider=region))
aws.ec2.Subnet(
    "public-hosts",
    vpc_id=network.id,
    cidr_block="10.66.10.0/23",
    map_public_ip_on_launch=True,
    tags={"mrgc:tier": "private"},
    opts=pulumi.ResourceOptions(provider=region),
)
