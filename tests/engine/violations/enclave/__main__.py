"""A GPU launch template whose hosts would run no enclave."""

import pulumi
import pulumi_aws as aws

region = aws.Provider("aws-us-east-1", region="us-east-1")
aws.ec2.LaunchTemplate(
    "no-enclave",
    instance_type="g6e.2xlarge",
    enclave_options=aws.ec2.LaunchTemplateEnclaveOptionsArgs(enabled=False),
    metadata_options=aws.ec2.LaunchTemplateMetadataOptionsArgs(
        http_endpoint="enabled", http_tokens="required", http_put_response_hop_limit=1
    ),
    opts=pulumi.ResourceOptions(provider=region),
)
