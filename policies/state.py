"""An exported Pulumi state (`pulumi stack export`) as resources to be judged.

A secret that the export holds encrypted is an unknown value to the rules; `--show-secrets` exports them in clear.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pulumi_policy.proxy import UNKNOWN_STRING_VALUE

from policies.runner import Subject

_SIGNATURE: Final = "4dabf18193072939515e22adb298388d"
"""The key by which Pulumi marks an object as something else (sdk/go/common/resource/sig)."""
_SECRET: Final = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 - the mark of a secret, not one
_OUTPUT: Final = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
_REFERENCE: Final = "5cf8f73096256a8f31e491e813e4eb8e"


class StateError(Exception):
    """A file that is no exported state: one sentence."""


def read_state(path: Path) -> list[Subject]:
    """Every resource of an exported state but those already marked for deletion. Raises StateError."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StateError(f"{path} can't be read: {error.strerror}.") from None
    except ValueError:
        raise StateError(f"{path} is not JSON; give what `pulumi stack export` writes.") from None
    deployment = state.get("deployment") if isinstance(state, Mapping) else None
    if not isinstance(deployment, Mapping):
        raise StateError(f"{path} has no deployment; give what `pulumi stack export` writes.")
    resources = deployment.get("resources") or []
    if not all(isinstance(one, Mapping) and isinstance(one.get("urn"), str) for one in resources):
        raise StateError(f"{path} holds a resource without a URN; give what `pulumi stack export` writes.")
    if not resources:
        raise StateError(f"{path} holds no resources, so there is nothing to judge.")
    providers = {one["urn"]: one for one in resources if str(one.get("type", "")).startswith("pulumi:providers:")}
    return [_subject(one, providers) for one in resources if not one.get("delete")]


def _subject(one: Mapping[str, Any], providers: Mapping[str, Mapping[str, Any]]) -> Subject:
    provider_urn = str(one.get("provider") or "").rpartition("::")[0]
    provider = providers.get(provider_urn)
    outputs = _plain(one.get("outputs") or {})
    if one.get("id"):
        outputs.setdefault("id", one["id"])
    return Subject(
        urn=one["urn"],
        type=str(one.get("type", "")),
        name=one["urn"].rpartition("::")[2],
        inputs=_plain(one.get("inputs") or {}),
        outputs=outputs,
        provider=None if provider is None else _plain(provider.get("inputs") or {}),
        provider_urn=provider_urn,
        parent=str(one.get("parent") or ""),
        protect=bool(one.get("protect")),
        dependencies=tuple(one.get("dependencies") or ()),
        depends={key: tuple(urns or ()) for key, urns in (one.get("propertyDependencies") or {}).items()},
    )


def _plain(value: Any) -> Any:
    """Values without Pulumi's marks: secrets as their value or as unknown, references as their URN."""
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if not isinstance(value, Mapping):
        return value
    mark = value.get(_SIGNATURE)
    if mark == _SECRET:
        return _plain(json.loads(value["plaintext"])) if "plaintext" in value else UNKNOWN_STRING_VALUE
    if mark == _OUTPUT:
        return _plain(value["value"]) if "value" in value else UNKNOWN_STRING_VALUE
    if mark == _REFERENCE:
        return str(value.get("urn", ""))
    # An asset or an archive keeps its fields, of which rules read none.
    return {key: _plain(inner) for key, inner in value.items() if key != _SIGNATURE}
