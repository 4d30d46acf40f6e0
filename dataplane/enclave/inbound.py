"""What the parent sends on one connection, read one message ahead so that its leaving is noticed at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from dataplane.mesh.linkio import LinkStream
from dataplane.protocol.errors import LinkError, MrgcError
from dataplane.protocol.link import LinkMessage, LinkType

T = TypeVar("T")

FOREVER_S = 86_400.0
"""What a read is given where the request's own deadline, in the caller, is what ends it."""


class ParentGoneError(MrgcError):
    """The parent closed the connection or aborted; nobody waits for an answer."""


class Inbound:
    """Reads messages of one `LinkStream`; owns the one read that may be pending."""

    def __init__(self, link: LinkStream) -> None:
        """Read nothing yet."""
        self._link = link
        self._pending: asyncio.Task[LinkMessage | None] | None = None

    async def next(self, timeout_s: float | None = None) -> LinkMessage | None:
        """Return the next message, or None when none came within `timeout_s` (None waits); the read goes on.

        Raises `ParentGoneError` at the end of the stream and on ABORT, `LinkError` on bytes that are no message.
        """
        pending = self._read()
        if timeout_s is not None or not pending.done():
            await asyncio.wait({pending}, timeout=timeout_s)
        if not pending.done():
            return None
        self._pending = None
        message = pending.result()
        if message is None:
            raise ParentGoneError("The parent closed the connection before the answer was complete.")
        if message.type is LinkType.ABORT:
            raise ParentGoneError("The parent aborted the request.")
        return message

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns; cancel it and raise `ParentGoneError` when the parent leaves meanwhile."""
        task = asyncio.ensure_future(work)
        try:
            pending = self._read()
            await asyncio.wait({pending, task}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and pending.done():
                message = await self.next()
                raise LinkError(f"A message of type {getattr(message, 'type', 0)} came where none may; close the link.")
            return await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """Cancel the pending read."""
        if self._pending is not None:
            self._pending.cancel()
            await asyncio.gather(self._pending, return_exceptions=True)
            self._pending = None

    def _read(self) -> asyncio.Task[LinkMessage | None]:
        if self._pending is None:
            self._pending = asyncio.create_task(self._link.receive(FOREVER_S), name="enclave.receive")
        return self._pending
