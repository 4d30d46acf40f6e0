"""What AWS would compute for a resource, made up the same way for mocks and for the provider stand-in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

ACCOUNT = "123456789012"

COMPUTED = (
    "arnSuffix", "associationDefaultRouteTableId", "bucketRegionalDomainName", "defaultNetworkAclId", "dnsName",
    "endpoint", "hostedZoneId",
    "invokeArn", "keyId", "mountName", "networkInterfaceId", "prefixListId", "qualifiedArn", "repositoryUrl",
    "serviceName", "streamArn", "uniqueId", "url", "zoneId",
)  # fmt: skip
"""Outputs that programs read and no input sets; every resource gets all of them."""

GLOBAL = ("iam", "globalaccelerator", "cloudfront", "route53")
"""Services whose ARNs name no region."""


def identity(type_: str, name: str) -> str:
    """A resource's id: the same for the same type and name."""
    return f"{name}-{hashlib.sha256(f'{type_}::{name}'.encode()).hexdigest()[:8]}"


def arn(service: str, region: str, ident: str) -> str:
    """An ARN as far as programs care: the service, the region that it is in, and the resource's id at its end."""
    if service == "s3":
        return f"arn:aws:s3:::{ident}"
    return f"arn:aws:{service}:{'' if service in GLOBAL else region}:{ACCOUNT}:{ident}"


def outputs(type_: str, name: str, inputs: Mapping[str, Any], region: str) -> dict[str, Any]:
    """A resource's state after creation: its inputs, and what AWS computes. `region` is its provider's."""
    ident = identity(type_, name)
    service = type_.split(":")[1].split("/", maxsplit=1)[0]
    # Auto-naming adds a suffix, so that a logical name used as the physical one shows.
    state: dict[str, Any] = {"name": ident, "region": region, **inputs}
    for key in COMPUTED:
        state.setdefault(key, f"{key}-{ident}")
    state.setdefault("arn", arn(service, state["region"], ident))
    if type_ == "aws:globalaccelerator/accelerator:Accelerator":
        state["ipSets"] = [{"ipFamily": "IPv4", "ipAddresses": ["192.0.2.1", "192.0.2.2"]}]
    if type_ == "aws:ec2/vpcEndpoint:VpcEndpoint":
        state["dnsEntries"] = [{"dnsName": f"{ident}.vpce.example", "hostedZoneId": "Z1"}]
    if type_ == "aws:ec2/launchTemplate:LaunchTemplate":
        state["latestVersion"] = 1
    return state
