"""An HTTP/1.1 server over aiohttp that answers in its owner's shape, logs kinds of errors alone, and waits for no head.

aiohttp's parser puts the bytes that it stumbled over into its errors, logs them, and answers with them. What is sent
here may be a prompt or an API key, so none of that is used: an error is known by its type and the place that raised it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.http import RawRequestMessage

from dataplane.mesh.logs import place_of

MAX_LINE_BYTES = 8_190
"""Longest request line, and longest header field: aiohttp's defaults, and what most load balancers take."""

MAX_HEADERS = 64
"""Most header fields: a tenant sends about a dozen, proxies on the way a few more. With `MAX_LINE_BYTES` a head is at
most 512 KiB."""

KEEPALIVE_S = 75.0
"""How long a connection may be silent between requests."""

HEAD_S = 10.0
"""How long a head may take, from the connection or from its first byte to its blank line: clients write it at once, and
three lost segments are sent again within 7 s (RFC 6298: 1 + 2 + 4)."""

LINGER_S = 2.0
"""How long the rest of a refused request is read and thrown away, so that the refusal is read before the reset."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

logger = logging.getLogger(__name__)


class Connection(web.RequestHandler):
    """One peer's connection. What can't be parsed is answered as the server says, and then nothing more is read."""

    __slots__ = ("_answered", "_head_timer", "_refused", "_server")

    def __init__(self, server: GuardedServer, *, loop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
        """As aiohttp's own."""
        super().__init__(server, loop=loop, **kwargs)
        self._server = server
        self._refused = False
        self._answered = 0
        self._head_timer: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """Whether a request of this connection is being answered, or is about to be.

        aiohttp's own mark is set a turn of the loop after it took the head from its queue. What falls in between, such
        as a body that is sent right after its head, belongs to no later head.
        """
        return self._request_count > self._answered

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to wait for the first head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Wait no more."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass data on to the parser, or drop it after a refusal."""
        if self._refused:
            return
        heads = self._request_count
        super().data_received(data)
        if self._request_count > heads:
            self._stop_timer()
        elif not self.busy and self._head_timer is None:
            self._await_head()  # a later head has begun
        if self._messages and not isinstance(self._messages[-1][0], RawRequestMessage):
            # The parser gave up. If it did so within a body, aiohttp tells only the next request, which never comes:
            # the one that waits for the rest of the body must hear of it.
            self._refused = True
            request = self._current_request
            if request is not None and not request.content.is_eof():
                request.content.set_exception(web.RequestPayloadError("the body's framing is broken"))

    async def _handle_request(self, *args: Any, **kw: Any) -> tuple[web.StreamResponse, bool]:
        try:
            return await super()._handle_request(*args, **kw)
        finally:
            self._answered += 1

    def log_debug(self, *args: Any, **kw: Any) -> None:
        """Say nothing: these records carry errors whose text quotes what was sent."""

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log an error by its type alone; aiohttp's text would quote it."""
        del args
        error = kw.get("exc_info")
        logger.warning("a connection ended with %s", type(error).__name__ if error is not None else "an error")

    def _await_head(self) -> None:
        self._head_timer = self._loop.call_later(self._server.head_s, self._head_is_late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        """Cut a connection whose head did not come: there is no request yet that could be answered."""
        self._head_timer = None
        self._server.late_heads += 1
        if self.transport is not None:
            self.transport.abort()

    def _make_error_handler(self, err_info: Any) -> Handler:
        """Answer bytes that are no HTTP request: aiohttp calls this with what its parser found."""
        self._refused = True

        async def refuse(request: web.BaseRequest) -> web.StreamResponse:
            what = type(err_info.exc).__name__
            # The parser's own text quotes what was sent, so it is not repeated.
            logger.warning("refused a malformed request: %s", what)
            response = self._server.malformed(what)
            response.force_close()
            await response.prepare(request)
            await response.write_eof()
            # Closing with unread bytes resets the connection and may take the answer along: give the peer time to
            # read it. When the peer closes, aiohttp cancels this.
            if self.transport is not None and self.transport.can_write_eof():
                self.transport.write_eof()
            await asyncio.sleep(LINGER_S)
            return response

        return refuse

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer an error of our own: logged by its type and place, and never told or logged with its text."""
        del status, message
        logger.error("an unexpected %s ended one request", place_of(exc))
        if request.writer.output_size > 0:
            # Something went out already: a second head would end up inside the answer.
            raise ConnectionError("the answer had begun")
        response = self._server.failed()
        response.force_close()
        return response


class GuardedServer(web.Server):
    """`malformed(kind)` makes the answer to bytes that are no request, `failed()` the one to a bug of ours."""

    def __init__(
        self,
        handler: Handler,
        *,
        malformed: Callable[[str], web.Response],
        failed: Callable[[], web.Response],
        keepalive_s: float = KEEPALIVE_S,
        head_s: float = HEAD_S,
        max_body_bytes: int | None = None,
    ) -> None:
        """Not listening yet. `max_body_bytes` is what a request's own `read` takes (None: whatever is streamed)."""
        super().__init__(handler, handler_cancellation=True, request_factory=self._request)
        self.malformed = malformed
        self.failed = failed
        self.head_s = head_s
        self.late_heads = 0
        """Connections cut because a head did not come in time."""
        self._max_body_bytes = max_body_bytes
        self._options: dict[str, Any] = {
            "access_log": None,
            "auto_decompress": False,
            "keepalive_timeout": keepalive_s,
            "lingering_time": LINGER_S,
            "max_field_size": MAX_LINE_BYTES,
            "max_headers": MAX_HEADERS,
            "max_line_size": MAX_LINE_BYTES,
        }

    def __call__(self) -> web.RequestHandler:
        """Make the protocol of one connection."""
        return Connection(self, loop=self._loop, **self._options)

    def _request(
        self, message: RawRequestMessage, payload: Any, protocol: Any, writer: Any, task: asyncio.Task[None]
    ) -> web.BaseRequest:
        more: dict[str, Any] = {} if self._max_body_bytes is None else {"client_max_size": self._max_body_bytes}
        return web.BaseRequest(message, payload, protocol, writer, task, self._loop, **more)
