"""The host link: framed messages between parent, enclave proxy, enclave and GPU worker on one host.

    message = u8 type || u32 len(payload) || payload        at most 65,536 bytes of payload

One connection carries one operation. What each type and operation means stands in docs/host-link.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

from dataplane.protocol import cbor
from dataplane.protocol.errors import LinkError

MAX_PAYLOAD_BYTES: Final = 64 * 1024
LINK_HEAD_BYTES: Final = 5
MAX_MAP_ITEMS: Final = 64
"""Items of a map that goes towards an enclave or a worker, or says how a stream ended: the largest, `infer`, has 15."""
MAX_REPLY_ITEMS: Final = 2048
"""Items of a REPLY: `stats` has about 60 and 13 for every loaded model pool, so 150 pools fit."""
_HEAD: Final = struct.Struct(">BI")


class LinkType(IntEnum):
    """Types of link messages."""

    OPEN = 1
    DATA = 2
    END = 3
    PROBLEM = 4
    ABORT = 5
    HOP_DATA = 6
    HOP_END = 7
    HOP_ABORT = 8
    SPANS = 9
    REPLY = 10


_TYPES: Final = {int(kind): kind for kind in LinkType}
_SPLITTABLE: Final = frozenset({LinkType.DATA, LinkType.HOP_DATA})


@dataclass(frozen=True, slots=True)
class LinkMessage:
    """One message; the payload is left out of `repr` because it may hold credentials."""

    type: LinkType
    payload: bytes = field(default=b"", repr=False)

    def map(self) -> dict[str, Any]:
        """Read the payload as a CBOR map with text keys; `LinkError` if it is none, or has more items than its type."""
        items = MAX_REPLY_ITEMS if self.type is LinkType.REPLY else MAX_MAP_ITEMS
        try:
            return cbor.decode_map(self.payload, max_bytes=MAX_PAYLOAD_BYTES, max_items=items)
        except cbor.CborError as error:
            raise LinkError(f"a {self.type.name} message on the host link is no CBOR map: {error}") from error


def encode(kind: LinkType, payload: bytes = b"") -> bytes:
    """Return one message; `LinkError` when the payload exceeds 65,536 bytes (use `split` for streams)."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise LinkError(
            f"a {kind.name} message of {len(payload)} bytes was made for the host link, "
            f"which takes at most {MAX_PAYLOAD_BYTES}",
        )
    return _HEAD.pack(kind, len(payload)) + payload


def encode_map(kind: LinkType, fields: Mapping[str, object]) -> bytes:
    """Return one message whose payload is `fields` as CBOR."""
    return encode(kind, cbor.encode(dict(fields)))


def split(kind: LinkType, data: bytes) -> Iterator[bytes]:
    """Yield `data` as messages of DATA or HOP_DATA, none of them empty."""
    if kind not in _SPLITTABLE:
        raise LinkError(f"a {kind.name} message can't be split; only DATA and HOP_DATA are streams")
    for start in range(0, len(data), MAX_PAYLOAD_BYTES):
        yield encode(kind, data[start : start + MAX_PAYLOAD_BYTES])


class LinkDecoder:
    """Reads messages from a byte stream in pieces of any size; `add` bytes, then take each message with `next`.

    What has not been taken stays bytes: a read of 64 KiB can hold 13,107 empty messages, and making them all at once
    would hold the loop and take ten times their size. A caller that takes all before it adds holds one unfinished
    message at most, 65,541 bytes.
    """

    def __init__(self) -> None:
        """Start at a message's boundary."""
        self._buffer = bytearray()
        self._error: LinkError | None = None

    @property
    def empty(self) -> bool:
        """Whether the stream stands at a message's boundary, where it may end."""
        return not self._buffer

    def add(self, data: bytes) -> None:
        """Add bytes; the fault that an earlier `next` met is raised again."""
        if self._error is not None:
            raise self._error
        self._buffer += data

    def next(self) -> LinkMessage | None:
        """Take the next message, or None when no whole one is there.

        Raises `LinkError` for an unknown type or a length over the limit, as soon as the head is there, and from then
        on.
        """
        if self._error is not None:
            raise self._error
        buffer = self._buffer
        if len(buffer) < LINK_HEAD_BYTES:
            return None
        number, length = _HEAD.unpack_from(buffer)
        kind = _TYPES.get(number)
        if kind is None or length > MAX_PAYLOAD_BYTES:
            buffer.clear()
            self._error = LinkError(
                f"the host link's peer sent a message of type {number} and {length} bytes, "
                f"and only types 1 to 10 with at most {MAX_PAYLOAD_BYTES} exist",
            )
            raise self._error
        end = LINK_HEAD_BYTES + length
        if end > len(buffer):
            return None
        message = LinkMessage(kind, bytes(buffer[LINK_HEAD_BYTES:end]))
        # CPython moves the start of a bytearray instead of its rest: this costs nothing, however much follows.
        del buffer[:end]
        return message
