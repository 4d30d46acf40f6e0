"""From a hop message to what the engine is given: the tenant's JSON, with the worker's word where it is the worker's.

The tenant never chooses the prefix cache's salt, its priority or identifiers inside the engine. The rest of the
body is the engine's to judge: its errors are genuine ones.
"""

from __future__ import annotations

import json
from typing import Any, Final

from dataplane.worker.engine import EngineCall

PATHS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
"""What an envelope may ask for (docs/protocol.md)."""

NOT_THE_TENANTS: Final = (
    "cache_salt",
    "priority",
    "request_id",
    "kv_transfer_params",
    "ec_transfer_params",
    "kv_hints",
)
"""Members that reach inside the engine: a salt or an identifier of another tenant, its scheduling, its KV transfer."""


EXTRA_ARGUMENTS: Final = "vllm_xargs"
"""vLLM's second way to the same members: what is in here becomes the request's extra arguments as it is."""


class InnerError(Exception):
    """A fault of the message itself: answered inside the sealed response, in OpenAI's error shape.

    It is no `MrgcError`: its text is for the tenant alone and may name what the tenant sent.
    """

    def __init__(self, status: int, message: str, *, kind: str = "invalid_request_error", **where: str) -> None:
        """`where` may give OpenAI's `param` and `code`."""
        super().__init__(kind)  # the text stays out of str(): logs may show that
        self.status = status
        self.body = error_body(message, kind=kind, param=where.get("param"), code=where.get("code"))


def error_body(message: str, *, kind: str, param: str | None = None, code: str | None = None) -> bytes:
    """An error as OpenAI's API writes it."""
    error = {"message": message, "type": kind, "param": param, "code": code}
    return json.dumps({"error": error}, ensure_ascii=False).encode()


def prepare(*, path: str, body: bytes, pool: str, cache_salt: str, priority: int) -> EngineCall:
    """Check the message as far as the worker must, and set what is the worker's to set; raises `InnerError`."""
    if path not in PATHS:
        raise InnerError(404, f"There is no {path[:128]!r} here; there are {', '.join(PATHS)}.", code="not_found")
    request = _parse(body)
    model = request.setdefault("model", pool)
    if model != pool:
        raise InnerError(
            404,
            f"The request was sealed for the model pool {pool!r} and its body asks for another model.",
            param="model",
            code="model_not_found",
        )
    for name in NOT_THE_TENANTS:
        request.pop(name, None)
        if isinstance(extra := request.get(EXTRA_ARGUMENTS), dict):
            extra.pop(name, None)
    request["cache_salt"] = cache_salt
    request["priority"] = priority
    return EngineCall(path=path, body=json.dumps(request, ensure_ascii=False).encode())


def _parse(body: bytes) -> dict[str, Any]:
    try:
        # NaN and Infinity are no JSON (RFC 8259, section 6), though Python reads them.
        request = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise InnerError(400, "The body could not be read as JSON.") from None
    if not isinstance(request, dict):
        raise InnerError(400, "The body must be a JSON object.")
    try:
        json.dumps(request, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InnerError(400, "The body holds half of a surrogate pair, which is no text.") from None
    return request


def _refuse_constant(name: str) -> float:
    raise ValueError(name)
