"""One exchange that its tenant discloses: the sealed bytes of both directions and the keys of this request alone.

The data key would open every request of its session. What HKDF-Expand made from it for one request (a key and a nonce
base for each direction) opens that request and its response and says nothing of the data key or of another request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from dataplane.protocol.errors import MrgcError
from dataplane.protocol.frames import FINAL, FrameBuffer, FrameOpener
from dataplane.protocol.header import RequestHeader
from dataplane.protocol.keys import SALT_BYTES, DirectionKeys, KeySchedule, opened_digest
from dataplane.protocol.message import RequestMessage, ResponseHead
from dataplane.protocol.suite import MAX_HEADER_BYTES, TENANT_SUITE
from dataplane.tenant.errors import ReceiptError

MAX_RESPONSE_BYTES = 16 << 20
"""Longest sealed response that is kept for disclosure: hours of chat, or 300 embeddings of 4,096 numbers as text."""

_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedExchange:
    """What was asked and answered, as the enclave had it.

    `request_hash`, `opened` and `response_hash` are what the receipt must name; `head` is the response head's CBOR and
    `receipt` the final frame's data.
    """

    header: RequestHeader
    message: RequestMessage = field(repr=False)
    head: bytes
    body: bytes = field(repr=False)
    receipt: bytes = field(repr=False)
    request_hash: bytes
    opened: bytes
    response_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Disclosed:
    """The sealed request as sent, the response's frames (after magic, version and `rs`), and either direction's keys.

    `rs` only made the response's keys, so it is of no use beside them.
    """

    request: bytes = field(repr=False)
    response: bytes = field(repr=False)
    request_keys: DirectionKeys = field(repr=False)
    response_keys: DirectionKeys = field(repr=False)

    def open(self) -> OpenedExchange:
        """Open both; `ReceiptError` where they are no exchange under these keys."""
        try:
            return self._open()
        except ReceiptError:
            raise
        except MrgcError as error:
            raise ReceiptError(f"The disclosed exchange does not open: {error}") from None

    def _open(self) -> OpenedExchange:
        header_end = _header_end(self.request)
        prefix, frames = self.request[:header_end], self.request[header_end:]
        header = RequestHeader.decode(prefix[len(TENANT_SUITE.preamble) + _LENGTH_BYTES :])
        header_hash = hashlib.sha256(prefix).digest()
        message = b"".join(_opened(frames, self.request_keys, header_hash, header.pad))
        answered = list(_opened(self.response, self.response_keys, header_hash, header.pad))
        if len(answered) < 2:  # noqa: PLR2004 - a head and a receipt at least
            raise ReceiptError("The disclosed response has no head before its receipt.")
        head, *body, receipt = answered
        ResponseHead.decode(head)
        return OpenedExchange(
            header=header,
            message=RequestMessage.decode(message),
            head=head,
            body=b"".join(body),
            receipt=receipt,
            request_hash=hashlib.sha256(frames).digest(),
            opened=opened_digest(header_hash, self.request_keys),
            response_hash=hashlib.sha256(b"".join(answered[:-1])).digest(),
        )


class ExchangeRecorder:
    """Keeps one exchange while it happens, for `disclosed` at its end."""

    def __init__(self, *, prefix: bytes, sealed: bytes, cek: bytes, request_hash: bytes) -> None:
        """Keep a request: `prefix` is its magic, version and header, `sealed` the whole body, `request_hash` `th`.

        `cek` (32 bytes) is used here and not kept.
        """
        self._schedule = KeySchedule(TENANT_SUITE, prefix, cek)
        self._sealed = sealed
        self._request_hash = request_hash
        self._response = bytearray()
        self._too_long = False

    def feed(self, data: bytes) -> None:
        """Add bytes of the sealed response; past `MAX_RESPONSE_BYTES` nothing is kept any more."""
        self._too_long = self._too_long or len(self._response) + len(data) > MAX_RESPONSE_BYTES
        if self._too_long:
            self._response.clear()
        else:
            self._response += data

    def disclosed(self) -> Disclosed:
        """The exchange and its keys; `ReceiptError` when the response was too long to be kept."""
        if self._too_long:
            raise ReceiptError(f"The response is over {MAX_RESPONSE_BYTES} bytes, too long to be disclosed.")
        start = len(TENANT_SUITE.preamble)
        end = start + SALT_BYTES
        salt = bytes(self._response[start:end])
        return Disclosed(
            request=self._sealed,
            response=bytes(self._response[end:]),
            request_keys=self._schedule.request(),
            response_keys=self._schedule.response(salt, self._request_hash),
        )


def sealed_request_hash(sealed: bytes) -> bytes:
    """`th` of a sealed request body: SHA-256 over its frames as sent; `ReceiptError` when it is none."""
    return hashlib.sha256(sealed[_header_end(sealed) :]).digest()


def is_sealed(data: bytes) -> bool:
    """Say whether bytes start as an envelope; no JSON does."""
    return data.startswith(TENANT_SUITE.preamble)


def _header_end(sealed: bytes) -> int:
    """Where the header of a sealed request ends and its frames begin."""
    start = len(TENANT_SUITE.preamble)
    length = int.from_bytes(sealed[start : start + _LENGTH_BYTES])
    end = start + _LENGTH_BYTES + length
    if not is_sealed(sealed) or not 0 < length <= MAX_HEADER_BYTES or len(sealed) <= end:
        raise ReceiptError("The sealed request does not start as an envelope of version 1 with a header.")
    return end


def _opened(frames: bytes, keys: DirectionKeys, header_hash: bytes, pad: int) -> Iterator[bytes]:
    """The data of each frame, in order; `ReceiptError` where the last is not final."""
    buffer = FrameBuffer(pad)
    buffer.feed(frames)
    opener = FrameOpener(keys, header_hash, pad)
    for flag, ciphertext in buffer.take():
        data = opener.open(flag, ciphertext)
        yield data
        if flag == FINAL:
            return  # `feed` refused what follows it
    raise ReceiptError("The disclosed exchange ends before its final frame.")
