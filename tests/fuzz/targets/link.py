"""The host link: any bytes in any pieces are messages, or one LinkError."""

from __future__ import annotations

import contextlib

from dataplane.enclave.checks import deadline_s
from dataplane.enclave.credentials import HostCredentials
from dataplane.parent.calls import problem_of
from dataplane.protocol.errors import LinkError, ProblemError
from dataplane.protocol.link import (
    LINK_HEAD_BYTES,
    MAX_PAYLOAD_BYTES,
    LinkDecoder,
    LinkMessage,
    LinkType,
    encode,
    encode_map,
)
from tests.fuzz.choices import Choices
from tests.fuzz.harness import step

MEASURES_ITSELF = True
MOST_READ = 50
"""Messages of one input whose maps are read."""
SEEDS = [
    b"\x00" + encode_map(LinkType.OPEN, {"op": "infer", "kms": "k", "tenant": "t", "deadline_ms": 5}) + b"\x02\x00" * 4,
    b"\x00" + encode(LinkType.DATA, b"x" * 40) + encode(LinkType.END),
    b"\x00" + encode_map(LinkType.PROBLEM, {"code": "overloaded", "detail": "Full.", "retry_after_s": 2**63}),
    b"\x00"
    + encode_map(
        LinkType.OPEN,
        {
            "access_key_id": "a",
            "secret_access_key": "s",
            "session_token": "t",
            "expires_ms": 2**60,
            "op": "credentials",
        },
    ),
    b"\x01" + encode(LinkType.END),
    b"\x01\x02\0\0\0\0\x0a\0\0\0\x01\xa0",
]


def target(data: bytes) -> None:
    """Take every message, and read those that are maps as both ends do."""
    choices = Choices(data)
    amplify = bool(choices.number(1))
    stream = choices.rest()
    if amplify and stream:
        stream = (stream * (65_536 // len(stream) + 1))[:65_536]
    # What an enclave does between two turns of its loop: one read, one message.
    step(lambda: _first(stream[:65_536]))
    decoder = LinkDecoder()
    count = taken = 0
    try:
        for piece in Choices(stream[-16:]).pieces(stream):
            decoder.add(piece)
            while (message := decoder.next()) is not None:
                count += 1
                taken += LINK_HEAD_BYTES + len(message.payload)
                if count <= MOST_READ:
                    _read(message)
    except LinkError:
        return
    assert decoder.empty == (taken == len(stream)), "what is left is an unfinished message"
    assert len(stream) - taken < LINK_HEAD_BYTES + MAX_PAYLOAD_BYTES, "and no more than one"


def _first(stream: bytes) -> None:
    decoder = LinkDecoder()
    decoder.add(stream)
    with contextlib.suppress(LinkError):
        decoder.next()


def _read(message: LinkMessage) -> None:
    problem = problem_of(message)
    assert problem.retry_after_s is None or problem.retry_after_s <= 3600, "every wait has a bound"
    problem.to_json()
    try:
        fields = step(message.map)
    except LinkError:
        return
    for read in (deadline_s, HostCredentials.from_map):
        try:
            read(fields)
        except (ProblemError, LinkError):
            continue
