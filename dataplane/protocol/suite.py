"""What differs between the tenant's envelope and the worker hop: magic, labels and limits. The rest is shared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

VERSION: Final = 1
"""The one protocol version."""

MAX_MESSAGE_BYTES: Final = 1024 * 1024
"""A request message: the joined data of all request frames."""

MAX_HEADER_BYTES: Final = 8192
"""An encoded header: 6,144 bytes of wrapped key leave 2,048 for the rest, which takes about 400."""

MAX_HOP_MESSAGE_BYTES: Final = MAX_MESSAGE_BYTES + 8192
"""A hop message carries the tenant's body and, beside it, model, salt, path and trace context: under 1 KiB of text."""

MAX_HOP_HEADER_BYTES: Final = 512
"""A hop header: 16 + 16 + 32 + 48 bytes of fields, six keys and heads; 151 bytes at most."""

BODY_FACTOR: Final = 4
"""How much larger than its message a body may be. Frames that carry at least a quarter of what they occupy pass: with
`pad` 4,096 that is 1,024 bytes of data a frame, with `pad` 256 it is 65."""

MIN_FRAME_DATA: Final = 256
"""Data that the frames of the largest message must carry on average. A frame costs an opener a call of the cipher
(2 us) however little it carries, so frames are counted as well as bytes."""

MAX_REQUEST_FRAMES: Final = MAX_MESSAGE_BYTES // MIN_FRAME_DATA
"""Frames of one request, empty ones counted: 4,096. Our own senders use 65 for the largest message, 257 if each frame
carried one page; a sender that pads to 4,096 can have 1,026 before the body is too large. All of them together take an
opener about 8 ms."""

_FRAME_ALLOWANCE: Final = 65_552 + 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Constants of one kind of envelope. Labels are the `info` of HKDF-Expand (RFC 5869)."""

    magic: bytes
    request_key: bytes
    request_nonce: bytes
    response_key: bytes
    response_nonce: bytes
    max_header_bytes: int
    max_message_bytes: int

    @property
    def preamble(self) -> bytes:
        """Magic and version, the first five bytes of every body."""
        return self.magic + bytes([VERSION])

    @property
    def max_body_bytes(self) -> int:
        """Most bytes of one request body, header included; an opener never holds more than this."""
        return len(self.magic) + 5 + self.max_header_bytes + BODY_FACTOR * self.max_message_bytes + _FRAME_ALLOWANCE


TENANT_SUITE: Final = Suite(
    magic=b"MRGC",
    request_key=b"mrgc/1 request key",
    request_nonce=b"mrgc/1 request nonce",
    response_key=b"mrgc/1 response key",
    response_nonce=b"mrgc/1 response nonce",
    max_header_bytes=MAX_HEADER_BYTES,
    max_message_bytes=MAX_MESSAGE_BYTES,
)
"""The envelope between tenant and enclave."""

HOP_SUITE: Final = Suite(
    magic=b"MRGH",
    request_key=b"mrgc/1 hop request key",
    request_nonce=b"mrgc/1 hop request nonce",
    response_key=b"mrgc/1 hop response key",
    response_nonce=b"mrgc/1 hop response nonce",
    max_header_bytes=MAX_HOP_HEADER_BYTES,
    max_message_bytes=MAX_HOP_MESSAGE_BYTES,
)
"""The envelope between enclave and GPU worker."""

MAX_BODY_BYTES: Final = TENANT_SUITE.max_body_bytes
"""Most bytes of a request body that the router, the parent and the enclave accept: 4,268,062."""
