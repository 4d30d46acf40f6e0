"""Pulumi's names in Terraform's words: pulumi-aws is the Terraform provider with its names changed by rule.

`aws:ec2/flowLog:FlowLog` is `aws_flow_log`, `targetGroupArns` is `target_group_arns`, and a list's name may be plural
where the provider's is not. What no rule gives is in the two tables below; a name that neither gives is None, and the
check that asks must say so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

TYPES: Final = {
    "aws:ec2transitgateway/transitGateway:TransitGateway": "aws_ec2_transit_gateway",
    "aws:lb/loadBalancer:LoadBalancer": "aws_lb",
    "aws:s3/bucketReplicationConfig:BucketReplicationConfig": "aws_s3_bucket_replication_configuration",
}
"""Resource types whose name no rule gives."""

ATTRIBUTES: Final = {
    ("aws_cloudwatch_metric_alarm", "name"): "alarm_name",
    ("aws_lambda_function", "name"): "function_name",
    ("aws_lambda_permission", "function"): "function_name",
}
"""Arguments whose name no rule gives, by Terraform type and Pulumi name."""

PHYSICAL_NAMES: Final = {"aws_s3_bucket": "bucket"}
"""The argument that Pulumi fills with a name of its own making; `name` where a type is not listed."""

Block = Mapping[str, Any]
"""A block of the provider's schema: `attributes` and `block_types` by name."""


def snake(name: str) -> str:
    """`tcpIdleTimeoutSeconds` as `tcp_idle_timeout_seconds`."""
    return re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()


def resource_type(token: str, schemas: Mapping[str, Any]) -> str | None:
    """The Terraform type of a Pulumi token: `aws_<module>_<class>` if there is one, else `aws_<class>`, else None."""
    if token in TYPES:
        return TYPES[token]
    _, module, class_ = token.split(":")
    plain = {known.replace("_", ""): known for known in schemas}
    for name in (module.split("/")[0] + class_, class_):
        found = plain.get("aws" + name.lower())
        if found is not None:
            return found
    return None


def attribute_name(argument: str, block: Block, resource: str = "") -> str | None:
    """A Pulumi argument's name in this block, or None. `resource` is the Terraform type if the block is its own."""
    special = ATTRIBUTES.get((resource, argument))
    if special is not None:
        return special
    known = {*block.get("attributes", ()), *block.get("block_types", ())}
    name = snake(argument)
    for candidate in (name, *_singulars(name), *_plurals(name)):
        if candidate in known:
            return candidate
    # `ipv4` and the like: Pulumi has no underscore where a digit stands.
    plain = {one.replace("_", ""): one for one in known}
    return plain.get(name.replace("_", ""))


def physical_name(resource: str, logical: str) -> str:
    """A name as Pulumi makes it up for a resource that was given none: the logical name, a dash and seven digits."""
    made = f"{logical}-0123456"
    return made.lower() if resource == "aws_s3_bucket" else made


def _singulars(word: str) -> list[str]:
    endings = (("ies", "y"), ("es", ""), ("s", ""))
    return [word.removesuffix(plural) + single for plural, single in endings if word.endswith(plural)]


def _plurals(word: str) -> list[str]:
    return [word + "s", word + "es", *([word[:-1] + "ies"] if word.endswith("y") else [])]
