"""What the router reads of a request: its head, and nothing else.

Pure and free of any HTTP library's types: raw header pairs in, plain values or a `ProblemError` out, so that the same
code serves the aiohttp shell of today and a bare `asyncio.Protocol`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dataplane.protocol.affinity import parse_affinity
from dataplane.protocol.errors import ProblemError
from dataplane.protocol.suite import MAX_BODY_BYTES

MAX_REQUEST_BYTES = MAX_BODY_BYTES
"""Longest envelope that is passed on: what parent and enclave accept too (dataplane/protocol/suite.py)."""

MAX_IDENTIFIER = 128
"""Longest tenant, model pool and request id, in characters (docs/protocol.md)."""

MAX_ARN = 2048
"""Longest KMS key ARN that KMS itself takes, in characters (API reference, `KeyId`)."""

MAX_API_KEY = 512
"""Longest API key that is hashed; ours have 43 characters, and this bounds the work of a guess."""

CONTENT_TYPE = "application/octet-stream"
"""Media type of an envelope."""

_WANTED = frozenset(
    {
        "authorization",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "traceparent",
        "transfer-encoding",
        "upgrade",
        "x-deadline-ms",
        "x-kms-key-arn",
        "x-model-pool",
        "x-mrgc-affinity",
        "x-request-id",
        "x-tenant-id",
    }
)

_TRACEPARENT = re.compile(
    r"(?P<version>(?!ff)[0-9a-f]{2})(?P<known>-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(?P<more>-.*)?"
)
_DIGITS = re.compile(r"[0-9]{1,19}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Who says that they are calling: the tenant's name (or None) and the API key, which no repr shows."""

    tenant: str | None
    api_key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """How the body is delimited: `length` in bytes, or None when it is chunked; and whether 100 is awaited."""

    length: int | None
    expects_continue: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRequest:
    """All that the router knows of one inference request."""

    tenant: str
    model: str
    kms: str
    request_id: str | None
    deadline: str | None
    affinity: tuple[str, ...]
    traceparent: str | None
    framing: Framing


def read_fields(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the headers that the router reads, by lower-case name.

    Raises `ProblemError` `malformed-envelope` for a header given twice or one that is no printable text: what two
    parsers may read differently is refused, not interpreted.
    """
    fields: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name = raw_name.decode("latin-1").lower()
        if name not in _WANTED:
            continue
        if name in fields:
            raise _malformed(f"The header {name} was given twice; send it once.")
        try:
            value = raw_value.decode("utf-8").strip(" \t")
        except UnicodeDecodeError:
            value = "\0"
        if value and not value.isprintable():
            raise _malformed(f"The header {name} is not printable UTF-8 text; send plain text.")
        fields[name] = value
    return fields


def read_request_id(fields: Mapping[str, str]) -> str | None:
    """Return `X-Request-ID`, or None if there is none; `malformed-envelope` if it's over `MAX_IDENTIFIER`."""
    value = fields.get("x-request-id")
    if not value:
        return None
    if len(value) > MAX_IDENTIFIER:
        raise _malformed(f"X-Request-ID has {len(value)} characters; the most is {MAX_IDENTIFIER}.")
    return value


def read_traceparent(fields: Mapping[str, str]) -> str | None:
    """Return a valid `traceparent` (W3C Trace Context), or None: an invalid one is ignored, as the standard says.

    One of a later version is read as far as version 00 goes, for it may say that nothing is to be traced.
    """
    found = _TRACEPARENT.fullmatch(fields.get("traceparent", ""))
    if found is None or (found["version"] == "00" and found["more"] is not None):
        return None
    return "00" + found["known"]


def read_credentials(fields: Mapping[str, str]) -> Credentials:
    """Return the caller's claim; raises `ProblemError` `unauthenticated` when no usable Bearer key was given."""
    scheme, _, key = fields.get("authorization", "").partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        raise ProblemError(
            "unauthenticated", "No API key was given; send the header 'Authorization: Bearer' with the tenant's key."
        )
    if len(key) > MAX_API_KEY:
        raise ProblemError("unauthenticated", "The API key is longer than any that was issued; check the header.")
    tenant = fields.get("x-tenant-id") or None
    return Credentials(tenant=tenant, api_key=key)


def read_route(fields: Mapping[str, str]) -> RouteRequest:
    """Return the routing facts of one `POST /inference`.

    Raises `ProblemError`: `header-mismatch` where a header that must equal the envelope's is missing or out of
    bounds, `too-large` for a `Content-Length` over `MAX_REQUEST_BYTES`, `malformed-envelope` for the rest.
    """
    content_type = fields.get("content-type", "").split(";", 1)[0].strip().lower()
    if content_type != CONTENT_TYPE:
        raise _malformed(f"Content-Type is {content_type[:64]!r}; an envelope is sent as {CONTENT_TYPE}.")
    return RouteRequest(
        tenant=_identifier(fields, "X-Tenant-ID", MAX_IDENTIFIER),
        model=_identifier(fields, "X-Model-Pool", MAX_IDENTIFIER),
        kms=_identifier(fields, "X-KMS-Key-ARN", MAX_ARN),
        request_id=read_request_id(fields),
        deadline=fields.get("x-deadline-ms"),
        affinity=tuple(parse_affinity(fields.get("x-mrgc-affinity"))),
        traceparent=read_traceparent(fields),
        framing=read_framing(fields),
    )


def read_framing(fields: Mapping[str, str]) -> Framing:
    """Return how the body is delimited, refusing every way of saying it that two parsers could read differently.

    RFC 9112, section 6.3: a message with both `Transfer-Encoding` and `Content-Length` ought to be handled as an
    error; a proxy that guesses is how requests are smuggled.
    """
    transfer, length = fields.get("transfer-encoding"), fields.get("content-length")
    expects = _expects_continue(fields)
    if transfer is not None and length is not None:
        raise _malformed("Both Content-Length and Transfer-Encoding were given; send one of them.")
    if transfer is not None:
        if transfer.lower() != "chunked":
            raise _malformed(f"Transfer-Encoding is {transfer[:64]!r}; only chunked is taken.")
        return Framing(length=None, expects_continue=expects)
    if length is None:
        raise _malformed("The request has no body; send the envelope with Content-Length or chunked.")
    if not _DIGITS.fullmatch(length):
        raise _malformed(f"Content-Length is {length[:32]!r}; send one decimal number.")
    size = int(length)
    if size > MAX_REQUEST_BYTES:
        raise ProblemError(
            "too-large", f"Content-Length is {size} bytes; an envelope has at most {MAX_REQUEST_BYTES} bytes."
        )
    if size == 0:
        raise _malformed("The request's body is empty; send the envelope.")
    return Framing(length=size, expects_continue=expects)


def _expects_continue(fields: Mapping[str, str]) -> bool:
    """Refuse what would change the body's meaning on the way, and say whether 100 (Continue) is awaited."""
    if fields.get("content-encoding", "identity").lower() not in {"", "identity"}:
        raise _malformed("Content-Encoding is not supported: ciphertext does not compress; send the body as it is.")
    if "upgrade" in fields:
        raise _malformed("Upgrade is not supported here; send a plain HTTP/1.1 request.")
    expect = fields.get("expect", "").lower()
    if expect not in {"", "100-continue"}:
        raise _malformed(f"Expect is {expect[:64]!r}; only 100-continue is known.")
    return expect == "100-continue"


def _identifier(fields: Mapping[str, str], header: str, limit: int) -> str:
    value = fields.get(header.lower(), "")
    if not value:
        raise ProblemError("header-mismatch", f"The header {header} is missing; send what the envelope says.")
    if len(value) > limit:
        raise ProblemError("header-mismatch", f"{header} has {len(value)} characters; the most is {limit}.")
    return value


def _malformed(sentence: str) -> ProblemError:
    return ProblemError("malformed-envelope", sentence)
