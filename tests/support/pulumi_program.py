"""Run Pulumi code under mocks and keep every resource as the engine would have been told of it."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
import yaml
from pulumi.runtime import get_root_resource, mocks
from pulumi.runtime import test as drain
from pulumi.runtime.config import set_all_config

from tests.support.aws_outputs import ACCOUNT, identity, outputs
from tests.support.event_loop import own_event_loop

ROOT = Path(__file__).parents[2]
PROJECT = "mrgc"

SPECIAL = "4dabf18193072939515e22adb298388d"
"""The key that marks a secret on the wire (pulumi `sdk/python/lib/pulumi/runtime/rpc.py`)."""

HOME = "us-east-1"

__all__ = ["ACCOUNT", "PROJECT", "ROOT", "Program", "Recorded", "as_engine_config", "record", "stack_config"]


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One registered resource: `type` is its token, `inputs` plain values, `provider` the provider's URN or ''."""

    urn: str
    type: str
    name: str
    parent: str
    inputs: Mapping[str, Any]
    provider: str
    custom: bool
    protect: bool
    retain_on_delete: bool
    dependencies: tuple[str, ...]
    ignore_changes: tuple[str, ...]
    request: Any = field(repr=False, compare=False)


@dataclass
class Program:
    """What one run registered."""

    resources: list[Recorded]
    outputs: dict[str, Any]

    def of(self, type_: str) -> list[Recorded]:
        """Resources whose type token is, or ends with, `type_` (`ec2/vpc:Vpc`)."""
        return [one for one in self.resources if one.type == type_ or one.type.endswith(":" + type_)]

    def one(self, type_: str, name: str | None = None) -> Recorded:
        """The only resource of a type, or the one of that name."""
        found = [one for one in self.of(type_) if name is None or one.name == name]
        assert len(found) == 1, f"{len(found)} resources are {type_} {name or ''}: {[one.name for one in found]}"
        return found[0]

    def region(self, resource: Recorded) -> str | None:
        """The region that a resource is created in: its own argument, or its provider's."""
        if resource.inputs.get("region"):
            return str(resource.inputs["region"])
        provider = next((one for one in self.resources if one.urn == resource.provider), None)
        return None if provider is None else str(provider.inputs.get("region"))

    def __iter__(self) -> Iterator[Recorded]:
        return iter(self.resources)


class _Answers(mocks.Mocks):
    def __init__(self, calls: Mapping[str, Mapping[str, Any]]) -> None:
        self.calls = calls
        self.regions: dict[str, str] = {}
        """Each provider's region by the provider's id; what has no provider of ours stands in the first region."""

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        if not args.custom:
            return "", dict(args.inputs)
        ident = identity(args.typ, args.name)
        if args.typ.startswith("pulumi:providers:"):
            self.regions[ident] = args.inputs.get("region", HOME)
            return ident, dict(args.inputs)
        region = self.regions.get((args.provider or "").rpartition("::")[2], HOME)
        return ident, outputs(args.typ, args.name, args.inputs, region)

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        assert args.token in self.calls, f"the program asks AWS {args.token}, which needs credentials to preview"
        return dict(self.calls[args.token]), None


class _Monitor(mocks.MockMonitor):
    def __init__(self, answers: mocks.Mocks) -> None:
        super().__init__(answers)
        self.requests: list[tuple[str, Any]] = []
        self._lock = threading.Lock()

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 - the engine's name
        response = super().RegisterResource(request)  # type: ignore[no-untyped-call]  # the SDK's mocks are untyped
        with self._lock:
            self.requests.append((response.urn, request))
        return response


def record(
    program: Callable[[], object],
    *,
    stack: str = "dev",
    config: Mapping[str, str] | None = None,
    calls: Mapping[str, Mapping[str, Any]] | None = None,
) -> Program:
    """Run `program` under mocks until nothing is pending. `config` as the engine hands it over (objects as JSON).

    Asserts that no URN is registered twice, which mocks would let pass and an engine would not.
    """
    answers = _Answers(calls or {})
    monitor = _Monitor(answers)
    outputs: dict[str, Any] = {}

    def run() -> pulumi.Output[None]:
        program()
        exported = dict(getattr(get_root_resource(), "outputs", {}))
        return pulumi.Output.from_input(exported).apply(outputs.update)

    with own_event_loop():
        mocks.set_mocks(answers, project=PROJECT, stack=stack, preview=False, monitor=monitor)
        set_all_config(dict(config or {}))
        drain(run)()  # type: ignore[no-untyped-call]  # as above
    resources = [_recorded(urn, request) for urn, request in monitor.requests]
    twice = [urn for urn, times in Counter(one.urn for one in resources).items() if times > 1]
    assert not twice, f"registered twice: {twice}"
    return Program([one for one in resources if one.type != "pulumi:pulumi:Stack"], outputs)


def stack_config(stack: str) -> dict[str, Any]:
    """The values of `stacks/Pulumi.<stack>.yaml` by key without its namespace, for changing in a test."""
    text = (ROOT / "stacks" / f"Pulumi.{stack}.yaml").read_text()
    values: dict[str, Any] = yaml.safe_load(text)["config"]
    return {key.removeprefix(PROJECT + ":"): value for key, value in values.items() if key.startswith(PROJECT + ":")}


def as_engine_config(values: Mapping[str, Any]) -> dict[str, str]:
    """Configuration as the engine hands it over: text as it is, everything else as JSON, keys with their namespace."""
    return {f"{PROJECT}:{key}": value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


def _recorded(urn: str, request: Any) -> Recorded:
    return Recorded(
        urn=urn,
        type=request.type,
        name=request.name,
        parent=request.parent,
        inputs=_plain(request.object),
        provider=request.provider.rsplit("::", 1)[0] if request.provider else "",
        custom=request.custom,
        protect=request.protect,
        retain_on_delete=request.retainOnDelete,
        dependencies=tuple(request.dependencies),
        ignore_changes=tuple(request.ignoreChanges),
        request=request,
    )


def _plain(struct: Any) -> dict[str, Any]:
    values = pulumi.runtime.rpc.deserialize_properties(struct)
    plain: dict[str, Any] = whole(values)
    return plain


def whole(value: Any) -> Any:
    """Numbers that are whole as int, secrets as their value."""
    if isinstance(value, Mapping):
        if SPECIAL in value:
            return whole(value["value"])
        return {key: whole(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [whole(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
