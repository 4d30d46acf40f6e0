"""The listener for tenants: problem documents for what is no request at all, and connections bounded in number.

aiohttp parses HTTP/1.1 with llhttp in its strict mode, which refuses two lengths, a length with a transfer coding, and
bare line feeds (dataplane/mesh/httpserver.py).
"""

from __future__ import annotations

import asyncio
import errno
import ssl

from aiohttp import web

from dataplane.mesh.httpserver import (
    HEAD_S,
    KEEPALIVE_S,
    MAX_HEADERS,
    MAX_LINE_BYTES,
    Connection,
    GuardedServer,
    Handler,
)
from dataplane.protocol.errors import MrgcError, ProblemError
from dataplane.router.crowd import MAX_STRANGERS, Crowd, client_address

HANDSHAKE_S = 10.0
SHUTDOWN_S = 2.0
BACKLOG = 1_024
"""Connections waiting to be accepted: a load balancer that fails over opens many at once."""


def problem_response(problem: ProblemError, headers: dict[str, str]) -> web.Response:
    """Return the problem as a response (RFC 9457) with the router's own `headers` on it."""
    return web.Response(status=problem.status, body=problem.to_json(), headers={**problem.headers(), **headers})


def _malformed(what: str) -> web.Response:
    return problem_response(
        ProblemError(
            "malformed-envelope",
            f"The bytes sent are no acceptable HTTP/1.1 request ({what}): check the framing headers, and that no "
            f"header field is over {MAX_LINE_BYTES} bytes and no head over {MAX_HEADERS} fields.",
        ),
        {},
    )


def _failed() -> web.Response:
    return problem_response(ProblemError("host-failed", "The router failed; this is a bug in it."), {})


class RouterServer(GuardedServer):
    """Listens for tenants; at most `max_connections` at once, and `max_strangers` of one address.

    Whose turn it is to go when there are too many is said in crowd.py.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        max_connections: int,
        max_strangers: int = MAX_STRANGERS,
        keepalive_s: float = KEEPALIVE_S,
        head_s: float = HEAD_S,
    ) -> None:
        """Not listening yet."""
        super().__init__(handler, malformed=_malformed, failed=_failed, keepalive_s=keepalive_s, head_s=head_s)
        self._crowd: Crowd[web.RequestHandler] = Crowd(
            most=max_connections, most_strangers=max_strangers, busy=_is_busy
        )
        self._listener: asyncio.Server | None = None
        self.refused_connections = 0

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Count a connection in, and cut those for which there is no room any more."""
        super().connection_made(handler, transport)
        for surplus in self._crowd.add(handler, client_address(transport.get_extra_info("peername"))):
            self.refused_connections += 1
            if surplus.transport is not None:
                surplus.transport.abort()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Count a connection out."""
        self._crowd.remove(handler)
        super().connection_lost(handler, exc)

    def prove(self, request: web.BaseRequest) -> None:
        """Note that a tenant's key was given on this request's connection."""
        self._crowd.prove(request.protocol)

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
            if not _is_busy(connection):
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


def _is_busy(connection: web.RequestHandler) -> bool:
    return isinstance(connection, Connection) and connection.busy


def _cannot_bind(host: str, port: int, error: OSError) -> str:
    reason = "it is in use" if error.errno == errno.EADDRINUSE else (error.strerror or type(error).__name__)
    return f"The router can't listen on {host}:{port} ({reason}); free the port or set another one."
