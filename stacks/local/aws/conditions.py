"""Conditions of a policy statement: operators, keys and values, with an answer for what is not understood.

Source: IAM user guide, "IAM JSON policy elements: Condition operators" and "Set operators". Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

Verdict = bool | None
"""True, False, or None for "not understood", which must never allow and always deny."""

Context = Mapping[str, tuple[str, ...]]
"""What is known of a request: condition key in lower case to its values; an absent key is not there."""

KNOWN_KEYS: Final = re.compile(
    r"kms:encryptioncontextkeys|kms:encryptioncontext:.+|kms:recipientattestation:imagesha384"
    r"|kms:recipientattestation:(nitrotpm)?pcr([0-9]|[12][0-9]|3[01])"
    r"|kms:calleraccount|aws:principalarn|aws:principalaccount"
)
"""Keys whose absence from the context means that the request has none."""

MULTIVALUED: Final = frozenset({"kms:encryptioncontextkeys"})


def _like(value: str, pattern: str) -> bool:
    return _pattern(pattern).fullmatch(value) is not None


@lru_cache(maxsize=512)
def _pattern(text: str) -> re.Pattern[str]:
    parts = {"*": ".*", "?": "."}
    return re.compile("".join(parts.get(character, re.escape(character)) for character in text), re.DOTALL)


_TESTS: Mapping[str, Callable[[str, str], bool]] = {
    "StringEquals": lambda value, wanted: value == wanted,
    "StringEqualsIgnoreCase": lambda value, wanted: value.casefold() == wanted.casefold(),
    "StringLike": _like,
    "ArnEquals": _like,
    "ArnLike": _like,
}
_QUANTIFIERS = frozenset({"", "ForAllValues", "ForAnyValue"})
_NEGATED = {
    "StringNotEquals": "StringEquals",
    "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike",
    "ArnNotEquals": "ArnEquals",
    "ArnNotLike": "ArnLike",
}


def like(value: str, pattern: str) -> bool:
    """Say whether `value` matches a policy's pattern, in which * is any text and ? one character."""
    return _like(value, pattern)


def conditions_hold(conditions: Any, context: Context) -> Verdict:
    """Say whether every condition of a statement holds; None if it turns on one that is not understood."""
    if not isinstance(conditions, Mapping):
        return None
    unknown = False
    for operator, keys in conditions.items():
        if not isinstance(operator, str) or not isinstance(keys, Mapping):
            return None
        for key, wanted in keys.items():
            verdict = _condition(operator, key, wanted, context)
            if verdict is False:
                return False
            unknown = unknown or verdict is None
    return None if unknown else True


def _condition(operator: str, key: Any, wanted: Any, context: Context) -> Verdict:
    """Judge one operator on one key."""
    values = _values(wanted)
    name = key.lower() if isinstance(key, str) else ""
    if values is None or (name not in context and not KNOWN_KEYS.fullmatch(name)):
        return None
    have = context.get(name)
    if operator == "Null":
        return _null(values, have)
    quantifier, _, rest = operator.rpartition(":")
    base = rest.removesuffix("IfExists")
    test = _TESTS.get(_NEGATED.get(base, base))
    if test is None or quantifier not in _QUANTIFIERS or (not quantifier and name in MULTIVALUED):
        return None
    if have is None and base != rest:
        return True
    return _quantify(quantifier, have or (), values, test=test, negated=base in _NEGATED)


def _quantify(
    quantifier: str,
    have: tuple[str, ...],
    wanted: tuple[str, ...],
    *,
    test: Callable[[str, str], bool],
    negated: bool,
) -> bool:
    """Apply a test to the request's values; `have` is empty for an absent key."""

    def one(value: str) -> bool:
        return any(test(value, pattern) for pattern in wanted) != negated

    if quantifier == "ForAllValues":
        return all(one(value) for value in have)
    if quantifier == "ForAnyValue":
        return any(one(value) for value in have)
    # Without a set operator, an absent key fails an operator and satisfies its negation.
    return one(have[0]) if have else negated


def _null(values: tuple[str, ...], have: tuple[str, ...] | None) -> Verdict:
    if len(values) != 1 or values[0] not in {"true", "false"}:
        return None
    return (have is None) == (values[0] == "true")


def _values(wanted: Any) -> tuple[str, ...] | None:
    """Return a condition's values as texts; None for what is neither a text, a boolean nor a list of them.

    A value with a policy variable is not understood either: it would be compared as its own text.
    """
    listed = wanted if isinstance(wanted, list) else [wanted]
    values = tuple(str(entry).lower() if isinstance(entry, bool) else entry for entry in listed)
    if not values or not all(isinstance(entry, str) and "${" not in entry for entry in values):
        return None
    return values
