"""The listener: aiohttp's HTTP server, with its own answers to what is no request at all, and bounded connections.

aiohttp parses HTTP/1.1 with llhttp in its strict mode, which refuses two lengths, a length with a transfer coding, and
bare line feeds. Its refusals are turned into problem documents here.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.http import RawRequestMessage

from dataplane.protocol.errors import MrgcError, ProblemError

MAX_LINE_BYTES = 8_190
"""Longest request line, and longest header field: aiohttp's defaults, and what most load balancers take."""

MAX_HEADERS = 64
"""Most header fields: a tenant sends about a dozen, proxies on the way a few more. With `MAX_LINE_BYTES` a head is at
most 512 KiB."""

KEEPALIVE_S = 75.0
"""How long a connection may be silent between requests, and take to send its first head."""

LINGER_S = 2.0
"""How long the rest of a refused request is read and thrown away, so that the refusal is read before the reset."""

HANDSHAKE_S = 10.0
SHUTDOWN_S = 2.0
BACKLOG = 1_024
"""Connections waiting to be accepted: a load balancer that fails over opens many at once."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

logger = logging.getLogger(__name__)


def problem_response(problem: ProblemError, headers: dict[str, str]) -> web.Response:
    """Return the problem as a response (RFC 9457) with the router's own `headers` on it."""
    return web.Response(status=problem.status, body=problem.to_json(), headers={**problem.headers(), **headers})


class Connection(web.RequestHandler):
    """One tenant's connection. What can't be parsed is answered with a problem document and then read no more."""

    __slots__ = ("_refused",)

    def __init__(self, manager: web.Server, *, loop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
        """As aiohttp's own."""
        super().__init__(manager, loop=loop, **kwargs)
        self._refused = False

    @property
    def busy(self) -> bool:
        """Whether a request is being answered on this connection."""
        return bool(self._request_in_progress)

    def data_received(self, data: bytes) -> None:
        """Pass data on to the parser, or drop it after a refusal."""
        if self._refused:
            return
        super().data_received(data)
        if self._messages and not isinstance(self._messages[-1][0], RawRequestMessage):
            # The parser gave up. If it did so within a body, aiohttp tells only the next request, which never comes:
            # the one that waits for the rest of the body must hear of it.
            self._refused = True
            request = self._current_request
            if request is not None and not request.content.is_eof():
                request.content.set_exception(web.RequestPayloadError("the body's framing is broken"))

    def _make_error_handler(self, err_info: Any) -> Handler:
        """Answer bytes that are no HTTP request: aiohttp calls this with what its parser found."""
        self._refused = True

        async def refuse(request: web.BaseRequest) -> web.StreamResponse:
            what = type(err_info.exc).__name__
            logger.info("refused a malformed request", extra={"fault": what})
            # The parser's own text quotes what was sent, API key included, so it is not repeated.
            problem = ProblemError(
                "malformed-envelope",
                f"The bytes sent are no acceptable HTTP/1.1 request ({what}): check the framing headers, and that no "
                f"header field is over {MAX_LINE_BYTES} bytes and no head over {MAX_HEADERS} fields.",
            )
            response = problem_response(problem, {})
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
        """Answer an error of our own: logged by its type, told as a failed host, never with its text."""
        del status, message
        logger.error("unexpected error while answering", extra={"fault": type(exc).__name__}, exc_info=exc)
        if request.writer.output_size > 0:
            # Something went out already: a second head would end up inside the answer.
            raise ConnectionError("the answer had begun")
        response = problem_response(ProblemError("host-failed", "The router failed; this is a bug in it."), {})
        response.force_close()
        return response


class RouterServer(web.Server):
    """Listens for tenants; at most `max_connections` at once, further ones are cut at once."""

    def __init__(self, handler: Handler, *, max_connections: int, keepalive_s: float = KEEPALIVE_S) -> None:
        """Not listening yet."""
        super().__init__(handler, handler_cancellation=True)
        self._options: dict[str, Any] = {
            "access_log": None,
            "auto_decompress": False,
            "keepalive_timeout": keepalive_s,
            "lingering_time": LINGER_S,
            "max_field_size": MAX_LINE_BYTES,
            "max_headers": MAX_HEADERS,
            "max_line_size": MAX_LINE_BYTES,
        }
        self._max_connections = max_connections
        self._listener: asyncio.Server | None = None
        self.refused_connections = 0

    def __call__(self) -> web.RequestHandler:
        """Make the protocol of one connection."""
        return Connection(self, loop=self._loop, **self._options)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Count a connection in, or cut it when there are too many."""
        super().connection_made(handler, transport)
        if len(self.connections) > self._max_connections:
            self.refused_connections += 1
            transport.abort()

    async def listen(self, host: str, port: int, *, tls: ssl.SSLContext | None) -> int:
        """Start listening and return the port (a free one for 0); raises `MrgcError` if it can't be bound."""
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                self,
                host,
                port,
                ssl=tls,
                backlog=BACKLOG,
                ssl_handshake_timeout=None if tls is None else HANDSHAKE_S,
                ssl_shutdown_timeout=None if tls is None else SHUTDOWN_S,
            )
        except OSError as error:
            raise MrgcError(_cannot_bind(host, port, error)) from None
        return int(self._listener.sockets[0].getsockname()[1])

    @property
    def listening(self) -> bool:
        """Whether new connections are taken."""
        return self._listener is not None

    def stop_listening(self) -> None:
        """Take no new connections; those there are stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def close_idle(self) -> None:
        """Close the connections on which nothing is being answered."""
        for connection in self.connections:
            if isinstance(connection, Connection) and not connection.busy:
                connection.close()

    async def close_all(self, *, grace_s: float) -> None:
        """Cut every connection that is left, and wait up to `grace_s` for what was being answered to let go."""
        tasks = set()
        for connection in self.connections:
            if connection._task_handler is not None:  # noqa: SLF001 - aiohttp's own shutdown waits for it likewise
                tasks.add(connection._task_handler)  # noqa: SLF001 - as above
            if connection.transport is not None:
                connection.transport.abort()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)


def _cannot_bind(host: str, port: int, error: OSError) -> str:
    reason = "it is in use" if error.errno == errno.EADDRINUSE else (error.strerror or type(error).__name__)
    return f"The router can't listen on {host}:{port} ({reason}); free the port or set another one."
