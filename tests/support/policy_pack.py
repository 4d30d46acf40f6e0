"""A program recorded under mocks, handed to a policy pack as the engine would hand it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from policies.runner import Pack, Subject, Violation, directory, judge
from tests.support.aws_outputs import identity, outputs
from tests.support.preview import UNKNOWN
from tests.support.pulumi_program import Program, Recorded

COMPUTED: Mapping[str, tuple[str, ...]] = {"aws:ec2/vpcEndpoint:VpcEndpoint": ("prefixListId",)}
"""What rules read of what AWS computes, beside names."""


@contextmanager
def running(pack: str, config: Mapping[str, Mapping[str, Any]] | None = None) -> Iterator[Pack]:
    """A pack of this project ("enclave", "network") as a process, configured rule by rule."""
    with Pack(directory(pack)) as started:
        started.configure(config or {})
        yield started


def subjects(program: Program) -> list[Subject]:
    """Every resource of a recorded program, with its provider's inputs, its property dependencies and its outputs.

    Of a preview, where anything is unknown, there are no outputs yet.
    """
    providers = {one.urn: one for one in program if one.type.startswith("pulumi:providers:")}
    planned = any(UNKNOWN in str(one.inputs) for one in program)
    return [_subject(one, providers, planned=planned) for one in program]


def made(one: Recorded, region: str) -> dict[str, Any]:
    """A resource's outputs as far as rules read them, and as the mocks made them when it was recorded.

    The mocks give everything every computed property; here nothing has one that AWS does not give it, since a rule
    over security groups takes a prefix list for a peer, and one over routes a network interface for a next hop.
    """
    known = outputs(one.type, one.name, one.inputs, region)
    named = {key: known[key] for key in ("name", "arn", "region", *COMPUTED.get(one.type, ()))}
    return {**named, **one.inputs, "id": identity(one.type, one.name)}


def judged(pack: Pack, program: Program) -> list[Violation]:
    """Everything that a pack says of a recorded program."""
    return judge(pack, subjects(program))


def _subject(one: Recorded, providers: Mapping[str, Recorded], *, planned: bool) -> Subject:
    provider = providers.get(one.provider)
    region = "" if provider is None else str(provider.inputs.get("region", ""))
    return Subject(
        urn=one.urn,
        type=one.type,
        name=one.name,
        inputs=one.inputs,
        outputs=made(one, region) if one.custom and not planned else None,
        provider=None if provider is None else provider.inputs,
        provider_urn=one.provider,
        parent=one.parent,
        protect=one.protect,
        ignore_changes=one.ignore_changes,
        dependencies=one.dependencies,
        depends={key: tuple(found.urns) for key, found in one.request.propertyDependencies.items()},
    )


def enclave_properties(values: Mapping[str, Any]) -> dict[str, Any]:
    """The enclave pack's properties for a stack's own values (`stack_config`), as a reviewer of it would set them."""
    measured, fleet = values["measurements"], values["fleet"]
    registers = {key: value for key, value in measured.items() if key.startswith("pcr")}
    return {
        "measurements": [{**registers, "eifVersion": measured["eif_version"]}],
        "assuranceLevel": fleet["assurance_level"],
        "attestableAmis": list(fleet["amis"].values()),
    }
