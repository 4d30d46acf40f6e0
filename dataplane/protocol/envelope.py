"""Request envelopes, both roles, sans-IO: bytes in, bytes out, in pieces of any size. The answers are in response.py.

    request  = magic || u8 1 || u32 len(H) || H || frame*

Every class is parametrised by a `Suite`, so the worker hop (hop.py) is the same code with other labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Final, Generic, NoReturn, Protocol, TypeVar

from dataplane.protocol.errors import ProblemError
from dataplane.protocol.frames import (
    MAX_FRAME_DATA,
    FrameBuffer,
    FrameError,
    FrameOpener,
    FrameSealer,
    TooManyFramesError,
)
from dataplane.protocol.header import RequestHeader
from dataplane.protocol.keys import KeySchedule, opened_digest
from dataplane.protocol.response import Opened, ResponseOpener, ResponseSealer
from dataplane.protocol.suite import MAX_BODY_BYTES, MAX_REQUEST_FRAMES, TENANT_SUITE, VERSION, Suite

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

SLICE_BYTES: Final = 64 * 1024
"""Frame bytes that `unlocking` opens in one go: 2,621 of the smallest frames, 5 ms."""

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
        self._transcript_hash: bytes | None = None
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
        for _ in self.unlocking(cek):
            pass

    def unlocking(self, cek: bytes) -> Iterator[None]:
        """Give the 32-byte secret and open the frames that wait, `SLICE_BYTES` between two yields.

        For an event loop: whoever has to open up to `suite.max_body_bytes` lets others run in between, feeds nothing
        meanwhile, and goes through to the end.
        """
        self._raise_again()
        if self._header is None or self._frames is not None:
            raise FrameError("unlock is called once, after the header has arrived")
        self._schedule = KeySchedule(self._suite, self._prefix, cek)
        self._frames = FrameOpener(self._schedule.request(), self._schedule.header_hash, self._header.pad)
        while self._open_frames(SLICE_BYTES):
            yield

    def message(self) -> bytes | None:
        """Return the message once its final frame has been opened, None before and once it was taken."""
        self._raise_again()
        return self._message

    def take_message(self) -> bytes | None:
        """Return the message as `message` does and let go of it: from now on this opener holds no plaintext.

        `th` and `response_sealer` still work; they need what was derived from the frames alone.
        """
        message = self.message()
        self._message = None
        return message

    def finish(self) -> None:
        """Say that the body has ended; `ProblemError` malformed-envelope if the final frame has not arrived whole."""
        self._raise_again()
        if self._buffer is None:
            self._fail(
                "malformed-envelope", f"the body ends after {self._received} bytes, within the envelope's header"
            )
        elif not self._buffer.complete:
            self._fail("malformed-envelope", f"the body ends after {self._received} bytes, before the final frame")

    def drop(self) -> None:
        """Let go of every byte that is held, opened or not: the request is over, or its message is somebody else's."""
        self._head, self._data, self._message = bytearray(), bytearray(), None
        if self._buffer is not None:
            self._buffer.drop()

    @property
    def th(self) -> bytes:
        """SHA-256 of all request frames; `FrameError` before the message is complete."""
        if self._transcript_hash is None:
            raise FrameError("the request is not complete, so its hash does not exist")
        return self._transcript_hash

    @property
    def opened(self) -> bytes:
        """Which header and keys opened the request (`opened_digest`); `FrameError` before `unlock`."""
        if self._schedule is None:
            raise FrameError("the request is not unlocked, so nothing has opened it")
        return opened_digest(self._schedule.header_hash, self._schedule.request())

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
        self._buffer = FrameBuffer(self._header.pad, max_frames=MAX_REQUEST_FRAMES)
        rest = bytes(self._head[start + length :])
        self._head.clear()
        self._guard(self._buffer.feed, rest)

    def _open_frames(self, max_bytes: int | None = None) -> bool:
        """Open the frames that wait, `max_bytes` of them or all; say whether there may be more."""
        if self._frames is None or self._buffer is None:
            return False
        taken = self._buffer.take(max_bytes)
        for flag, ciphertext in taken:
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
        if self._frames.ended and self._transcript_hash is None:
            self._transcript_hash = self._transcript.digest()
            self._message = bytes(self._data)
            self._data = bytearray()
        return bool(taken)

    def _guard(self, call: Callable[[bytes], None], data: bytes) -> None:
        try:
            call(data)
        except TooManyFramesError as error:
            self._fail("too-large", str(error))
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
