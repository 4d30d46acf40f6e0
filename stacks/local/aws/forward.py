"""Everything that is not ours goes to moto, byte for byte, over loopback."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Self

import aiohttp
from aiohttp import web
from moto.server import ThreadedMotoServer
from multidict import CIMultiDict
from yarl import URL

TIMEOUT_S = 60.0
"""Longest wait for moto; it answers in milliseconds."""

_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-connection"})


class Moto:
    """moto's server in a thread, and a client to it."""

    def __init__(self) -> None:
        """Nothing is started yet."""
        self._server: ThreadedMotoServer | None = None
        self._session: aiohttp.ClientSession | None = None
        self._origin = ""

    async def __aenter__(self) -> Self:
        """Start moto on a free port of loopback."""
        # Its access log repeats every URL.
        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        self._server = server
        host, port = server.get_host_and_port()
        self._origin = f"http://{host}:{port}"
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), auto_decompress=False, skip_auto_headers={"Content-Type"}
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop both."""
        if self._session is not None:
            await self._session.close()
        if self._server is not None:
            self._server.stop()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Forward one request and stream its answer."""
        if self._session is None:
            return web.Response(status=503, text="moto is not started.")
        body = request.content if request.can_read_body else None
        try:
            async with self._session.request(
                request.method,
                URL(self._origin + request.raw_path, encoded=True),
                headers=_end_to_end(request.headers),
                data=body,
                allow_redirects=False,
            ) as answer:
                response = web.StreamResponse(status=answer.status, headers=_end_to_end(answer.headers))
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
                return response
        except (aiohttp.ClientError, TimeoutError) as error:
            return web.Response(status=502, text=f"moto did not answer ({type(error).__name__}).")


def _end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """Return the headers that are not about one connection."""
    kept: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        if name.lower() not in _HOP:
            kept.add(name, value)
    return kept
