"""A resource without a provider: with default providers disabled it has no region to fall into."""

import pulumi_aws as aws

aws.ec2.Vpc("orphan", cidr_block="10.66.0.0/18")
