"""The model pools that a router lists."""

from __future__ import annotations

import json
from dataclasses import dataclass

from dataplane.tenant.errors import RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model pool as the router lists it: `hosts` that serve it now, with the `engine` and best `assurance`."""

    id: str
    engine: str
    assurance: int
    hosts: int


def parse_models(body: bytes, attempt: int) -> list[Model]:
    """Read the router's list, the answer to attempt number `attempt`; `RequestError` when it is none."""
    try:
        return [
            Model(
                id=str(entry["id"]),
                engine=str(entry["engine"]),
                assurance=int(entry["assurance"]),
                hosts=int(entry["hosts"]),
            )
            for entry in json.loads(body)["models"]
        ]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RequestError(
            "The cluster's list of models is not readable; check that the endpoint is a router of this version.",
            code="host-failed",
            status=502,
            attempts=attempt,
        ) from None
