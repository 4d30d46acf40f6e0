"""Call an ASGI application in process: no socket, bounded buffering, and a disconnect that really aborts.

vLLM's OpenAI server is such an application. Calling it here gives genuine responses and errors of that API
without a listening port.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any, Final, Self

from dataplane.worker.engine import EngineError

QUEUED_CHUNKS: Final = 32
"""Body chunks that wait for a slow reader; then the application's `send` waits, as over a full socket."""

ABORT_GRACE_S: Final = 5.0
"""How long the application may take to end after a disconnect before its task is cancelled."""

Message = MutableMapping[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


class AsgiCall:
    """One POST to an application: an async context manager; leaving it early is a disconnect."""

    def __init__(self, application: Application, *, path: str, body: bytes) -> None:
        """Nothing runs before the context is entered."""
        self._application = application
        self._scope: Message = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))],
            "client": None,
            "server": None,
            "state": {},
        }
        self._body: bytes | None = body
        self._gone = asyncio.Event()
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUED_CHUNKS)
        self._started: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="asgi-call")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._gone.set()
        task = self._task
        if task is None:
            return
        # Unblock a `send` that waits for room: nobody reads any more.
        while not self._chunks.empty():
            self._chunks.get_nowait()
        try:
            # A cancelled caller still waits for the end: an aborted request must be out of the engine's batch.
            await asyncio.wait({task}, timeout=ABORT_GRACE_S)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        if self._started.done() and not self._started.cancelled():
            self._started.exception()  # seen, or of no interest any more

    async def head(self) -> tuple[int, str]:
        """Wait for status and content type; raises `EngineError` when the application fails before it answers."""
        return await asyncio.shield(self._started)

    async def body(self) -> AsyncIterator[bytes]:
        """The body, chunk by chunk; what waits already comes joined. Raises `EngineError` when it breaks off."""
        while True:
            chunk = await self._chunks.get()
            parts = []
            while chunk is not None:
                parts.append(chunk)
                if self._chunks.empty():
                    break
                chunk = self._chunks.get_nowait()
            if parts:
                yield b"".join(parts)
            if chunk is None:
                break
        if not self._ended:
            raise EngineError("The engine broke off its answer.")

    async def _run(self) -> None:
        """Run the application to its end, whatever that is; the end is always told to the reader."""
        try:
            await self._application(self._scope, self._receive, self._send)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - an application may raise anything, and a reader waits
            self._fail(type(error).__name__)
        finally:
            self._fail("no answer")
            if not self._gone.is_set():
                await self._chunks.put(None)

    def _fail(self, reason: str) -> None:
        """Tell a reader who still waits for the head; the text of the application's error stays here."""
        if not self._started.done():
            self._started.set_exception(EngineError(f"The engine failed before it answered ({reason})."))

    async def _receive(self) -> Message:
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if not self._started.done():
                self._started.set_result((int(message["status"]), _content_type(message.get("headers", ()))))
            return
        if message["type"] != "http.response.body":
            return
        data = bytes(message.get("body", b""))
        if data and not self._gone.is_set():
            # Room comes from the reader, or from `__aexit__`, which empties the queue once and lets the rest drop.
            await self._chunks.put(data)
        if not message.get("more_body", False):
            self._ended = True


def _content_type(headers: Any) -> str:
    for name, value in headers:
        if bytes(name).lower() == b"content-type":
            return bytes(value).decode("latin-1")
    return "application/octet-stream"
