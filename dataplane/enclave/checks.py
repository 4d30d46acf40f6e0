"""What is refused before KMS is asked, in the protocol's order, and what of a message's content is refused after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dataplane.protocol.errors import ProblemError
from dataplane.protocol.header import RequestHeader, check_http, check_time
from dataplane.protocol.message import MessageError, RequestMessage

CONTENT_TYPE = "application/json"

DEFAULT_DEADLINE_MS = 300_000
MAX_DEADLINE_MS = 3_600_000
"""Longest request: an hour, the accelerator's and load balancer's connections live no longer without traffic."""


def deadline_s(fields: Mapping[str, Any]) -> float:
    """Return the seconds that an operation's `deadline_ms` leaves; raises `ProblemError` (`deadline-exceeded`)."""
    value = fields.get("deadline_ms", DEFAULT_DEADLINE_MS)
    if type(value) is not int:
        raise ProblemError("malformed-envelope", "The host link's deadline_ms is not a whole number of ms.")
    if value <= 0:
        raise ProblemError("deadline-exceeded", "The request's deadline had passed when it reached the enclave.")
    return min(value, MAX_DEADLINE_MS) / 1000


def text_field(fields: Mapping[str, Any], name: str) -> str:
    """Return a short text of an operation; raises `ProblemError` (`header-mismatch`)."""
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise ProblemError("header-mismatch", f"The host link's {name} is missing; the parent copies it from HTTP.")
    return value


def check_header(header: RequestHeader, fields: Mapping[str, Any], *, now_ms: int) -> None:
    """Refuse a header that disagrees with HTTP's headers, or is too old or new; raises `ProblemError`."""
    check_http(
        header,
        tenant=text_field(fields, "tenant"),
        model=text_field(fields, "model"),
        kms=text_field(fields, "kms"),
    )
    check_time(header, now_ms)


def check_assurance(header: RequestHeader, level: int) -> None:
    """Refuse a request that asks for more than this host proves; raises `ProblemError`."""
    if level < header.assurance:
        raise ProblemError(
            "assurance-too-low",
            f"The tenant asks for assurance level {header.assurance} and this host proves level {level}.",
        )


def read_message(message: bytes) -> RequestMessage:
    """Read an opened message; raises `MessageError` with the inner status and a sentence that quotes nothing of it."""
    request = RequestMessage.decode(message)
    if request.content_type.partition(";")[0].strip().lower() != CONTENT_TYPE:
        raise MessageError(415, f"The content type must be {CONTENT_TYPE}.")
    if not request.body:
        raise MessageError(400, "The body is empty; a JSON object is needed.")
    return request
