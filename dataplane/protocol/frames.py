"""Frames: length-prefixed AES-256-GCM records, numbered from 0 in each direction.

frame = u8 flag || u32 len(ct) || ct
plain = u32 m || data(m) || zeros to the next multiple of pad (none when pad is 0)
ct    = AES-256-GCM(key, n XOR (u32 0 || u64 i), plain, aad = hh || u64 i || u8 flag)
"""

from __future__ import annotations

import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dataplane.protocol.errors import MrgcError
from dataplane.protocol.keys import DirectionKeys

MORE: Final = 0
FINAL: Final = 1

FRAME_HEAD_BYTES: Final = 5
TAG_BYTES: Final = 16
LENGTH_BYTES: Final = 4
MAX_PLAIN_BYTES: Final = 64 * 1024
MAX_CIPHERTEXT_BYTES: Final = MAX_PLAIN_BYTES + TAG_BYTES
"""65,552: 64 KiB of plaintext and the tag."""
MAX_FRAME_DATA: Final = MAX_PLAIN_BYTES - LENGTH_BYTES
"""65,532. Every legal pad divides 64 KiB, so a full frame is legal under each of them."""
MIN_PAD: Final = 16
MAX_PAD: Final = 4096

MAX_FRAMES: Final = 2**24
"""Frames under one key. RFC 8446, section 5.5, allows 2^24.5 full records for AES-GCM; at 50 frames a second this
is 93 hours of one stream."""

_HEAD: Final = struct.Struct(">BI")
_AAD_TAIL: Final = struct.Struct(">QB")
_U32: Final = struct.Struct(">I")


class FrameError(MrgcError):
    """A frame that is malformed, does not authenticate, or stands where none may stand."""


class TooManyFramesError(FrameError):
    """A message cut into more frames than one may have."""


def check_pad(pad: int) -> bool:
    """Say whether `pad` is 0 or a power of two from 16 to 4,096."""
    return pad == 0 or (MIN_PAD <= pad <= MAX_PAD and pad & (pad - 1) == 0)


def padded_length(data_bytes: int, pad: int) -> int:
    """Length of `plain` for that many bytes of data."""
    length = LENGTH_BYTES + data_bytes
    return length if pad == 0 else (length + pad - 1) // pad * pad


def read_head(buffer: bytes | bytearray, offset: int, pad: int) -> tuple[int, int]:
    """Read flag and ciphertext length of the frame at `offset`; `FrameError` as soon as either can't be right."""
    flag, length = _HEAD.unpack_from(buffer, offset)
    if flag not in (MORE, FINAL):
        raise FrameError(f"a frame has flag {flag}, and only 0 (more) and 1 (final) exist")
    if length > MAX_CIPHERTEXT_BYTES:
        raise FrameError(f"a frame announces {length} bytes, and at most {MAX_CIPHERTEXT_BYTES} are allowed")
    plain = length - TAG_BYTES
    if plain < LENGTH_BYTES or (pad and plain % pad):
        raise FrameError(f"a frame announces {length} bytes, which no frame with pad {pad} can have")
    return flag, length


class _Direction:
    """Key, nonce base and counter of one direction."""

    def __init__(self, keys: DirectionKeys, header_hash: bytes, pad: int) -> None:
        self._cipher = AESGCM(keys.key)
        self._nonce = int.from_bytes(keys.nonce)
        self._header_hash = header_hash
        self._pad = pad
        self._index = 0
        self.ended = False

    def _next(self, flag: int) -> tuple[bytes, bytes]:
        """Nonce and additional data of the next frame."""
        if self.ended:
            raise FrameError("a frame follows the final frame, and none may")
        index = self._index
        if index >= MAX_FRAMES:
            raise FrameError(f"a stream has more than {MAX_FRAMES} frames under one key; start a new request")
        # The counter moves before the cipher runs: no failure can make a nonce serve twice.
        self._index = index + 1
        return (self._nonce ^ index).to_bytes(12), self._header_hash + _AAD_TAIL.pack(index, flag)


class FrameSealer(_Direction):
    """Seals one direction's frames in order."""

    def seal(self, data: bytes, *, final: bool) -> bytes:
        """Return one frame with `data`, at most `MAX_FRAME_DATA` bytes; nothing may follow a final one."""
        if len(data) > MAX_FRAME_DATA:
            raise FrameError(f"{len(data)} bytes don't fit one frame, which holds at most {MAX_FRAME_DATA}")
        flag = FINAL if final else MORE
        nonce, aad = self._next(flag)
        plain = _U32.pack(len(data)) + data
        if self._pad:
            plain = plain.ljust(padded_length(len(data), self._pad), b"\0")
        ciphertext = self._cipher.encrypt(nonce, plain, aad)
        self.ended = final
        return _HEAD.pack(flag, len(ciphertext)) + ciphertext


class FrameOpener(_Direction):
    """Opens one direction's frames in order."""

    def open(self, flag: int, ciphertext: bytes) -> bytes:
        """Return the data of the next frame; `FrameError` if it does not authenticate or is padded wrongly."""
        nonce, aad = self._next(flag)
        try:
            plain = self._cipher.decrypt(nonce, ciphertext, aad)
        except InvalidTag:
            raise FrameError(
                f"frame {self._index - 1} does not authenticate: altered, moved or of another key"
            ) from None
        (size,) = _U32.unpack_from(plain)
        end = LENGTH_BYTES + size
        if len(plain) != padded_length(size, self._pad):
            raise FrameError(
                f"frame {self._index - 1} has a data length that does not fit its size and pad {self._pad}"
            )
        if plain[end:] != bytes(len(plain) - end):
            raise FrameError(f"frame {self._index - 1} has padding that is not zero")
        self.ended = flag == FINAL
        return plain[LENGTH_BYTES:end]


class FrameBuffer:
    """Received frame bytes: checked for form as they come, taken out frame by frame.

    Between `feed` and `take` it holds raw bytes only, so a flood of tiny frames costs no more than its own size.
    """

    def __init__(self, pad: int, *, max_frames: int = MAX_FRAMES) -> None:
        """Frames of a stream whose header says `pad`, `max_frames` of them at most."""
        self._pad = pad
        self._max_frames = max_frames
        self._frames = 0
        self._buffer = bytearray()
        self._checked = 0
        self._final = False

    def __len__(self) -> int:
        """Bytes held."""
        return len(self._buffer)

    @property
    def complete(self) -> bool:
        """Whether the final frame has arrived whole (it may still wait to be taken)."""
        return self._final and self._checked == len(self._buffer)

    def drop(self) -> None:
        """Forget the bytes held."""
        self._checked -= len(self._buffer)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add bytes; `FrameError` at the first head that can't be right and at any byte after the final frame.

        Raises `TooManyFramesError` at the head of one frame more than `max_frames`.
        """
        buffer = self._buffer
        buffer += data
        while not self._final and len(buffer) - self._checked >= FRAME_HEAD_BYTES:
            flag, length = read_head(buffer, self._checked, self._pad)
            self._frames += 1
            if self._frames > self._max_frames:
                raise TooManyFramesError(f"a message has more than {self._max_frames} frames; put more into each")
            self._checked += FRAME_HEAD_BYTES + length
            self._final = flag == FINAL
        if self._final and len(buffer) > self._checked:
            raise FrameError(f"{len(buffer) - self._checked} bytes follow the final frame, and none may")

    def take(self, max_bytes: int | None = None) -> list[tuple[int, bytes]]:
        """Remove the frames that are whole and return flag and ciphertext of each.

        With `max_bytes` it stops after the frame that reaches as many; the rest waits for the next call.
        """
        frames: list[tuple[int, bytes]] = []
        buffer, offset = self._buffer, 0
        while len(buffer) - offset >= FRAME_HEAD_BYTES and (max_bytes is None or offset < max_bytes):
            flag, length = _HEAD.unpack_from(buffer, offset)
            end = offset + FRAME_HEAD_BYTES + length
            if end > len(buffer):
                break
            frames.append((flag, bytes(buffer[offset + FRAME_HEAD_BYTES : end])))
            offset = end
        if offset:
            del buffer[:offset]
            self._checked -= offset
        return frames
