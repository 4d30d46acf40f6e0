"""The host link over asyncio: `LinkDecoder` with deadlines and back-pressure around it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from typing import Final

from dataplane.protocol.errors import LinkError
from dataplane.protocol.link import MAX_PAYLOAD_BYTES, LinkDecoder, LinkMessage, LinkType, encode, encode_map, split

READ_BYTES: Final = 64 * 1024
"""One read. With the decoder's unfinished message (65,541) a link holds at most 128 KiB beyond the reader's limit."""

READY_RUN: Final = 256
"""Messages of one read that are given out without letting others run; a read of 64 KiB can hold 13,107 empty ones."""

CLOSE_TIMEOUT_S: Final = 2.0
"""How long `close` waits for bytes already written to leave before it aborts."""


class LinkTimeoutError(LinkError, TimeoutError):
    """The other side of a host link was silent, or did not take bytes, for the whole time that it was given."""


class LinkStream:
    """One connection of the host link: messages in both directions, one reader, any number of writers.

    A message is written whole or not at all, so senders in several tasks never mix and a cancelled `send` leaves the
    stream intact (a long DATA or HOP_DATA may then have gone out in part, which only an ABORT or the end can follow).
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take over a connected pair; whoever makes the stream closes or aborts it."""
        self._reader = reader
        self._writer = writer
        self._decoder = LinkDecoder()
        self._run = 0

    async def send(self, kind: LinkType, content: bytes | Mapping[str, object] = b"", *, timeout_s: float) -> None:
        """Send bytes or a CBOR map and wait until the connection has room again.

        DATA and HOP_DATA over 65,536 bytes go as several messages, and empty ones not at all. Raises
        `LinkTimeoutError` when the peer takes nothing for `timeout_s` seconds (the connection is aborted then: what was
        written is lost), `LinkError` when the connection is gone.
        """
        for message in _messages(kind, content):
            try:
                self._writer.write(message)
                async with asyncio.timeout(timeout_s):
                    await self._writer.drain()
            except TimeoutError:
                self.abort()
                raise LinkTimeoutError(
                    f"the host link's peer took no {kind.name} message for {timeout_s:g} s, and was cut off",
                ) from None
            except (OSError, RuntimeError) as error:
                # asyncio raises RuntimeError for a write on a transport that is already closed.
                raise LinkError(f"the host link broke while {kind.name} was sent ({type(error).__name__})") from error

    async def receive(self, timeout_s: float) -> LinkMessage | None:
        """Return the next message, or None when the peer has closed at a message's boundary.

        Raises `LinkTimeoutError` after `timeout_s` seconds without a whole message (nothing is lost; `receive` may be
        called again), `LinkError` for bytes that are no message, an end within one, and a broken connection.
        """
        if self._run >= READY_RUN:
            # Before a message is taken, so that a cancelled `receive` loses none.
            self._run = 0
            await asyncio.sleep(0)
        message = self._decoder.next()
        if message is not None:
            self._run += 1
            return message
        self._run = 0
        try:
            async with asyncio.timeout(timeout_s):
                while message is None:
                    data = await self._reader.read(READ_BYTES)
                    if not data:
                        self._check_end()
                        return None
                    self._decoder.add(data)
                    message = self._decoder.next()
        except TimeoutError:
            raise LinkTimeoutError(f"the host link's peer sent nothing for {timeout_s:g} s") from None
        except OSError as error:
            raise LinkError(f"the host link broke while receiving ({type(error).__name__})") from error
        return message

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Let written bytes leave, then close; aborts when the peer does not take them within `timeout_s`."""
        self._writer.close()
        # In a task of its own, because `wait_closed` awaits the protocol's one future, and a timeout around it would
        # cancel that future for everyone who waits on it later. The task ends one turn of the loop after `abort`.
        gone = asyncio.create_task(self._gone())
        try:
            await asyncio.wait({gone}, timeout=timeout_s)
        finally:
            self.abort()
        await asyncio.wait({gone})

    async def _gone(self) -> None:
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def abort(self) -> None:
        """Drop the connection now, with what has not left yet."""
        # A transport that flushed its last bytes after `close` has let go of its loop, and CPython 3.11's abort()
        # then fails with AttributeError instead of doing nothing.
        with contextlib.suppress(AttributeError):
            self._writer.transport.abort()

    def _check_end(self) -> None:
        """Raise `LinkError` unless the stream may end here."""
        if not self._decoder.empty:
            raise LinkError("the host link ended within a message")


def _messages(kind: LinkType, content: bytes | Mapping[str, object]) -> Iterable[bytes]:
    if isinstance(content, Mapping):
        return (encode_map(kind, content),)
    if kind in (LinkType.DATA, LinkType.HOP_DATA) and (not content or len(content) > MAX_PAYLOAD_BYTES):
        return split(kind, content)
    return (encode(kind, content),)
