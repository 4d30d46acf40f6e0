"""A recorded program as `pulumi stack export` would write it once everything exists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.support.aws_outputs import identity, outputs
from tests.support.pulumi_program import Program, Recorded

TEXTS_BY_NAME = ("tags", "tagsAll", "variables")
"""Maps whose keys are the program's own, to which the provider adds none."""
WITHOUT_REGION = ("aws:iam/", "aws:globalaccelerator/")


def exported_state(program: Program) -> dict[str, Any]:
    """The state, with what the AWS provider's Check adds to inputs: `__defaults`, `region` and `tagsAll`."""
    stack = {"urn": "urn:pulumi:any::mrgc::pulumi:pulumi:Stack::mrgc-any", "type": "pulumi:pulumi:Stack"}
    providers = {one.urn: identity(one.type, one.name) for one in program if one.type.startswith("pulumi:providers:")}
    return {
        "version": 3,
        "deployment": {"resources": [stack, *(_resource(program, providers, one) for one in program)]},
    }


def _resource(program: Program, providers: Mapping[str, str], one: Recorded) -> dict[str, Any]:
    aws = one.type.startswith("aws:")
    region = program.region(one) or ""
    found: dict[str, Any] = {
        "urn": one.urn,
        "type": one.type,
        "custom": one.custom,
        "parent": one.parent,
        "protect": one.protect,
        "inputs": _checked(one, region) if aws else dict(one.inputs),
        "dependencies": list(one.dependencies),
        "propertyDependencies": {key: list(value.urns) for key, value in one.request.propertyDependencies.items()},
    }
    if one.custom:
        found["id"] = identity(one.type, one.name)
        found["outputs"] = outputs(one.type, one.name, one.inputs, region) if aws else dict(one.inputs)
    if one.provider:
        found["provider"] = f"{one.provider}::{providers[one.provider]}"
    return found


def _checked(one: Recorded, region: str) -> dict[str, Any]:
    inputs = {key: value if key in TEXTS_BY_NAME else _marked(value) for key, value in one.inputs.items()}
    if not one.type.startswith(WITHOUT_REGION):
        inputs["region"] = region
    if isinstance(inputs.get("tags"), Mapping):
        inputs["tagsAll"] = dict(inputs["tags"])
    return {"__defaults": [], **inputs}


def _marked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {"__defaults": [], **{key: _marked(inner) for key, inner in value.items()}}
    return [_marked(inner) for inner in value] if isinstance(value, list) else value
