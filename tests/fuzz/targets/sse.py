"""What a tenant reads of a stream: events, the held-back end, and a chat's chunks."""

from __future__ import annotations

from dataplane.protocol.errors import OpenError
from dataplane.tenant.ask import _read_chunk
from dataplane.tenant.sse import DONE, DoneGate, EventReader
from tests.fuzz.choices import Choices

SEEDS = [
    b'data: {"choices": [{"delta": {"content": "to"}}]}\n\ndata: [DONE]\n\n',
    b"data: [DONE]",
    b"data:[DONE]\r\n",
    b"x data: [DONE]\ndata: [DON\ndata: [DONE] \n",
    b'data: {"error": {"message": "no \\ud800"}}\n',
    b'data: {"choices": [{"delta": {"content": 1e999}}]}\n',
    b"data: " + b"[" * 3000 + b"\n",
    b"data: " + b'{"a":' * 3000 + b"\n",
    b"\xff\xfe\n\n\n",
]


def target(data: bytes) -> None:
    """Pass a stream through in pieces; nothing is lost, and nothing from the marker on leaves before the release."""
    gate, out = DoneGate(), b""
    for piece in Choices(data[-16:]).pieces(data):
        out += gate.push(piece)
    assert not any(line.startswith(DONE) for line in out.split(b"\n")), "the end is held back"
    assert out + gate.release() == data, "and nothing is lost"
    reader = EventReader()
    events: list[str] = []
    try:
        for piece in Choices(data[:16]).pieces(data):
            events += reader.feed(piece)
    except OpenError:
        return
    for event in events[:20]:
        try:
            text, mark = _read_chunk(event)
        except OpenError:
            continue
        (text + mark).encode()
