"""What the router and the parent saw: bytes that the tap recorded between them, found again and shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MAGIC = b"MRGC\x01"
"""An envelope's first bytes, in either direction."""

ROW_BYTES = 16
SHORTEST_WORD = 5
"""Words shorter than this turn up in random bytes or in HTTP headers by themselves."""

PRINTABLE = range(0x20, 0x7F)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """One request and its response as they passed: HTTP heads, chunk framing and envelopes."""

    head: str
    request: bytes
    response: bytes

    @property
    def sealed_request(self) -> bytes:
        """The request from its envelope's first byte."""
        return self.request[max(0, self.request.find(MAGIC)) :]

    @property
    def sealed_response(self) -> bytes:
        """The response from its envelope's first byte."""
        return self.response[max(0, self.response.find(MAGIC)) :]


def find_capture(directory: Path, request_id: str) -> Capture | None:
    """Return what passed for the request with this id, or None where the tap has not seen it.

    A kept-alive connection carries several requests: this one's begins at the request line before its id, and its
    response is the connection's last, since nothing was asked after it.
    """
    for path in sorted(directory.glob("*.request")):
        data = path.read_bytes()
        at = data.find(request_id.encode())
        if at < 0:
            continue
        begin = max(0, data.rfind(b"POST /inference", 0, at))
        head, _, _ = data[begin:].partition(b"\r\n\r\n")
        responses = path.with_suffix(".response").read_bytes()
        answer = max(0, responses.rfind(b"HTTP/1.1 "))
        return Capture(head=head.decode("latin-1"), request=data[begin:], response=responses[answer:])
    return None


def words(text: str) -> list[bytes]:
    """Return the text itself and its longer words, as bytes to look for."""
    return [text.encode(), *(word.encode() for word in text.split() if len(word) >= SHORTEST_WORD)]


def leaks(data: bytes, secrets: list[bytes]) -> list[bytes]:
    """Return which of the given byte strings occur in `data`."""
    return [secret for secret in secrets if secret and secret in data]


def hexdump(data: bytes, rows: int) -> list[str]:
    """Return the first rows of a hex dump: offset, bytes, and their characters where they are printable ASCII."""
    lines = []
    for offset in range(0, min(len(data), rows * ROW_BYTES), ROW_BYTES):
        row = data[offset : offset + ROW_BYTES]
        text = "".join(chr(byte) if byte in PRINTABLE else "." for byte in row)
        lines.append(f"{offset:04x}  {row.hex(' '):<{ROW_BYTES * 3 - 1}}  {text}")
    return lines
