"""The worker's opener of a hop request, and what is inside it."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from dataplane.protocol.errors import ProblemError
from dataplane.protocol.hop import HopMessage, HopRequestOpener, seal_hop
from dataplane.protocol.suite import HOP_SUITE
from tests.fuzz.choices import Choices

KEY = X25519PrivateKey.from_private_bytes(bytes(range(32)))
EPOCH, CONFIG = bytes(16), bytes(32)


def sealed(message: bytes, pad: int = 0) -> bytes:
    """A whole hop request."""
    _, sealer = seal_hop(KEY.public_key().public_bytes_raw(), EPOCH, CONFIG, bytes(16), pad=pad)
    return sealer.prefix() + b"".join(sealer.seal_message(message))


HONEST = HopMessage(
    path="/v1/completions",
    body=b"{}",
    model="tiny",
    cache_salt="00" * 32,
    priority=0,
    deadline_ms=1000,
    traceparent=None,
).encode()
SEEDS = [b"\x00" + sealed(HONEST), b"\x00" + sealed(b"no message", 256), b"\x01" + HONEST, b"\x00MRGH\x01\0\0\2\1"]


def target(data: bytes) -> None:
    """Open the bytes, or seal them as the message of an honest enclave and read that."""
    choices = Choices(data)
    honest = bool(choices.number(1))
    rest = choices.rest()
    opener = HopRequestOpener({EPOCH: KEY}.get, CONFIG)
    try:
        for piece in Choices(rest[:8]).pieces(sealed(rest) if honest else rest):
            opener.feed(piece)
            assert opener.held_bytes <= HOP_SUITE.max_body_bytes, "never more than the limit"
        opener.finish()
        message = opener.take_message()
        assert message is not None, "a finished request has a message"
        assert not honest or message == rest, "what was sealed is what is opened"
        assert HopMessage.decode(message).encode() == message, "one form"
    except ProblemError as problem:
        assert problem.code == "host-failed", "every fault on the hop is the host's"
