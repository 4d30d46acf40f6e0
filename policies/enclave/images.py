"""Rules over what runs: container images by digest, and published registers and versions that belong together."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from policies.enclave.measurements import MEASUREMENTS, fault, published
from policies.rule import Config, Resource, ResourceRule, Rule, StackRule, at, is_true, known, listed, plain

TASK: Final = "aws:ecs/taskDefinition:TaskDefinition"
FUNCTION: Final = "aws:lambda/function:Function"
REPOSITORY: Final = "aws:ecr/repository:Repository"
PARAMETER: Final = "aws:ssm/parameter:Parameter"

_DIGEST: Final = re.compile(
    r"([a-zA-Z0-9][a-zA-Z0-9.-]*(:[0-9]+)?/)?[a-z0-9][a-z0-9._/-]*@sha256:[0-9a-f]{64}", re.ASCII
)
_IMAGE_PARAMETER: Final = re.compile(r"/mrgc/[^/]+/images/[^/]+", re.ASCII)
_MEASUREMENT_PARAMETER: Final = re.compile(r"(/mrgc/[^/]+)/measurements/(pcr([0-9]+)|eif_version)", re.ASCII)


def by_digest(resource: Resource, _: Config) -> Iterator[str]:
    """Every container image is named by its digest."""
    for what, image in _images(resource):
        if not isinstance(image, str) or not _DIGEST.fullmatch(image):
            yield f"{what} runs the image {image!r}, which is not named by a digest alone (name@sha256:...)."


def _images(resource: Resource) -> Iterator[tuple[str, Any]]:
    if resource.type == TASK:
        for number, container in enumerate(_containers(resource)):
            name = str(at(container, "name") or f"container {number}")
            yield name, known(at(container, "image"), "containerDefinitions")
    elif resource.type == FUNCTION:
        image = known(resource.at("imageUri"), "imageUri")
        if image is not None:
            yield resource.name, image
        # What is uploaded with the program is its own; what lies in a bucket can be replaced there.
        code = known(resource.at("s3Key"), "s3Key")
        if code is not None:
            yield resource.name, f"s3://{resource.at('s3Bucket')}/{code}"
    elif resource.type == PARAMETER:
        name = known(resource.at("name"), "name")
        if isinstance(name, str) and _IMAGE_PARAMETER.fullmatch(name):
            yield name, known(_value(resource), "value")


def _containers(resource: Resource) -> list[Any]:
    """A task's containers; one whose definition is no list of objects is shown as one without an image."""
    text = known(resource.at("containerDefinitions"), "containerDefinitions")
    try:
        containers = plain(json.loads(text)) if isinstance(text, str) else text
    except ValueError:
        return [None]
    return containers if isinstance(containers, list) and containers else [None]


def _value(parameter: Resource) -> Any:
    value = parameter.at("value")
    return parameter.at("insecureValue") if value is None else value


def kept_and_scanned(resource: Resource, _: Config) -> Iterator[str]:
    """A repository's tags stay where they are, and what is pushed is scanned."""
    mutability = known(resource.at("imageTagMutability"), "imageTagMutability")
    if mutability != "IMMUTABLE":
        yield f"imageTagMutability is {mutability or 'left to AWS, which takes MUTABLE'}, not IMMUTABLE."
    scanning = [known(at(one, "scanOnPush"), "scanOnPush") for one in listed(resource.at("imageScanningConfiguration"))]
    if not scanning or not all(is_true(one) for one in scanning):
        yield "imageScanningConfiguration.scanOnPush is not true."


def published_registers(resource: Resource, config: Config) -> Iterator[str]:
    """A measurement that is published as a parameter is one of those that the pack knows."""
    match = _measurement_name(resource)
    if match is None:
        return
    name, value = match[0], known(_value(resource), "value")
    if match[3] is None:
        versions = sorted({image.eif_version for image in published(config)})
        if value not in versions:
            yield f"{name} is {value!r}; published are {', '.join(versions)}."
        return
    problem = fault(value, int(match[3]))
    if problem is not None:
        yield f"{name} {problem}."
        return
    if str(value).lower() not in {image.registers.get(int(match[3])) for image in published(config)}:
        yield f"{name} is PCR{match[3]} of no published image."


def _measurement_name(resource: Resource) -> re.Match[str] | None:
    name = known(resource.at("name"), "name") if resource.type == PARAMETER else None
    return _MEASUREMENT_PARAMETER.fullmatch(name) if isinstance(name, str) else None


def published_together(resources: Sequence[Resource], config: Config) -> Iterator[tuple[str, str | None]]:
    """The registers and the version that a region publishes are of one and the same image."""
    places: dict[tuple[str, str], dict[str, tuple[Any, str]]] = {}
    for resource in resources:
        match = _measurement_name(resource)
        if match is not None:
            region = str(known(resource.region, "region"))
            place = places.setdefault((region, match[1]), {})
            if match[2] in place:
                yield (
                    f"{match[0]} is written twice in {region}; tenants read whichever came last.",
                    resource.urn,
                )
            place[match[2]] = (known(_value(resource), "value"), resource.urn)
    for (region, path), found in places.items():
        values = {key: str(value).lower() for key, (value, _) in found.items()}
        whole = [
            {**{f"pcr{i}": v for i, v in image.registers.items()}, "eif_version": image.eif_version.lower()}
            for image in published(config)
        ]
        if values not in whole:
            yield (
                f"{path}/measurements in {region} ({', '.join(sorted(values))}) are not those of one published image.",
                next(iter(found.values()))[1],
            )


RULES: Final[list[Rule]] = [
    ResourceRule(
        "image-by-digest",
        by_digest,
        types=(TASK, FUNCTION, PARAMETER),
        protects="What was reviewed and scanned is what runs: a tag can be moved to another image, a digest can't.",
        fix="Name every image as repository@sha256:<64 hex digits>, without a tag.",
    ),
    ResourceRule(
        "image-repositories-hold-still",
        kept_and_scanned,
        types=(REPOSITORY,),
        protects="What a tag was when an image was reviewed, it still is, and every image is looked through for known "
        "faults.",
        fix="Set image_tag_mutability to IMMUTABLE and image_scanning_configuration.scan_on_push to true.",
    ),
    ResourceRule(
        "published-measurements",
        published_registers,
        types=(PARAMETER,),
        settings=(MEASUREMENTS,),
        protects="Tenants write their key policies after what the platform publishes, so it publishes nothing but the "
        "measurements of reviewed enclave images.",
        fix="Set mrgc:measurements to what measurements.json of the published image says.",
    ),
    StackRule(
        "published-measurements-agree",
        published_together,
        settings=(MEASUREMENTS,),
        protects="Registers of two images, or of one image under another's version, describe an enclave that does not "
        "exist, or not the one that runs.",
        fix="Publish PCR0, PCR1, PCR2, PCR8 if it is signed, and the EIF version of one image together.",
    ),
]
