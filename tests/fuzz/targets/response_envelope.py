"""The tenant's opener of a response: any bytes in any pieces are frames, or an OpenError."""

from __future__ import annotations

from dataplane.protocol.envelope import RequestOpener, RequestSealer
from dataplane.protocol.errors import OpenError
from tests.fuzz.choices import Choices
from tests.fuzz.targets.request_envelope import CEK, header


def _pair(pad: int) -> tuple[RequestSealer, RequestOpener]:
    sealer = RequestSealer(header(pad=pad), CEK)
    opener = RequestOpener()
    opener.feed(sealer.prefix() + sealer.seal(b"question", final=True))
    opener.unlock(CEK)
    return sealer, opener


def _answer(pad: int, parts: list[bytes]) -> bytes:
    _, opener = _pair(pad)
    sealer = opener.response_sealer(bytes(32))
    frames = [sealer.seal(part, final=number == len(parts) - 1) for number, part in enumerate(parts)]
    return sealer.prefix() + b"".join(frames)


SEEDS = [
    b"\x00" + _answer(0, [b"head", b"token", b"receipt"]) + b"\x03\x00" * 8,
    b"\x01" + _answer(16, [b"", b"x" * 40, b""]) + b"\xff\x01" * 8,
    b"\x01" + _answer(16, [b"only"]),
    b"\x00MRGC\x01",
]


def target(data: bytes) -> None:
    """Feed the bytes in pieces."""
    choices = Choices(data)
    sealer, _ = _pair(16 if choices.number(1) else 0)
    opener = sealer.response_opener()
    body = choices.rest()
    opened = []
    try:
        for piece in Choices(body[-16:]).pieces(body):
            opened += opener.feed(piece)
            assert opener.held_bytes <= 65_557, "one unfinished frame at most"
        opener.finish()
    except OpenError:
        assert not opener.done, "what failed is not done"
        return
    assert opened[-1].final, "the last frame is the final one"
    assert [each.final for each in opened].count(True) == 1, "and the only one"
