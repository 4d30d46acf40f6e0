"""Faults seen from both ends of the whole path: a tenant at the router, and what reached enclave and worker."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dataplane.protocol.envelope import RequestSealer
from tests.support.whole_path import WholePath, chat, whole_path
from tests.unit.router.harness import Client, Reply, eventually, head

LONG_TOKENS = 2_000
MUST_END_S = 10


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[WholePath]:
    async with whole_path(tmp_path) as each:
        yield each


def opened(sealer: RequestSealer, body: bytes) -> bytes:
    """The whole answer; raises OpenError where it is not whole."""
    opener = sealer.response_opener()
    data = b"".join(each.data for each in opener.feed(body) if not each.final)
    opener.finish()
    return data


async def until(condition: Callable[[], object], what: str) -> None:
    await eventually(lambda: bool(condition()), what, timeout_s=MUST_END_S)


async def nothing_is_held(path: WholePath) -> None:
    """Whatever happened, no part still works at it, and the next request is served."""
    await until(lambda: not path.worker.pools.engine_load().running, "the engine is free")
    await until(lambda: not path.enclave.server.state.memory.used, "the enclave's bytes are given back")
    sealed = path.seal()
    assert b"[DONE]" in opened(sealed[1], (await path.ask(sealed)).body), "the next request is served"


@asynccontextmanager
async def streaming(path: WholePath) -> AsyncIterator[asyncio.Task[Reply]]:
    """A long answer that has begun to reach its tenant."""
    sealed = path.seal(chat(LONG_TOKENS))
    async with path.router.client() as client:
        await client.send(head(content_length=str(len(sealed[0]))) + sealed[0])
        first = await asyncio.wait_for(client.reader.readuntil(b"MRGC"), MUST_END_S)
        assert b" 200 " in first.split(b"\r\n", 1)[0], "it has begun"
        rest = asyncio.create_task(rest_of(client))
        try:
            yield rest
        finally:
            rest.cancel()
            await asyncio.gather(rest, return_exceptions=True)


async def rest_of(client: Client) -> Reply:
    """What follows the first bytes of a chunked answer; `clean` says whether its last chunk came."""
    body = b""
    while data := await read_on(client):
        body += data
        if body.endswith(b"\r\n0\r\n\r\n"):
            return Reply(200, {}, body, clean=True)
    return Reply(200, {}, body, clean=False)


async def read_on(client: Client) -> bytes:
    try:
        return await asyncio.wait_for(client.reader.read(65_536), MUST_END_S)
    except ConnectionError:
        return b""


async def test_a_slow_writer_is_served_whole(path: WholePath) -> None:
    sealed = path.seal()
    async with path.router.client() as client:
        await client.send(head(transfer_encoding="chunked"))
        for start in range(0, len(sealed[0]), 16):
            piece = sealed[0][start : start + 16]
            await client.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            await asyncio.sleep(0.002)
        await client.send(b"0\r\n\r\n")
        reply = await client.reply()
    assert (reply.status, reply.clean) == (200, True), reply.body
    assert b"[DONE]" in opened(sealed[1], reply.body), "slowness alone is no fault"


async def test_a_slow_reader_gets_everything_and_disturbs_nobody(path: WholePath) -> None:
    sealed = path.seal(chat(300))
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
        slow.setblocking(False)  # noqa: FBT003 - the socket's own API
        loop = asyncio.get_running_loop()
        await loop.sock_connect(slow, ("127.0.0.1", path.router.router.port))
        await loop.sock_sendall(slow, head(content_length=str(len(sealed[0])), connection="close") + sealed[0])
        received = b""
        async with asyncio.timeout(6 * MUST_END_S):
            while data := await loop.sock_recv(slow, 512):
                received += data
                await asyncio.sleep(0.001)
                if len(received) == 512 * 20:
                    assert (await path.ask()).clean, "others are served meanwhile"
        assert received.endswith(b"\r\n0\r\n\r\n"), "it ends as it should"
    reader = asyncio.StreamReader(limit=2**24)
    reader.feed_data(received.split(b"\r\n\r\n", 1)[1])
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    assert b"[DONE]" in opened(sealed[1], body), "nothing is lost"


async def test_a_body_that_stops_midway_never_reaches_the_engine(path: WholePath) -> None:
    sealed = path.seal()
    total = path.worker.inference.tally.total
    async with path.router.client() as client:
        await client.send(head(content_length=str(len(sealed[0]))) + sealed[0][:-10])
        await until(lambda: path.enclave.server.connections > 0, "the enclave has the beginning")
        client.cut()
    await until(lambda: not path.enclave.server.state.memory.used, "the enclave's bytes are given back")
    assert path.worker.inference.tally.total == total, "no engine saw half a request"
    assert len(path.enclave.server.state.replay) == 0, "and the enclave has not taken it for served"
    reply = await path.ask(sealed)
    assert b"[DONE]" in opened(sealed[1], reply.body), "so that the same bytes are served when they come whole"


async def test_a_tenant_that_leaves_midway_frees_the_engine(path: WholePath) -> None:
    async with streaming(path):
        assert path.worker.pools.engine_load().running == 1, "the engine works at it"
    await nothing_is_held(path)


async def test_an_enclave_that_dies_midway_breaks_the_answer_and_frees_the_engine(path: WholePath) -> None:
    async with streaming(path) as rest:
        await path.enclave.server.close(drain_s=0)
        reply = await asyncio.wait_for(rest, MUST_END_S)
        assert not reply.clean, "no last chunk makes it look whole"
    await until(lambda: not path.worker.pools.engine_load().running, "the engine is free")
    reply = await path.ask()
    assert (reply.status, reply.code) == (502, "host-failed"), "and the host says that it has failed"


async def test_a_worker_that_dies_midway_breaks_the_answer(path: WholePath) -> None:
    async with streaming(path) as rest:
        path.worker_stop.request()  # its drain has 0.1 s, then it cuts
        reply = await asyncio.wait_for(rest, MUST_END_S)
        assert not reply.clean, "no last chunk makes it look whole"
    await until(lambda: not path.enclave.server.state.memory.used, "the enclave's bytes are given back")
    reply = await path.ask()
    assert (reply.status, reply.code) == (502, "host-failed"), "and the host says that it has failed"
