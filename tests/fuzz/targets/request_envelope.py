"""The enclave's opener of a request: any bytes in any pieces, the key early or late."""

from __future__ import annotations

from typing import Any

from dataplane.protocol.envelope import RequestOpener, RequestSealer
from dataplane.protocol.errors import ProblemError
from dataplane.protocol.header import RequestHeader, encryption_context
from dataplane.protocol.suite import TENANT_SUITE
from tests.fuzz.choices import Choices

CEK = bytes(range(32))
PADS = (0, 16, 256, 4096)


def header(**changes: Any) -> RequestHeader:
    """A valid header."""
    fields: dict[str, Any] = {
        "rid": bytes(range(16)),
        "iat": 1_767_225_600_000,
        "tenant": "tenant-a",
        "model": "tiny",
        "kms": "arn:aws:kms:us-east-1:111122223333:key/mrk-1",
        "ctx": encryption_context("tenant-a", "0f" * 16, 1_767_225_900),
        "wrapped": b"wrapped",
        "assurance": 0,
        "pad": 0,
    }
    return RequestHeader(**(fields | changes))


def sealed(message: bytes, pad: int, frame_size: int) -> bytes:
    """A whole body."""
    sealer = RequestSealer(header(pad=pad), CEK)
    return sealer.prefix() + b"".join(sealer.seal_message(message, frame_size=frame_size))


SEEDS = [
    b"\x00" + sealed(b"message", 0, 16_384),
    b"\x01" + sealed(b"message in several frames", 16, 5),
    b"\x02" + sealed(b"x" * 600, 256, 100),
    b"\x04" + b"\x10\x00\x20\x00" + b"\x02\x03" * 20 + b"another message",
    b"\x05" + b"\x00\x00\x01\x01" + b"\xff\xff" * 20 + b"y" * 300,
    b"\x07" + b"\x00\x0f\xff\x02" + b"\xff\xff" * 20,
]


def target(data: bytes) -> None:
    """Feed either the bytes themselves, or an honest body made from them (it then has to open to its message)."""
    choices = Choices(data)
    mode = choices.number(7)
    late = bool(mode & 1)
    if not mode & 4:
        _open(choices.rest(), choices, late=late)
        return
    repeats, frame_size, pad = choices.number(4095), 1 + choices.number(255), choices.one(PADS)
    cuts = Choices(choices.raw(128))
    message = choices.rest()
    if message:
        message = (message * (1 + repeats))[:20_000]
    # Sealing is part of what is timed here, and the body has a limit too: at most 1,000 frames, or 64 padded ones.
    body = sealed(message, pad, max(frame_size, len(message) // (64 if pad > frame_size else 1000)))
    assert _open(body, cuts, late=late) == message, "an honest body opens to its message"


def _open(body: bytes, cuts: Choices, *, late: bool) -> bytes | None:
    opener = RequestOpener()
    try:
        for piece in cuts.pieces(body):
            opener.feed(piece)
            assert opener.held_bytes <= TENANT_SUITE.max_body_bytes, "never more than the limit"
            if opener.header is not None and not opener.unlocked and not late:
                opener.unlock(CEK)
        opener.finish()
        if not opener.unlocked:
            for _ in opener.unlocking(CEK):
                pass
    except ProblemError as problem:
        assert problem.status in {400, 413}, "a bad body is the sender's fault"
        return None
    message = opener.take_message()
    if message is not None:
        assert len(opener.th) == 32, "a whole request has a hash"
        assert opener.held_bytes == 0, "and nothing is kept"
    return message
