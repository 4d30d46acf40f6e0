"""Both packs' rules, and one configuration for all of them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pulumi_policy import EnforcementLevel, Policy, StackValidationPolicy

from policies.enclave.rules import POLICIES as ENCLAVE
from policies.network.rules import POLICIES as NETWORK
from policies.rule import ConfigurationError

PACKS: Final[Mapping[str, Sequence[Policy]]] = {"enclave": ENCLAVE, "network": NETWORK}

LEVELS: Final = tuple(level.value for level in EnforcementLevel)
ENFORCEMENT: Final = "enforcementLevel"
ALL: Final = "all"


def properties(policy: Policy) -> dict[str, dict[str, Any]]:
    """A rule's configuration properties by name, each with its JSON schema, description and default."""
    return {} if policy.config_schema is None else dict(policy.config_schema.properties)


def explanation(pack: str, policy: Policy) -> dict[str, Any]:
    """What a rule protects, how to satisfy it and how it is configured, as plain values."""
    fix = policy.remediation_steps or ""
    level = policy.enforcement_level
    return {
        "pack": pack,
        "rule": policy.name,
        "protects": policy.description.removesuffix(fix).strip(),
        "fix": fix,
        "judges": "the whole stack" if isinstance(policy, StackValidationPolicy) else "each resource",
        "level": "advisory" if level is None else level.value,
        "configuration": properties(policy),
    }


def read_configuration(path: Path) -> dict[str, Any]:
    """A configuration file as it is written. Raises ConfigurationError."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror}.") from None
    except ValueError:
        raise ConfigurationError(f"{path} is not JSON.") from None
    if not isinstance(given, dict):
        raise ConfigurationError(f"{path} is no JSON object; its keys are names of rules or of their properties.")
    return given


def expand(given: Mapping[str, Any], packs: Mapping[str, Sequence[Policy]] = PACKS) -> dict[str, dict[str, Any]]:
    """One configuration as Pulumi wants it: rule by rule.

    A key of `given` is a rule's name, whose value is as Pulumi has it (an object of properties, or an enforcement
    level); "all", likewise, for every rule; or a property's name, whose value every rule gets that declares it and
    has not been given its own. Raises ConfigurationError for a key that is none of these.
    """
    rules = {policy.name: policy for policies in packs.values() for policy in policies}
    declared = {name for policy in rules.values() for name in properties(policy)}
    for key in given:
        if key not in rules and key not in declared and key != ALL:
            close = difflib.get_close_matches(key, [*rules, *declared], n=1)
            hint = f"did you mean {close[0]!r}?" if close else "`mrgc policy explain` lists both."
            raise ConfigurationError(f"{key!r} is neither a rule nor a property of one: {hint}")
    found: dict[str, dict[str, Any]] = {}
    for name, policy in rules.items():
        own: dict[str, Any] = {key: given[key] for key in properties(policy) if key in given}
        for key in (ALL, name):
            own.update(_properties(key, given.get(key, {})))
        unknown = own.keys() - properties(policy).keys() - {ENFORCEMENT}
        if unknown:
            raise ConfigurationError(f"{name} has no property {min(unknown)!r}.")
        if own:
            found[name] = own
    return found


def of_pack(pack: str, configuration: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The part of an expanded configuration that is one pack's."""
    return {policy.name: configuration[policy.name] for policy in PACKS[pack] if policy.name in configuration}


def explanations(packs: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every rule of the packs, in their order."""
    for pack in packs:
        yield from (explanation(pack, policy) for policy in PACKS[pack])


def _properties(key: str, value: Any) -> dict[str, Any]:
    found = {ENFORCEMENT: value} if isinstance(value, str) else value
    if not isinstance(found, dict):
        raise ConfigurationError(f"{key} is configured by an object or by one of {', '.join(LEVELS)}.")
    level = found.get(ENFORCEMENT)
    if level is not None and level not in LEVELS:
        raise ConfigurationError(f"{key}.{ENFORCEMENT} is {level!r}; it is one of {', '.join(LEVELS)}.")
    return found
