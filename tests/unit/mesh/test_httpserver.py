"""The clock over a head: it runs for heads alone, however the bytes of a request fall."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from dataplane.mesh.httpserver import Connection, GuardedServer

HEAD = b"POST /slow HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\n\r\n"
TURNS = 40
"""Turns of the loop that are more than a request takes here: every timer of 0 s fires within two."""


class _Wire(asyncio.Transport):
    """A transport that keeps what is written, and says whether it was cut."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def writelines(self, list_of_data: Any) -> None:
        self.written += b"".join(list_of_data)

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        """Nothing is read here."""

    def resume_reading(self) -> None:
        """Nothing is read here."""


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class _Held:
    """A server whose clock over a head allows no time at all, and whose answers wait for `release`."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.bodies: list[bytes] = []
        refusal = web.Response(status=400)
        self.server = GuardedServer(
            self._answer, malformed=lambda _: refusal, failed=lambda: refusal, head_s=0.0, max_body_bytes=64
        )
        self.wire = _Wire()
        connection = self.server()
        assert isinstance(connection, Connection), "the server's own protocol"
        self.connection = connection

    def busy(self) -> bool:
        return self.connection.busy

    def cut(self) -> bool:
        return self.wire.aborted

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.bodies.append(await request.read())
        await self.release.wait()
        return web.Response(text="done")


@pytest.mark.parametrize("turns", range(6))
async def test_a_body_that_comes_right_after_its_head_never_starts_the_clock_over_a_head(turns: int) -> None:
    held = _Held()
    held.connection.connection_made(held.wire)
    held.connection.data_received(HEAD)
    await _turns(turns)  # wherever the server stands between parsing a head and answering it
    held.connection.data_received(b"body")
    await _turns(TURNS)
    assert held.bodies == [b"body"], "the request is being answered"
    assert held.busy(), "and whoever must close a connection can tell"
    assert not held.cut(), "its head was whole: the answer may take as long as it takes"
    assert held.server.late_heads == 0, "no head was late"
    held.release.set()
    await _turns(TURNS)
    assert held.wire.written.startswith(b"HTTP/1.1 200"), "the answer came"
    assert not held.busy(), "and the connection is idle"
    held.connection.data_received(b"POST /")
    await _turns(TURNS)
    assert held.cut(), "a later head that does not come is still given up"
    held.connection.connection_lost(None)


async def test_a_connection_is_busy_from_its_whole_head_on() -> None:
    held = _Held()
    held.connection.connection_made(held.wire)
    assert not held.busy(), "nothing was asked yet"
    held.connection.data_received(HEAD)
    for turn in range(6):
        assert held.busy(), f"a whole head is a request, answered or about to be (turn {turn})"
        await _turns(1)
    held.connection.connection_lost(None)
