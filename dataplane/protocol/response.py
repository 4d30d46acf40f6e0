"""Response envelopes, both roles, sans-IO: what `EnvelopeOpener` seals with and `RequestSealer` opens with.

response = magic || u8 1 || rs(32) || frame*
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

from dataplane.protocol.errors import OpenError
from dataplane.protocol.frames import MAX_FRAME_DATA, FrameBuffer, FrameError, FrameOpener, FrameSealer
from dataplane.protocol.keys import SALT_BYTES, KeySchedule
from dataplane.protocol.suite import Suite


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
