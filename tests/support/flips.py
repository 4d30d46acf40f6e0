"""A recorded program with one value of one resource changed, judged by both packs' rules as plain functions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pulumi_policy.proxy import UnknownValueError

from policies.packs import PACKS
from policies.rule import Resource, ResourceRule, StackRule
from policies.runner import Subject
from tests.support.policy_pack import made, subjects
from tests.support.pulumi_program import Program, Recorded

Path = tuple[str | int, ...]
DROPPED: Final = object()
"""What a change gives for a value that is taken away."""
Change = Callable[[Any], Any]


def walk(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value at every depth that has a key, with its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield (*path, key), inner
            yield from walk(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from walk(inner, (*path, number))


def changed(value: Any, path: Path, change: Change) -> Any:
    """A copy with the value at a path changed, or without it where the change gives `DROPPED`."""
    if not path:
        return change(value)
    head, *rest = path
    new = changed(value[head], tuple(rest), change)
    if isinstance(value, Mapping):
        return {key: new if key == head else inner for key, inner in value.items() if key != head or new is not DROPPED}
    return [new if number == head else inner for number, inner in enumerate(value)]


def spelled(path: Path) -> str:
    """A path as the tables have it: `replicas.*.pointInTimeRecovery`."""
    return ".".join("*" if isinstance(part, int) else part for part in path)


@dataclass(frozen=True)
class Judged:
    """One resource before it is created (`asked`) and afterwards (`there`)."""

    recorded: Recorded
    asked: Resource
    there: Resource


class Bench:
    """A program that every rule accepts, to be judged again with one resource changed or gone."""

    def __init__(self, program: Program, configuration: Mapping[str, Mapping[str, Any]]) -> None:
        self.configuration = configuration
        self.rules = [rule for rules in PACKS.values() for rule in rules]
        recorded = {one.urn: one for one in program}
        self.all = [_judged(recorded[subject.urn], subject) for subject in subjects(program)]

    def alone(self, one: Judged) -> str | None:
        """The name of a rule over single resources that refuses this one."""
        for rule in self.rules:
            if isinstance(rule, ResourceRule) and _refused(rule.violations, one.asked, self._of(rule)):
                return rule.name
        return None

    def refusing(self, one: Judged) -> str | None:
        """The name of a rule that refuses the whole with this resource in its place."""
        there = [one.there if other.asked.urn == one.asked.urn else other.there for other in self.all]
        return self.alone(one) or self._refusing_whole(there)

    def refusing_without(self, one: Judged) -> str | None:
        """The name of a rule that refuses the whole without this resource."""
        return self._refusing_whole([other.there for other in self.all if other is not one])

    def _refusing_whole(self, resources: Sequence[Resource]) -> str | None:
        for rule in self.rules:
            if isinstance(rule, StackRule) and _refused(rule.violations, resources, self._of(rule)):
                return rule.name
        return None

    def _of(self, rule: Any) -> Mapping[str, Any]:
        return self.configuration.get(rule.name, {})


def _refused(judge: Callable[[Any, Mapping[str, Any]], list[str]], what: Any, config: Mapping[str, Any]) -> bool:
    try:
        return bool(judge(what, config))
    except UnknownValueError:
        return True  # Everything is known here; what is not was asked of a value that is no longer there.


def _judged(recorded: Recorded, subject: Subject) -> Judged:
    asked = Resource(
        type=subject.type,
        name=subject.name,
        urn=subject.urn,
        props=subject.inputs,
        provider=subject.provider,
        parent=subject.parent,
        protect=subject.protect,
        ignore_changes=tuple(subject.ignore_changes),
    )
    depends = {key: tuple(urns) for key, urns in subject.depends.items()}
    there = replace(asked, props=subject.inputs if subject.outputs is None else subject.outputs, depends=depends)
    return Judged(recorded, asked, there)


def mutated(one: Judged, path: Path, change: Change) -> Judged:
    """The resource with a value changed, its outputs as AWS would then have them.

    What a changed property was made from is forgotten: nothing says that the new value is made from the same.
    """
    inputs = changed(one.recorded.inputs, path, change)
    outputs = made(replace(one.recorded, inputs=inputs), str(one.there.at("region") or ""))
    depends = {key: urns for key, urns in one.there.depends.items() if key != path[0]}
    return Judged(
        replace(one.recorded, inputs=inputs),
        replace(one.asked, props=inputs),
        replace(one.there, props=outputs, depends=depends),
    )


def statements(one: Judged) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Every statement of every policy of a resource: the property, its number, and a copy of it."""
    for key, value in one.asked.props.items():
        if isinstance(value, str) and value.startswith("{") and '"Statement"' in value:
            for number, statement in enumerate(json.loads(value)["Statement"]):
                yield key, number, statement


def with_statement(one: Judged, key: str, number: int, statement: Mapping[str, Any] | None) -> Judged:
    """The resource with one statement of a policy in another's place, or without it."""

    def change(text: str) -> str:
        document = json.loads(text)
        document["Statement"][number : number + 1] = [] if statement is None else [statement]
        return json.dumps(document)

    return mutated(one, (key,), change)
