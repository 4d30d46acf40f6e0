"""Statements of IAM and key policies, read so that nothing in them is overlooked.

Source: IAM user guide, "Grammar of the IAM JSON policy language"; KMS developer guide, "Key policies". An effect that
is not exactly "Deny" is read as an allow, and what can't be read is named in `oddities`: whoever judges a policy that
must hold refuses those.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from policies.rule import DocumentError, like, listed

EVERYONE: Final = ("*", "*")

_ELEMENTS: Final = frozenset(
    {
        "sid",
        "effect",
        "principal",
        "notprincipal",
        "action",
        "notaction",
        "resource",
        "notresource",
        "condition",
    }
)
_ROLE_SESSION: Final = re.compile(r"arn:(aws[a-z-]*):sts::(\d{12}):assumed-role/([^/]+)/.+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One operator on one key. `key` is in lower case (AWS ignores its case); `values` are what was listed."""

    operator: str
    key: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One statement. `principals` are pairs of kind and name (`("AWS", arn)`); of a policy without any, ()."""

    label: str
    allow: bool
    principals: tuple[tuple[str, str], ...]
    not_principal: bool
    actions: tuple[str, ...]
    not_action: bool
    resources: tuple[str, ...]
    not_resource: bool
    conditions: tuple[Condition, ...]
    oddities: tuple[str, ...]

    def reaches(self, action: str) -> bool:
        """Whether the statement is about an action, by its name, by a wildcard or by what `NotAction` leaves out."""
        named = any(like(action, pattern) for pattern in self.actions)
        return named != self.not_action

    def reaches_any(self, actions: tuple[str, ...]) -> list[str]:
        """Those of `actions` that the statement is about."""
        return [action for action in actions if self.reaches(action)]

    def condition(self, operator: str, key: str) -> Condition | None:
        """The condition with exactly this operator on a key (in lower case)."""
        return next((one for one in self.conditions if one.operator == operator and one.key == key), None)


def statements(policy: Mapping[str, Any]) -> list[Statement]:
    """All statements of a policy. Raises DocumentError where there are none, or one is no object."""
    elements = {key.lower(): value for key, value in policy.items()}
    if len(elements) != len(policy):
        raise DocumentError("has an element twice, in other letters")
    found = listed(elements.get("statement"))
    if not found:
        raise DocumentError("has no statement")
    if not all(isinstance(one, Mapping) for one in found):
        raise DocumentError("has a statement that is no object")
    return [_statement(number, one) for number, one in enumerate(found)]


def _statement(number: int, raw: Mapping[str, Any]) -> Statement:
    oddities: list[str] = []
    elements = {key.lower(): value for key, value in raw.items()}
    if len(elements) != len(raw):
        oddities.append("an element twice")
    oddities += [f"an element {key!r}" for key in elements.keys() - _ELEMENTS]
    return Statement(
        label=str(elements.get("sid") or f"statement {number}"),
        allow=elements.get("effect") != "Deny",
        principals=(
            *_principals(elements.get("principal"), oddities),
            *_principals(elements.get("notprincipal"), oddities),
        ),
        not_principal="notprincipal" in elements,
        actions=_patterns(elements, "action", oddities),
        not_action="notaction" in elements,
        resources=_patterns(elements, "resource", oddities),
        not_resource="notresource" in elements,
        conditions=_conditions(elements.get("condition"), oddities),
        oddities=tuple(oddities),
    )


def _principals(value: Any, oddities: list[str]) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if value == "*":
        return (EVERYONE,)
    if not isinstance(value, Mapping):
        oddities.append("a principal that is no object")
        return ()
    pairs: list[tuple[str, str]] = []
    for kind, names in value.items():
        for name in listed(names):
            if not isinstance(name, str):
                oddities.append("a principal that is no text")
                continue
            pairs.append((str(kind), _role(name)))
    return tuple(pairs)


def _role(name: str) -> str:
    """A role's session as the role itself: both are the same hands."""
    session = _ROLE_SESSION.fullmatch(name)
    return f"arn:{session[1]}:iam::{session[2]}:role/{session[3]}" if session else name


def _patterns(elements: Mapping[str, Any], name: str, oddities: list[str]) -> tuple[str, ...]:
    if name in elements and "not" + name in elements:
        oddities.append(f"both {name} and not{name}")
    values = listed(elements.get(name)) + listed(elements.get("not" + name))
    if not all(isinstance(value, str) for value in values):
        oddities.append(f"an {name} that is no text")
    return tuple(value for value in values if isinstance(value, str))


def _conditions(value: Any, oddities: list[str]) -> tuple[Condition, ...]:
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        oddities.append("a condition that is no object")
        return ()
    found: list[Condition] = []
    for operator, keys in value.items():
        if not isinstance(keys, Mapping):
            oddities.append(f"a condition {operator} that is no object")
            continue
        found += [
            Condition(operator=operator, key=str(key).lower(), values=tuple(listed(values)))
            for key, values in keys.items()
        ]
        if len({str(key).lower() for key in keys}) != len(keys):
            oddities.append(f"a condition key twice under {operator}")
    return tuple(found)
