"""Rules that keep the other rules from being gone around: what they can't read is not made, and nothing is borrowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from policies.enclave.hosts import TEMPLATE
from policies.enclave.roles import ATTACHMENTS, ROLE, attached
from policies.rule import UNKNOWN, Config, Resource, ResourceRule, Rule, Setting, StackRule, at, known, like, listed

PREFIXES: Final = Setting(
    name="resourcePrefixes",
    description="Prefixes of the resource types that the packs can judge. A resource of any other provider is refused.",
    default=["aws:", "pulumi:", "mrgc:"],
    schema={"type": "array", "items": {"type": "string"}},
)

HIDING: Final = {
    "aws:cloudformation/": "makes resources from a template that no rule reads",
    "aws:cloudcontrol/": "makes a resource from a document that no rule reads",
    "aws:servicecatalog/provisionedProduct:ProvisionedProduct": "makes resources from a product that no rule reads",
    "aws:lambda/invocation:Invocation": "runs code at deployment",
}

GROUP: Final = "aws:autoscaling/group:Group"
FLEET: Final = "aws:ec2/fleet:Fleet"
SPOT_FLEET: Final = "aws:ec2/spotFleetRequest:SpotFleetRequest"
INSTANCE: Final = "aws:ec2/instance:Instance"
CUSTOMER_POLICY: Final = "aws:iam/policy:Policy"
PROFILE: Final = "aws:iam/instanceProfile:InstanceProfile"

TAKES: Final[dict[str, tuple[tuple[str, tuple[str, ...]], ...]]] = {
    "aws:ecs/taskDefinition:TaskDefinition": ((ROLE, ("taskRoleArn",)), (ROLE, ("executionRoleArn",))),
    "aws:lambda/function:Function": ((ROLE, ("role",)),),
    PROFILE: ((ROLE, ("role",)),),
    "aws:ec2/flowLog:FlowLog": ((ROLE, ("iamRoleArn",)),),
    "aws:s3/bucketReplicationConfig:BucketReplicationConfig": ((ROLE, ("role",)),),
    TEMPLATE: ((PROFILE, ("iamInstanceProfile", "arn")), (PROFILE, ("iamInstanceProfile", "name"))),
    INSTANCE: ((PROFILE, ("iamInstanceProfile",)),),
    "aws:ec2/spotInstanceRequest:SpotInstanceRequest": ((PROFILE, ("iamInstanceProfile",)),),
    "aws:ec2/launchConfiguration:LaunchConfiguration": ((PROFILE, ("iamInstanceProfile",)),),
}
"""What takes a role, by itself or by an instance profile, and the path of the property that names it."""


def readable(resource: Resource, config: Config) -> Iterator[str]:
    """A resource is of a kind that the rules read, and hides no others."""
    prefixes = [str(prefix) for prefix in listed(PREFIXES.read(config))]
    if not any(resource.type.startswith(prefix) for prefix in prefixes):
        yield f"{resource.type} is of a provider that the rules can't judge."
    for prefix, what in HIDING.items():
        if resource.type.startswith(prefix):
            yield f"{resource.type} {what}."


def own_parts(resources: Sequence[Resource], _: Config) -> Iterator[tuple[str, str | None]]:
    """Hosts start from this program's templates, and take this program's roles, which have this program's policies."""
    kinds = (TEMPLATE, CUSTOMER_POLICY, ROLE, PROFILE)
    sources = {kind: {one.urn: one for one in resources if one.type == kind} for kind in kinds}
    for one in resources:
        for kind, what, key, reference in _references(one):
            made_from = [sources[kind][urn] for urn in one.depends.get(key, ()) if urn in sources[kind]]
            if made_from and any(_not_yet_comparable(source, reference) for source in made_from):
                # Before an update there is no id to compare; what the value is made from says enough.
                continue
            names = {name for source in sources[kind].values() for name in _names(source)}
            if known(reference, f"{one.name}.{key}") not in names:
                yield f"{one.name} uses the {what} {reference}, which this program does not make.", one.urn
        for version in _versions(one):
            if isinstance(version, str) and version.startswith("$"):
                yield (
                    f"{one.name} uses the launch template's version {version}, made by whoever; give latest_version.",
                    one.urn,
                )


def _not_yet_comparable(source: Resource, reference: Any) -> bool:
    by_arn = isinstance(reference, str) and reference.startswith("arn:")
    return reference is UNKNOWN or not _names(source) or (by_arn and not isinstance(source.at("arn"), str))


def _names(source: Resource) -> set[str]:
    """By what a source may be referred to, as far as it is known."""
    return {value for key in ("id", "arn", "name") if isinstance(value := source.at(key), str)}


def _references(one: Resource) -> Iterator[tuple[str, str, str, Any]]:
    """What a resource borrows: kind of the source, its name in words, the property, and its id, name or ARN."""
    if one.type in (*ATTACHMENTS, ROLE):
        for arn in attached(one):
            key = "managedPolicyArns" if one.type == ROLE else "policyArn"
            if not (isinstance(arn, str) and like(arn, "arn:*:iam::aws:policy/*")):
                yield CUSTOMER_POLICY, "policy", key, arn
    for kind, path in TAKES.get(one.type, ()):
        taken = one.at(*path)
        if taken is UNKNOWN or taken not in (None, ""):
            yield kind, "role" if kind == ROLE else "instance profile", path[0], taken
    if one.type == GROUP and one.at("launchConfiguration") is not None:
        yield TEMPLATE, "launch configuration", "launchConfiguration", one.at("launchConfiguration")
    if one.type in (GROUP, INSTANCE):
        yield from _of_specification(one.at("launchTemplate"), "launchTemplate")
        yield from _mixed(one.at("mixedInstancesPolicy"), "mixedInstancesPolicy")
    elif one.type in (FLEET, SPOT_FLEET):
        for entry in listed(one.at("launchTemplateConfigs")):
            yield from _of_specification(at(entry, "launchTemplateSpecification"), "launchTemplateConfigs")


def _versions(one: Resource) -> Iterator[Any]:
    """The versions of launch templates that something starts from."""
    if one.type in (GROUP, INSTANCE, FLEET, SPOT_FLEET):
        yield from _held(one.props, "version")


def _held(value: Any, key: str) -> Iterator[Any]:
    """Every value of a key at any depth."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == key:
                yield inner
            yield from _held(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from _held(inner, key)


def _mixed(policy: Any, key: str) -> Iterator[tuple[str, str, str, Any]]:
    for one in listed(policy):
        template = at(one, "launchTemplate")
        yield from _of_specification(at(template, "launchTemplateSpecification"), key)
        for override in listed(at(template, "overrides")):
            yield from _of_specification(at(override, "launchTemplateSpecification"), key)


def _of_specification(specification: Any, key: str) -> Iterator[tuple[str, str, str, Any]]:
    for one in listed(specification):
        found = [at(one, name) for name in ("id", "launchTemplateId", "name", "launchTemplateName")]
        # AWS shows both an id and a name where either was given; the id can't come to mean another template.
        yield from [(TEMPLATE, "launch template", key, value) for value in found if value not in (None, "")][:1]


RULES: Final[list[Rule]] = [
    ResourceRule(
        "nothing-unreadable",
        readable,
        settings=(PREFIXES,),
        protects="Every resource is one that these rules can read, so that none of them is gone around by making the "
        "same thing by another name.",
        fix="Make it with the resources of the AWS provider itself.",
    ),
    StackRule(
        "nothing-borrowed",
        own_parts,
        protects="Hosts start from templates, and hosts, tasks and functions have roles with policies, that these "
        "rules have judged.",
        fix="Make the launch template, the role, the instance profile or the policy in this program, and start hosts "
        "from a version by its number.",
    ),
]
