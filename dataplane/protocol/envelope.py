"""Envelopes, both roles and both directions, sans-IO: bytes in, bytes out, in pieces of any size.

    request  = magic || u8 1 || u32 len(H) || H || frame*
    response = magic || u8 1 || rs(32) || frame*

Every class is parametrised by a `Suite`, so the worker hop (hop.py) is the same code with other labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Generic, NoReturn, Protocol, TypeVar

from dataplane.protocol.errors import OpenError, ProblemError
from dataplane.protocol.frames import MAX_FRAME_DATA, FrameBuffer, FrameError, FrameOpener, FrameSealer
from dataplane.protocol.header import RequestHeader
from dataplane.protocol.keys import SALT_BYTES, KeySchedule
from dataplane.protocol.suite import MAX_BODY_BYTES, TENANT_SUITE, VERSION, Suite

__all__ = [
    "DEFAULT_FRAME_BYTES",
    "MAX_BODY_BYTES",
    "EnvelopeOpener",
    "Opened",
    "RequestOpener",
    "RequestSealer",
    "ResponseOpener",
    "ResponseSealer",
]

DEFAULT_FRAME_BYTES: Final = 16_384
"""Data per request frame: 64 frames for the largest message, 0.13 % overhead without padding."""

_LENGTH_BYTES: Final = 4


class EnvelopeHeader(Protocol):
    """What a sealer needs of a header."""

    @property
    def pad(self) -> int:
        """Plaintext of each frame is padded to a multiple of it; 0 for none."""
        ...

    def encode(self) -> bytes:
        """Return `H`."""
        ...


HeaderT = TypeVar("HeaderT", bound=EnvelopeHeader)


class RequestSealer:
    """Seals one request under a 32-byte secret: `prefix()` first, then every `seal()` in order."""

    def __init__(self, header: EnvelopeHeader, cek: bytes, *, suite: Suite = TENANT_SUITE) -> None:
        """Derive the request's keys; `cek` is the data key's 32 plaintext bytes."""
        encoded = header.encode()
        self._suite = suite
        self._prefix = suite.preamble + len(encoded).to_bytes(_LENGTH_BYTES) + encoded
        self._schedule = KeySchedule(suite, self._prefix, cek)
        self._pad = header.pad
        self._frames = FrameSealer(self._schedule.request(), self._schedule.header_hash, header.pad)
        self._transcript = hashlib.sha256()
        self._sealed = 0

    def prefix(self) -> bytes:
        """Return magic, version, header length and header."""
        return self._prefix

    def seal(self, data: bytes, *, final: bool) -> bytes:
        """Return one frame; `ProblemError` too-large once the message passes the suite's limit."""
        self._sealed += len(data)
        if self._sealed > self._suite.max_message_bytes:
            raise ProblemError(
                "too-large",
                f"the request message has more than {self._suite.max_message_bytes} bytes; send a shorter one",
            )
        frame = self._frames.seal(data, final=final)
        self._transcript.update(frame)
        return frame

    def seal_message(self, message: bytes, frame_size: int = DEFAULT_FRAME_BYTES) -> Iterator[bytes]:
        """Yield the frames of a whole message, `frame_size` bytes of data in each; the last is final."""
        size = min(frame_size, MAX_FRAME_DATA)
        for start in range(0, max(len(message), 1), size):
            yield self.seal(message[start : start + size], final=start + size >= len(message))

    @property
    def th(self) -> bytes:
        """SHA-256 of all request frames as sent; `FrameError` before the final one."""
        if not self._frames.ended:
            raise FrameError("the request has no final frame yet, so its hash does not exist")
        return self._transcript.digest()

    def response_opener(self) -> ResponseOpener:
        """Return the opener of this request's response; only after the final frame."""
        return ResponseOpener(self._suite, self._schedule, self.th, self._pad)


class EnvelopeOpener(Generic[HeaderT]):
    """Opens one request: `feed` bytes, read `header`, `unlock` with the data key, take `message()`.

    Holds at most `suite.max_body_bytes`: before `unlock` raw frames (already checked for form), after it the message
    (at most `suite.max_message_bytes`) and one unfinished frame. After any error every later call raises it again.
    """

    def __init__(self, *, suite: Suite, decode_header: Callable[[bytes], HeaderT]) -> None:
        """`decode_header` reads `H` and raises `ProblemError`."""
        self._suite = suite
        self._decode_header = decode_header
        self._head = bytearray()
        self._received = 0
        self._prefix = b""
        self._header: HeaderT | None = None
        self._buffer: FrameBuffer | None = None
        self._schedule: KeySchedule | None = None
        self._frames: FrameOpener | None = None
        self._transcript = hashlib.sha256()
        self._data = bytearray()
        self._message: bytes | None = None
        self._error: ProblemError | None = None

    @property
    def header(self) -> HeaderT | None:
        """The header, as soon as it has arrived."""
        return self._header

    @property
    def unlocked(self) -> bool:
        """Whether `unlock` has been called."""
        return self._frames is not None

    @property
    def held_bytes(self) -> int:
        """Bytes that this opener holds now, the finished message included."""
        frames = 0 if self._buffer is None else len(self._buffer)
        return len(self._head) + frames + len(self._data) + len(self._message or b"")

    def feed(self, data: bytes) -> None:
        """Add bytes of the body; `ProblemError` as soon as they can't become a valid request."""
        self._raise_again()
        self._received += len(data)
        if self._received > self._suite.max_body_bytes:
            self._fail("too-large", f"the body has more than {self._suite.max_body_bytes} bytes; send a shorter one")
        if self._buffer is None:
            self._head += data
            self._read_header()
        else:
            self._guard(self._buffer.feed, data)
        self._open_frames()

    def unlock(self, cek: bytes) -> None:
        """Give the 32-byte secret; frames that wait are opened now, later ones as they come."""
        self._raise_again()
        if self._header is None or self._frames is not None:
            raise FrameError("unlock is called once, after the header has arrived")
        self._schedule = KeySchedule(self._suite, self._prefix, cek)
        self._frames = FrameOpener(self._schedule.request(), self._schedule.header_hash, self._header.pad)
        self._open_frames()

    def message(self) -> bytes | None:
        """Return the message once its final frame has been opened, None before."""
        self._raise_again()
        return self._message

    def finish(self) -> None:
        """Say that the body has ended; `ProblemError` malformed-envelope if the final frame has not arrived whole."""
        self._raise_again()
        if self._buffer is None:
            self._fail(
                "malformed-envelope", f"the body ends after {self._received} bytes, within the envelope's header"
            )
        elif self._message is None and not self._buffer.complete:
            self._fail("malformed-envelope", f"the body ends after {self._received} bytes, before the final frame")

    @property
    def th(self) -> bytes:
        """SHA-256 of all request frames; `FrameError` before the message is complete."""
        if self._message is None:
            raise FrameError("the request is not complete, so its hash does not exist")
        return self._transcript.digest()

    def response_sealer(self, rs: bytes) -> ResponseSealer:
        """Return the sealer of this request's response; `rs` is 32 random bytes, fresh for every response."""
        transcript = self.th
        if self._schedule is None or self._header is None:
            raise FrameError("the request is not unlocked, so no response can be sealed")
        return ResponseSealer(self._suite, self._schedule, rs, transcript, self._header.pad)

    def _read_header(self) -> None:
        preamble = self._suite.preamble
        magic = self._suite.magic
        have = bytes(self._head[: len(preamble)])
        if have[: len(magic)] != magic[: len(have)]:
            self._fail("malformed-envelope", f"the body does not start with {magic.decode()}")
        if len(have) < len(preamble):
            return
        if have != preamble:
            self._fail(
                "unsupported-version",
                f"the envelope has version {have[-1]}, and only {VERSION} is spoken here",
            )
        start = len(preamble) + _LENGTH_BYTES
        if len(self._head) < start:
            return
        length = int.from_bytes(self._head[len(preamble) : start])
        if length > self._suite.max_header_bytes:
            self._fail(
                "malformed-envelope",
                f"the header announces {length} bytes, and at most {self._suite.max_header_bytes} are allowed",
            )
        if len(self._head) < start + length:
            return
        self._prefix = bytes(self._head[: start + length])
        try:
            self._header = self._decode_header(self._prefix[start:])
        except ProblemError as error:
            self._error = error
            raise
        self._buffer = FrameBuffer(self._header.pad)
        rest = bytes(self._head[start + length :])
        self._head.clear()
        self._guard(self._buffer.feed, rest)

    def _open_frames(self) -> None:
        if self._frames is None or self._buffer is None:
            return
        for flag, ciphertext in self._buffer.take():
            self._transcript.update(bytes([flag]) + len(ciphertext).to_bytes(_LENGTH_BYTES))
            self._transcript.update(ciphertext)
            try:
                data = self._frames.open(flag, ciphertext)
            except FrameError as error:
                self._fail("malformed-envelope", str(error))
            if len(self._data) + len(data) > self._suite.max_message_bytes:
                self._fail(
                    "too-large",
                    f"the request message has more than {self._suite.max_message_bytes} bytes; send a shorter one",
                )
            self._data += data
        if self._frames.ended and self._message is None:
            self._message = bytes(self._data)
            self._data = bytearray()

    def _guard(self, call: Callable[[bytes], None], data: bytes) -> None:
        try:
            call(data)
        except FrameError as error:
            self._fail("malformed-envelope", str(error))

    def _fail(self, code: str, detail: str) -> NoReturn:
        self._error = self._problem(code, detail)
        self._head, self._data, self._buffer = bytearray(), bytearray(), None
        raise self._error

    def _problem(self, code: str, detail: str) -> ProblemError:
        """Make the error of a fault; the hop says host-failed for all of them."""
        return ProblemError(code, detail)

    def _raise_again(self) -> None:
        if self._error is not None:
            raise self._error


class RequestOpener(EnvelopeOpener[RequestHeader]):
    """The enclave's opener of a tenant's request."""

    def __init__(self) -> None:
        """Open an envelope with the tenant's suite."""
        super().__init__(suite=TENANT_SUITE, decode_header=RequestHeader.decode)


class ResponseSealer:
    """Seals one response: `prefix()` first, then every `seal()` in order."""

    def __init__(self, suite: Suite, schedule: KeySchedule, rs: bytes, transcript: bytes, pad: int) -> None:
        """Use `EnvelopeOpener.response_sealer`, which knows all of these."""
        self._prefix = suite.preamble + rs
        self._frames = FrameSealer(schedule.response(rs, transcript), schedule.header_hash, pad)

    def prefix(self) -> bytes:
        """Return magic, version and `rs`."""
        return self._prefix

    def seal(self, data: bytes, *, final: bool = False) -> bytes:
        """Return `data` as one frame, or as several where it exceeds `MAX_FRAME_DATA`; only the last is final."""
        if len(data) <= MAX_FRAME_DATA:
            return self._frames.seal(data, final=final)
        pieces = [data[start : start + MAX_FRAME_DATA] for start in range(0, len(data), MAX_FRAME_DATA)]
        last = len(pieces) - 1
        return b"".join(self._frames.seal(piece, final=final and i == last) for i, piece in enumerate(pieces))


@dataclass(frozen=True, slots=True)
class Opened:
    """One opened response frame. The first holds the response head, the final one the receipt."""

    final: bool
    data: bytes = field(repr=False)


class ResponseOpener:
    """Opens one response as it streams in; holds one unfinished frame, at most 65,557 bytes."""

    def __init__(self, suite: Suite, schedule: KeySchedule, transcript: bytes, pad: int) -> None:
        """Use `RequestSealer.response_opener`, which knows all of these."""
        self._suite = suite
        self._schedule = schedule
        self._pad = pad
        self._head = bytearray()
        self._buffer = FrameBuffer(pad)
        self._frames: FrameOpener | None = None
        self._error: OpenError | None = None
        self.th = transcript

    @property
    def done(self) -> bool:
        """Whether the final frame has been opened."""
        return self._error is None and self._frames is not None and self._frames.ended

    @property
    def held_bytes(self) -> int:
        """Bytes that wait for the rest of their frame."""
        return len(self._head) + len(self._buffer)

    def feed(self, data: bytes) -> list[Opened]:
        """Add bytes and return the frames that they complete; `OpenError` if they are no answer to this request.

        Frames that stood whole before a bad one in the same `data` are lost with it: feed pieces as they come.
        """
        if self._error is not None:
            raise self._error
        try:
            if self._frames is None:
                data = self._read_prefix(data)
                if self._frames is None:
                    return []
            self._buffer.feed(data)
            return [Opened(flag == 1, self._frames.open(flag, ciphertext)) for flag, ciphertext in self._buffer.take()]
        except FrameError as error:
            self._fail(f"the response does not open: {error}")

    def finish(self) -> None:
        """Say that the stream has ended; `OpenError` unless the final frame was its last."""
        if self._error is not None:
            raise self._error
        if not self.done:
            self._fail("the response is truncated: it ends before its final frame; what came of it may be incomplete")

    def _read_prefix(self, data: bytes) -> bytes:
        """Take magic, version and `rs`; return the bytes after them."""
        preamble = self._suite.preamble
        self._head += data
        have = bytes(self._head[: len(preamble)])
        if have != preamble[: len(have)]:
            self._fail("the response does not start as an envelope of version 1")
        end = len(preamble) + SALT_BYTES
        if len(self._head) < end:
            return b""
        keys = self._schedule.response(bytes(self._head[len(preamble) : end]), self.th)
        self._frames = FrameOpener(keys, self._schedule.header_hash, self._pad)
        rest = bytes(self._head[end:])
        self._head.clear()
        return rest

    def _fail(self, sentence: str) -> NoReturn:
        self._error = OpenError(sentence)
        self._head, self._buffer = bytearray(), FrameBuffer(self._pad)
        raise self._error
