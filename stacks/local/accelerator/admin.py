"""The accelerator's API, in place of the real one in us-west-2: read everything, set a dial, set a weight.

* `GET /status`: `AcceleratorState.status` as JSON.
* `PUT /dial` with `{"region": "us-east-1", "dial": 0..100}`.
* `PUT /weight` with `{"endpoint": "us-east-1", "weight": 0..255}`.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stacks.local.accelerator.rules import MAX_DIAL, MAX_WEIGHT, AcceleratorError
from stacks.local.accelerator.state import AcceleratorState

MAX_BODY_BYTES = 4096
STATE = web.AppKey("state", AcceleratorState)

M = TypeVar("M", bound=BaseModel)


class DialChange(BaseModel):
    """A new traffic dial."""

    model_config = ConfigDict(extra="forbid", strict=True)
    region: str
    dial: float = Field(ge=0, le=MAX_DIAL, allow_inf_nan=False)


class WeightChange(BaseModel):
    """A new endpoint weight."""

    model_config = ConfigDict(extra="forbid", strict=True)
    endpoint: str
    weight: int = Field(ge=0, le=MAX_WEIGHT)


def application(state: AcceleratorState) -> web.Application:
    """Build the admin application."""
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app[STATE] = state
    app.router.add_get("/status", _status)
    app.router.add_put("/dial", _dial)
    app.router.add_put("/weight", _weight)
    return app


async def _status(request: web.Request) -> web.Response:
    return web.json_response(request.app[STATE].status())


async def _dial(request: web.Request) -> web.Response:
    change = await _body(request, DialChange)
    try:
        request.app[STATE].set_dial(change.region, change.dial)
    except AcceleratorError as error:
        raise _refusal(web.HTTPNotFound, str(error)) from error
    return await _status(request)


async def _weight(request: web.Request) -> web.Response:
    change = await _body(request, WeightChange)
    try:
        request.app[STATE].set_weight(change.endpoint, change.weight)
    except AcceleratorError as error:
        raise _refusal(web.HTTPNotFound, str(error)) from error
    return await _status(request)


async def _body(request: web.Request, model: type[M]) -> M:
    """Read a change; answers 400 with one sentence a fault."""
    try:
        return model.model_validate_json(await request.read())
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, f['loc'])) or 'body'}: {f['msg']}" for f in error.errors())
        raise _refusal(web.HTTPBadRequest, f"The change was refused: {faults}.") from error


def _refusal(kind: type[web.HTTPClientError], sentence: str) -> web.HTTPClientError:
    """Return an error answer with a JSON body."""
    body: dict[str, Any] = {"error": sentence}
    return kind(text=json.dumps(body), content_type="application/json")
