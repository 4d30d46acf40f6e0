"""The router's list of model pools, as a tenant reads it: another process wrote it, and it may be anything."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from dataplane.protocol.header import MAX_ASSURANCE, MAX_NAME
from dataplane.protocol.message import is_uint
from dataplane.tenant.errors import RequestError

MAX_HOSTS: Final = 1_000_000
"""More hosts than any fleet has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model pool as the router lists it: `hosts` that serve it now, with the `engine` and best `assurance`."""

    id: str
    engine: str
    assurance: int
    hosts: int


def parse_models(body: bytes, attempt: int) -> list[Model]:
    """Read the answer of `GET /models`; RequestError, with the number of the `attempt`, for anything else."""
    try:
        return [_model(entry) for entry in json.loads(body)["models"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RequestError(
            "The cluster's list of models is not readable; check that the endpoint is a router of this version.",
            code="host-failed",
            status=502,
            attempts=attempt,
        ) from None


def _model(entry: Any) -> Model:
    """Read one pool; `ValueError`, or what a wrong type raises. JSON's `1e999` is infinity, and no number of hosts."""
    name, engine, assurance, hosts = entry["id"], entry["engine"], entry["assurance"], entry["hosts"]
    if not (_is_name(name) and _is_name(engine) and is_uint(assurance, MAX_ASSURANCE) and is_uint(hosts, MAX_HOSTS)):
        raise ValueError("not a model pool")
    return Model(id=name, engine=engine, assurance=assurance, hosts=hosts)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable()
