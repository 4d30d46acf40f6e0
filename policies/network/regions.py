"""Rules over where things are, and of what kind: configured regions only, and nothing that no rule reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from policies.network.configuration import REGIONS, TEXTS, blocks
from policies.rule import UNKNOWN, Config, Resource, ResourceRule, Rule, Setting, known, listed

PROVIDER: Final = "pulumi:providers:aws"
GLOBAL: Final = Setting(
    name="globalServices",
    description="Services without a region, by the beginning of their types.",
    default=["aws:iam/", "aws:route53/", "aws:globalaccelerator/"],
    schema=TEXTS,
)
ELSEWHERE: Final = Setting(
    name="elsewhere",
    description="What may be in regions that are not configured: types by their beginning, or the components around "
    "them. Global Accelerator's API and its logs are in us-west-2 alone.",
    default={"us-west-2": ["aws:globalaccelerator/", "mrgc:accelerator:Accelerator"]},
    schema={"type": "object", "additionalProperties": TEXTS},
)
PACKAGES: Final = Setting(
    name="packages",
    description="Pulumi packages whose resources these rules read, or that make none in AWS.",
    default=["aws", "mrgc", "pulumi"],
    schema=TEXTS,
)
SERVICES: Final = Setting(
    name="allowedServices",
    description="AWS services whose resources the rules of this pack judge, as types name them.",
    default=[
        "appautoscaling",
        "autoscaling",
        "cloudtrail",
        "cloudwatch",
        "dynamodb",
        "ebs",
        "ec2",
        "ec2transitgateway",
        "ecr",
        "ecs",
        "fsx",
        "globalaccelerator",
        "iam",
        "kms",
        "lambda",
        "lb",
        "route53",
        "s3",
        "secretsmanager",
        "sns",
        "sqs",
        "ssm",
        "vpc",
    ],
    schema=TEXTS,
)
NAMES_REGION: Final = frozenset(
    {
        "peerRegion",
        "endpointGroupRegion",
        "serviceRegion",
        "supportedRegions",
        "destinationRegion",
        "targetRegion",
        "vpcRegion",
        "regionName",
        "resourceRegion",
        "replicaRegion",
        "sourceRegion",
        "sourceAmiRegion",
    }
)
"""Properties by which a resource of one region reaches into another, at whatever depth."""


def in_configured_regions(resource: Resource, config: Config) -> Iterator[str]:
    """A resource is in a configured region, and names no other."""
    regions = blocks(config)
    listing = ", ".join(regions)
    elsewhere: Mapping[str, Any] = ELSEWHERE.read(config)
    if resource.type == PROVIDER:
        region = known(resource.at("region"), "region")
        if region not in regions and region not in elsewhere:
            yield f"It is a provider for {region or 'no region'}; the regions are {listing}."
        return
    if not resource.type.startswith("aws:"):
        return
    if not any(resource.type.startswith(prefix) for prefix in GLOBAL.read(config)):
        region = known(resource.region, "region")
        if region is None:
            yield f"It has neither a region nor a provider with one; the regions are {listing}."
        elif region not in regions and not _allowed_elsewhere(resource, listed(elsewhere.get(region))):
            yield f"It is in {region}; the regions are {listing}."
    for path, value in _named(resource.props):
        for region in listed(known(value, path)):
            if region not in (None, "") and known(region, path) not in regions:
                yield f"{path} is {region}; the regions are {listing}."


def _allowed_elsewhere(resource: Resource, allowed: Sequence[Any]) -> bool:
    return any(resource.type.startswith(str(one)) or one in resource.components for one in allowed)


def _named(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            # At the top it is the resource's own.
            if key in NAMES_REGION or (key == "region" and path and not path.startswith("tags.")):
                yield f"{path}{key}", inner
            elif inner is not UNKNOWN:
                yield from _named(inner, f"{path}{key}.")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _named(inner, f"{path}{number}.")


def has_rules(resource: Resource, config: Config) -> Iterator[str]:
    """A resource is of a package and a service that the rules read."""
    package, _, rest = resource.type.partition(":")
    if package == "pulumi" and rest.startswith("providers:"):
        package = rest.removeprefix("providers:")
    elif package == "aws":
        service = rest.partition("/")[0].partition(":")[0]
        allowed = SERVICES.read(config)
        if service not in allowed:
            yield f"No rule of this pack reads {service}; the services are {', '.join(allowed)}."
    packages = PACKAGES.read(config)
    if package not in packages:
        yield f"No rule of this pack reads the package {package}; the packages are {', '.join(packages)}."


RULES: Final[list[Rule]] = [
    ResourceRule(
        "only-configured-regions",
        in_configured_regions,
        protects="Data stays where tenants were told that it is, and a provider that was forgotten creates nothing "
        "in whatever region the environment names.",
        fix="Give the resource the provider of a configured region, or configure the region in every rule.",
        settings=(REGIONS, GLOBAL, ELSEWHERE),
    ),
    ResourceRule(
        "only-services-with-rules",
        has_rules,
        protects="A resource of a service that no rule reads is judged by none: a stack inside a stack, a database, "
        "or AWS by another package.",
        fix="Do without it, or write its rules, and then name the service or package in the settings.",
        settings=(PACKAGES, SERVICES),
    ),
]
