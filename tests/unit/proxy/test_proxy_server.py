"""The enclave proxy over real sockets: bytes pass, limits hold, nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from dataplane.mesh.address import AddressError, UnixAddress, connect
from dataplane.mesh.lifecycle import Stop
from dataplane.mesh.settings import load_settings
from dataplane.protocol.errors import SettingsError
from dataplane.proxy.__main__ import serve
from dataplane.proxy.server import ProxyServer
from dataplane.proxy.settings import ProxySettings

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
DEADLINE_S = 5.0


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.write(b"|eof")
    writer.close()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


@contextlib.asynccontextmanager
async def running(tmp_path: Path, enclave: Handler | None = echo, **environ: str) -> AsyncIterator[ProxyServer]:
    """A proxy between tmp_path/proxy.sock and an enclave, and a KMS that is the same handler on loopback."""
    servers = []
    kms_port = 9
    if enclave is not None:
        servers.append(await asyncio.start_unix_server(enclave, tmp_path / "enclave.sock"))
        servers.append(await asyncio.start_server(enclave, "127.0.0.1", 0))
        kms_port = servers[1].sockets[0].getsockname()[1]
    settings = load_settings(
        ProxySettings,
        {
            "PARENT_ADDRESS": f"unix:{tmp_path}/proxy.sock",
            "ENCLAVE_ADDRESS": f"unix:{tmp_path}/enclave.sock",
            "KMS_LISTEN_ADDRESS": f"unix:{tmp_path}/kms.sock",
            "KMS_ENDPOINTS": f"127.0.0.1:{kms_port}",
            "DRAIN_TIMEOUT_S": "0.05",
            **environ,
        },
    )
    server = ProxyServer(settings, monotonic=time.monotonic)
    await server.start()
    try:
        yield server
    finally:
        await server.close()
        for each in servers:
            each.close()


@contextlib.asynccontextmanager
async def dial(path: Path) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await connect(UnixAddress(str(path)), timeout_s=1)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def eventually(condition: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)
    assert condition(), what


async def test_bytes_pass_both_ways_and_a_half_close_is_passed_on(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        async with dial(tmp_path / "proxy.sock") as (reader, writer):
            writer.write(b"x" * 300_000)
            writer.write_eof()
            answer = await reader.read()
        assert answer == b"x" * 300_000 + b"|eof", "the enclave saw the end and could still answer"
        await eventually(lambda: server.parents.counters.active == 0, "the connection is over")
        assert server.parents.counters.up == 300_000, "bytes towards the enclave are counted"
        assert server.parents.counters.down == 300_004, "bytes from the enclave are counted"


async def test_a_tunnel_leads_to_an_allowed_endpoint(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        (endpoint,) = server._settings.kms_endpoints
        async with dial(tmp_path / "kms.sock") as (reader, writer):
            writer.write(f"CONNECT {endpoint} HTTP/1.0\r\n\r\nearly".encode())
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 Connection Established\r\n\r\n", "it is open"
            writer.write(b" late")
            writer.write_eof()
            assert await reader.read() == b"early late|eof", "bytes sent before the answer are not lost"


async def test_a_tunnel_elsewhere_is_refused_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tmp_path) as server, dial(tmp_path / "kms.sock") as (reader, writer):
        writer.write(b"CONNECT secret-name.example.com:443 HTTP/1.1\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 403 "), "it is not in the list"
        assert server.refused_tunnels == 1, "refusals are counted"
    assert "secret-name" not in caplog.text, "what an enclave asks for is not the host's to log"


async def test_a_tunnel_to_a_dead_endpoint_is_answered_502(tmp_path: Path) -> None:
    async with running(tmp_path, enclave=None), dial(tmp_path / "kms.sock") as (reader, writer):
        writer.write(b"CONNECT 127.0.0.1:9 HTTP/1.1\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 502 "), "KMS is allowed and does not answer"


async def test_a_connection_that_ends_within_the_head_is_answered_400(tmp_path: Path) -> None:
    async with running(tmp_path), dial(tmp_path / "kms.sock") as (reader, writer):
        writer.write(b"CONNECT 127")
        writer.write_eof()
        assert (await reader.read()).startswith(b"HTTP/1.1 400 "), "half a head is no head"


async def test_without_an_enclave_the_parent_sees_the_end_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, enclave=None) as server:
        async with dial(tmp_path / "proxy.sock") as (reader, _):
            assert await reader.read() == b"", "nothing can be said: the proxy speaks no protocol"
        await eventually(lambda: server.parents.counters.unreachable == 1, "it is counted")
    assert "the enclave does not answer" in caplog.text, "the host's operator is told"


async def test_a_connection_over_the_limit_ends_at_once_and_the_others_live(tmp_path: Path) -> None:
    async with (
        running(tmp_path, MAX_CONNECTIONS="1") as server,
        dial(tmp_path / "proxy.sock") as (reader, writer),
    ):
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a", "the first connection is served"
        async with dial(tmp_path / "proxy.sock") as (second, _):
            assert await second.read() == b"", "the second is over the limit"
        writer.write(b"b")
        assert await reader.readexactly(1) == b"b", "and the first does not notice"
        assert server.parents.counters.over_limit == 1, "it is counted"


async def test_a_tunnel_over_the_limit_is_answered_503(tmp_path: Path) -> None:
    async with running(tmp_path, MAX_TUNNELS="1") as server, dial(tmp_path / "kms.sock"):
        await eventually(lambda: server.tunnels.counters.active == 1, "the first is there")
        async with dial(tmp_path / "kms.sock") as (reader, _):
            assert (await reader.read()).startswith(b"HTTP/1.1 503 "), "an HTTP client deserves an answer"


async def test_a_silent_connection_is_ended_after_the_idle_time(tmp_path: Path) -> None:
    async with running(tmp_path, silent, IDLE_TIMEOUT_S="0.05") as server:
        async with dial(tmp_path / "proxy.sock") as (reader, _):
            assert await reader.read() == b"", "nobody said anything"
        await eventually(lambda: server.parents.counters.idle == 1, "it counts as idle")


async def test_traffic_one_way_keeps_a_connection_alive(tmp_path: Path) -> None:
    async def trickle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _turn in range(10):
            writer.write(b".")
            await asyncio.sleep(0.03)
        writer.close()

    async with running(tmp_path, trickle, IDLE_TIMEOUT_S="0.15"), dial(tmp_path / "proxy.sock") as (reader, _):
        assert await reader.read() == b"." * 10, "0.3 s of a stream outlive an idle time of 0.15 s"


async def test_a_reader_that_stops_is_ended_and_holds_little(tmp_path: Path) -> None:
    sent = 0

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        with contextlib.suppress(OSError):
            while True:
                writer.write(bytes(65_536))
                await writer.drain()
                sent += 65_536

    async with running(tmp_path, flood, IDLE_TIMEOUT_S="0.1") as server:
        async with dial(tmp_path / "proxy.sock") as (reader, _):
            await eventually(lambda: server.parents.counters.idle == 1, "a stalled reader is ended")
            del reader
        assert sent < 4 * 1024 * 1024, "the enclave was slowed down instead of buffered without bound"


async def test_an_enclave_that_dies_midway_ends_the_stream(tmp_path: Path) -> None:
    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(1))
        await writer.drain()
        writer.transport.abort()

    async with running(tmp_path, dies) as server:
        async with dial(tmp_path / "proxy.sock") as (reader, writer):
            writer.write(b"a")
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b"a", "what came before the end is passed on"
        await eventually(lambda: server.parents.counters.active == 0, "nothing waits for a dead enclave")


async def test_closing_drains_for_a_bounded_time_then_cuts(tmp_path: Path) -> None:
    async with dialled(tmp_path) as (server, reader):
        started = time.monotonic()
        await server.close()
        assert time.monotonic() - started < 2, "0.05 s of drain, then the end"
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b"", "the connection is over"
        assert server.parents.counters.active == 0, "its slot is free"
        with pytest.raises(AddressError):
            await connect(UnixAddress(str(tmp_path / "proxy.sock")), timeout_s=0.5)


@contextlib.asynccontextmanager
async def dialled(tmp_path: Path) -> AsyncIterator[tuple[ProxyServer, asyncio.StreamReader]]:
    async with running(tmp_path, silent) as server, dial(tmp_path / "proxy.sock") as (reader, _):
        await eventually(lambda: server.parents.counters.active == 1, "the connection is there")
        yield server, reader


async def test_an_address_in_use_is_a_sentence(tmp_path: Path) -> None:
    async with running(tmp_path):
        with pytest.raises(AddressError, match="another process answers there"):
            async with running(tmp_path, enclave=None):
                pass


async def test_counters_are_logged_when_they_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with running(tmp_path) as server:
        task = asyncio.create_task(server.report(period_s=0.01))
        await eventually(lambda: "proxy counters" in caplog.text, "the first report")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_sidecar_serves_until_asked_to_stop(tmp_path: Path) -> None:
    settings = load_settings(
        ProxySettings,
        {
            "PARENT_ADDRESS": f"unix:{tmp_path}/p.sock",
            "KMS_LISTEN_ADDRESS": f"unix:{tmp_path}/k.sock",
            "ENCLAVE_ADDRESS": f"unix:{tmp_path}/e.sock",
        },
    )
    stop = Stop()
    task = asyncio.create_task(serve(settings, stop))
    await eventually(lambda: (tmp_path / "p.sock").exists() and (tmp_path / "k.sock").exists(), "both listen")
    stop.request()
    async with asyncio.timeout(DEADLINE_S):
        await task


def test_settings_name_every_fault_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(ProxySettings, {"ENCLAVE_ADDRESS": "16:5000", "KMS_ENDPOINTS": "kms", "MAX_CONNECTIONS": "0"})
    text = str(caught.value)
    for name in ("ENCLAVE_ADDRESS", "KMS_ENDPOINTS", "MAX_CONNECTIONS"):
        assert name in text, "one run tells all that is wrong"


def test_the_defaults_are_the_production_layout() -> None:
    settings = load_settings(ProxySettings, {})
    assert str(settings.enclave_address) == "vsock:16:5000", "the enclave's CID and port"
    assert str(settings.kms_listen_address) == "vsock:3:8000", "the parent instance's CID"
    assert {str(endpoint) for endpoint in settings.kms_endpoints} == {
        "kms.us-east-1.amazonaws.com:443",
        "kms.us-east-2.amazonaws.com:443",
        "kms.us-west-2.amazonaws.com:443",
    }, "KMS of the three regions and nothing else"
