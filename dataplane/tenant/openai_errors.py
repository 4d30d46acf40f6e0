"""Errors in OpenAI's shape, so that the stock client raises what its users expect.

`{"error": {"message", "type", "param", "code"}}` (OpenAI API reference, "Errors"). The client retries by status
unless `x-should-retry` says otherwise; we have tried several times already, so a failure of the cluster says false,
unless the cluster itself named a time to come back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from dataplane.protocol.errors import MrgcError, ProblemError
from dataplane.tenant.errors import BrokenStreamError, ReceiptError, RequestError
from dataplane.tenant.session import SessionError

CONFLICT = 409
TOO_MANY = 429
SERVER_ERROR = 500

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
}
_OPENAI_CODES = {"unknown-model-pool": "model_not_found", "unauthenticated": "invalid_api_key"}
"""Codes that OpenAI's users look for; every other code is the protocol's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIError:
    """One error answer: status, code, a sentence, and what to tell the client about retrying."""

    status: int
    code: str
    message: str
    param: str | None = None
    retry_after_s: int | None = None
    attempts: int | None = None

    def body(self) -> bytes:
        """The JSON document."""
        error = {
            "message": self.message,
            "type": _TYPES.get(self.status, "server_error" if self.status >= SERVER_ERROR else "api_error"),
            "param": self.param,
            "code": self.code,
        }
        return json.dumps({"error": error}, ensure_ascii=False).encode()

    def headers(self) -> dict[str, str]:
        """Content type, `x-should-retry`, and Retry-After where the cluster gave one."""
        # A replay is refused for its envelope, and the next attempt is a new one.
        retry = self.retry_after_s is not None or self.status in {CONFLICT, TOO_MANY}
        headers = {"Content-Type": "application/json", "x-should-retry": "true" if retry else "false"}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        if self.attempts is not None:
            headers["X-MRGC-Attempts"] = str(self.attempts)
        return headers


def openai_error(error: MrgcError) -> OpenAIError:
    """What a failed request tells the stock client."""
    if isinstance(error, RequestError):
        return OpenAIError(
            status=error.status,
            code=_OPENAI_CODES.get(error.code, error.code),
            message=str(error),
            param="model" if error.code == "unknown-model-pool" else None,
            retry_after_s=error.retry_after_s,
            attempts=error.attempts,
        )
    if isinstance(error, ProblemError):
        return OpenAIError(status=error.status, code=error.code, message=error.detail)
    if isinstance(error, SessionError):
        status, code = (403, "kms-denied") if error.denied else (503, "kms-unavailable")
        return OpenAIError(status=status, code=code, message=str(error))
    code = "response-not-opened"
    if isinstance(error, BrokenStreamError):
        code = "response-incomplete"
    elif isinstance(error, ReceiptError):
        code = "receipt-refused"
    return OpenAIError(status=502, code=code, message=str(error))
