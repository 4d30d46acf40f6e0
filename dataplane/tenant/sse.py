"""Server-sent events, as far as a tenant needs them: reading data lines, and holding back the end.

OpenAI's streams end with `data: [DONE]`, and the stock client stops reading there. What follows it in our stream
is the receipt, so the marker goes on only after the receipt was checked; else a response that fails its last
check would look finished.
"""

from __future__ import annotations

from dataplane.protocol.errors import OpenError

DONE = (b"data: [DONE]", b"data:[DONE]")
"""The marker as engines write it, and as the format also allows it."""
MAX_EVENT_BYTES = 1 << 20
"""Longest event that the reader keeps; a chunk of a completion is a few hundred bytes."""


class DoneGate:
    """Passes a stream on, except for `data: [DONE]` at a line's start and what follows it."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._closed = False
        self._line_start = True

    def push(self, data: bytes) -> bytes:
        """Give the next bytes of the stream; returns those that may go on now."""
        self._held += data
        if self._closed:
            return b""
        end = self._safe_end()
        out = bytes(self._held[:end])
        del self._held[:end]
        if out:
            self._line_start = out.endswith(b"\n")
        return out

    def release(self) -> bytes:
        """The bytes held back: call once the response is known to be whole."""
        out = bytes(self._held)
        self._held.clear()
        return out

    def _safe_end(self) -> int:
        """How many of the held bytes are surely before the marker; sets `_closed` when the marker is there."""
        start = 0
        at_line_start = self._line_start
        held = bytes(self._held)
        while start < len(held):
            if at_line_start:
                if held.startswith(DONE, start):
                    self._closed = True
                    return start
                rest = held[start : start + len(DONE[0])]
                if any(marker.startswith(rest) for marker in DONE):
                    return start
            newline = held.find(b"\n", start)
            if newline < 0:
                return len(held)
            start, at_line_start = newline + 1, True
        return len(held)


class EventReader:
    """Splits a stream into the `data` of its events (WHATWG HTML, section 9.2.6), for a person's terminal."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[str]:
        """Give the next bytes; returns the data of each complete event line, OpenError on one that is too long."""
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        if len(self._buffer) > MAX_EVENT_BYTES:
            raise OpenError(f"The answer has an event of over {MAX_EVENT_BYTES} bytes; ask without streaming.")
        return [
            line.removeprefix(b"data:").strip().decode("utf-8", "replace")
            for line in lines
            if line.startswith(b"data:")
        ]
