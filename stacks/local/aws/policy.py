"""Key policies: reading one, and deciding one request by it. Pure.

Source: IAM user guide, "Policy evaluation logic"; KMS developer guide, "Key policies". Only the key policy counts here
(no identity policies, no grants), so an account in `Principal` allows its root user alone, and denies to all of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dataplane.protocol.errors import MrgcError
from stacks.local.aws.conditions import Context, Verdict, conditions_hold, like
from stacks.local.aws.principals import Identity

MAX_POLICY_BYTES = 32_768
"""Largest key policy (KMS quotas)."""

_ELEMENTS = frozenset({"Sid", "Effect", "Principal", "Action", "Resource", "Condition"})
_VERSIONS = frozenset({"2012-10-17", "2008-10-17"})


class PolicyError(MrgcError):
    """A text that is no key policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to decide: `action` as `kms:Decrypt`, `resource` the key's ARN."""

    identity: Identity
    action: str
    resource: str
    context: Context


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome, and one clause that says which statement made it."""

    allowed: bool
    reason: str


def parse_policy(text: str) -> dict[str, Any]:
    """Read a policy's text; raises `PolicyError` for what KMS would not store."""
    if len(text.encode()) > MAX_POLICY_BYTES:
        raise PolicyError(f"The key policy is longer than {MAX_POLICY_BYTES} bytes.")
    try:
        policy = json.loads(text)
    except (ValueError, RecursionError):
        raise PolicyError("The key policy is not JSON.") from None
    if not isinstance(policy, dict) or policy.keys() - {"Version", "Id", "Statement"}:
        raise PolicyError("The key policy is not an object of Version, Id and Statement.")
    if policy.get("Version", "2008-10-17") not in _VERSIONS:
        raise PolicyError("The key policy's Version is not 2012-10-17.")
    if not _statements(policy):
        raise PolicyError("The key policy has no Statement.")
    for statement in _statements(policy):
        _check_statement(statement)
    return policy


def decide(policy: Mapping[str, Any], call: Call) -> Decision:
    """Decide a request: an explicit deny wins, then an allow, and without either it is denied."""
    allowed: str | None = None
    for number, statement in enumerate(_statements(policy)):
        name = str(statement.get("Sid") or f"statement {number}")
        deny = statement.get("Effect") != "Allow"
        verdict = _applies(statement, call, deny=deny)
        if deny and verdict is not False:
            return Decision(allowed=False, reason=f"{name} denies it")
        if not deny and verdict is True and allowed is None:
            allowed = name
    if allowed is None:
        return Decision(allowed=False, reason="no statement of the key policy allows it")
    return Decision(allowed=True, reason=f"{allowed} allows it")


def _applies(statement: Mapping[str, Any], call: Call, *, deny: bool) -> Verdict:
    """Say whether a statement is about the call."""
    if statement.keys() - _ELEMENTS:
        return None
    verdicts: tuple[Verdict, ...] = (
        _principal(statement.get("Principal"), call.identity, deny=deny),
        any(like(call.action.lower(), entry.lower()) for entry in _texts(statement.get("Action"))),
        any(like(call.resource, entry) for entry in _texts(statement.get("Resource"))),
    )
    if False in verdicts:
        return False
    return conditions_hold(statement.get("Condition", {}), call.context) if None not in verdicts else None


def _principal(principal: Any, identity: Identity, *, deny: bool) -> Verdict:
    if principal == "*":
        return True
    if not isinstance(principal, Mapping) or principal.keys() - {"AWS", "Service"}:
        return None
    for entry in _texts(principal.get("AWS")):
        if entry == "*" or entry in identity.names:
            return True
        if entry in {identity.account, f"arn:aws:iam::{identity.account}:root"} and (deny or identity.is_root):
            return True
    return False


def _check_statement(statement: Any) -> None:
    if not isinstance(statement, dict):
        raise PolicyError("A statement of the key policy is not an object.")
    if statement.get("Effect") not in {"Allow", "Deny"}:
        raise PolicyError("A statement's Effect is neither Allow nor Deny.")
    for element in ("Principal", "Action", "Resource"):
        if element not in statement and f"Not{element}" not in statement:
            raise PolicyError(f"A statement of the key policy has no {element}.")
    if not isinstance(statement.get("Condition", {}), dict):
        raise PolicyError("A statement's Condition is not an object.")


def _statements(policy: Mapping[str, Any]) -> list[Any]:
    statements = policy.get("Statement", [])
    return statements if isinstance(statements, list) else [statements]


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [entry for entry in values if isinstance(entry, str)]
