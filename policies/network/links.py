"""Which resource of a stack refers to which.

At preview no id exists yet, so a reference is first read from the URNs that a property is made from, which the engine
knows from the start. Where those are missing, as in state that another tool wrote, the value is compared with the
outputs by which AWS's resources are named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from policies.rule import Resource

_NAMED_BY: Final = ("id", "arn", "name", "prefixListId", "groupId", "bucket")


class Links:
    """The resources of one stack, by URN and by what AWS calls them."""

    def __init__(self, resources: Sequence[Resource]) -> None:
        self.resources = resources
        self._urns = {one.urn: one for one in resources if one.urn}
        self._names: dict[str, list[Resource]] = {}
        for one in resources:
            for key in _NAMED_BY:
                value = one.at(key)
                if isinstance(value, str):
                    self._names.setdefault(value, []).append(one)

    def of(self, *types: str) -> list[Resource]:
        """Resources of any of these types."""
        return [one for one in self.resources if one.type in types]

    def targets(self, resource: Resource, key: str, *types: str) -> list[Resource]:
        """What a property refers to, of any of these types."""
        found = [self._urns[urn] for urn in resource.depends.get(key, ()) if urn in self._urns]
        if not any(one.type in types for one in found):
            found = [one for text in _texts(resource.at(key)) for one in self._named(text, resource)]
        return _once(one for one in found if one.type in types)

    def named(self, text: str, *types: str) -> list[Resource]:
        """Resources of any of these types that AWS calls `text`."""
        return [one for one in self._names.get(text, []) if one.type in types]

    def _named(self, text: str, resource: Resource) -> list[Resource]:
        """Resources that AWS calls `text`: those of the same region, where names are unique, before all others."""
        found = [one for one in self._names.get(text, []) if one is not resource]
        return [one for one in found if one.region == resource.region] or found


def _once(resources: Iterator[Resource]) -> list[Resource]:
    found: list[Resource] = []
    for one in resources:
        if not any(one is other for other in found):
            found.append(one)
    return found


def _texts(value: Any) -> Iterator[str]:
    """Every text within a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _texts(inner)
