"""What is inside an envelope: the request message and the response's head; the receipt has its own module."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Final, Self

from dataplane.protocol import cbor
from dataplane.protocol.errors import MrgcError, OpenError
from dataplane.protocol.frames import MAX_FRAME_DATA
from dataplane.protocol.suite import MAX_MESSAGE_BYTES

PATHS: Final = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings"})
MAX_PATH: Final = 256
MAX_CONTENT_TYPE: Final = 256
MAX_SHORT_TEXT: Final = 256
MAX_PCR_BYTES: Final = 64
"""PCRs are SHA-384 today (48 bytes); the NSM's format allows up to SHA-512."""
HASH_BYTES: Final = 32
OPENED_ITEMS: Final = 256
"""The largest map in an opened frame, the receipt, has 176: itself, 16 members, three maps of 2, 2 and 3 pairs, and 32
spans of a list and three values; the rest is room for members to come."""

REQUEST_ITEMS: Final = 1 + 2 * 3
"""The map and its three members, none of which holds others."""
_STATUS: Final = range(200, 600)
_MAX_UINT: Final = 2**64 - 1
_NOT_FOUND: Final = 404
_BAD_REQUEST: Final = 400


class MessageError(MrgcError):
    """An authentic message that asks for something impossible; answered inside the envelope with `status`."""

    def __init__(self, status: int, sentence: str) -> None:
        """Keep the inner HTTP status."""
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestMessage:
    """The tenant's request: `body` is the OpenAI-compatible JSON, not looked at here."""

    path: str
    content_type: str
    body: bytes = field(repr=False)

    def encode(self) -> bytes:
        """Return the message as CBOR."""
        return cbor.encode({"path": self.path, "content_type": self.content_type, "body": self.body})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read an opened message; `MessageError` 400 for a wrong form, 404 for a path that is not in `PATHS`."""
        try:
            fields = cbor.decode_map(data, max_bytes=MAX_MESSAGE_BYTES, max_items=REQUEST_ITEMS, max_depth=1)
        except cbor.CborError as error:
            raise MessageError(_BAD_REQUEST, f"the request message can't be read: {error}") from error
        if fields.keys() != {"path", "content_type", "body"}:
            raise MessageError(_BAD_REQUEST, "the request message must have exactly path, content_type and body")
        path, content_type, body = fields["path"], fields["content_type"], fields["body"]
        if not is_text(path, MAX_PATH) or not is_text(content_type, MAX_CONTENT_TYPE) or not isinstance(body, bytes):
            raise MessageError(_BAD_REQUEST, "the request message needs text in path and content_type, bytes in body")
        if path not in PATHS:
            raise MessageError(_NOT_FOUND, "no such path inside the envelope; use one of " + ", ".join(sorted(PATHS)))
        return cls(path=path, content_type=content_type, body=body)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHead:
    """First frame of a response: the inner HTTP status and media type."""

    status: int
    content_type: str

    def encode(self) -> bytes:
        """Return the head as CBOR."""
        return cbor.encode({"status": self.status, "content_type": self.content_type})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the first frame's data; `OpenError` if it is no head."""
        fields = opened_map(data, "response head", {"status", "content_type"})
        check_status(fields["status"], "response head")
        if not is_text(fields["content_type"], MAX_CONTENT_TYPE):
            raise OpenError("the response head needs a content type")
        return cls(**fields)


def opened_map(data: bytes, what: str, keys: set[str]) -> dict[str, Any]:
    """Read a map with exactly `keys` from an opened frame; `OpenError` naming `what`."""
    fields = opened_fields(data, what, keys)
    if len(fields) != len(keys):
        raise OpenError(f"the {what} must have exactly the keys " + ", ".join(sorted(keys)))
    return fields


def opened_fields(data: bytes, what: str, required: AbstractSet[str]) -> dict[str, Any]:
    """Read a map with `required` and any further keys from an opened frame; `OpenError` naming `what`."""
    try:
        fields = cbor.decode_map(data, max_bytes=MAX_FRAME_DATA, max_items=OPENED_ITEMS)
    except cbor.CborError as error:
        raise OpenError(f"the {what} can't be read: {error}") from error
    if not required <= fields.keys():
        raise OpenError(f"the {what} must have the keys " + ", ".join(sorted(required)))
    return fields


def check_status(status: object, what: str) -> None:
    """Raise `OpenError` unless `status` is an HTTP status from 200 to 599."""
    if type(status) is not int or status not in _STATUS:
        raise OpenError(f"the {what} needs a status from 200 to 599")


def is_text(value: object, most: int) -> bool:
    """Say whether `value` is text of at most `most` characters."""
    return isinstance(value, str) and len(value) <= most


def is_name(value: object) -> bool:
    """Say whether `value` is printable ASCII of at most 256 characters, fit for a header, a log line and a terminal."""
    return is_text(value, MAX_SHORT_TEXT) and isinstance(value, str) and value.isascii() and value.isprintable()


def is_uint(value: object, most: int = _MAX_UINT) -> bool:
    """Say whether `value` is an unsigned integer (and no boolean)."""
    return type(value) is int and 0 <= value <= most
