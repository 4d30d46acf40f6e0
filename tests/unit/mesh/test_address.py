from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.mesh.address import (
    Address,
    AddressError,
    TcpAddress,
    UnixAddress,
    VsockAddress,
    connect,
    parse_address,
    start_server,
)


@contextlib.asynccontextmanager
async def echoing(address: Address) -> AsyncIterator[None]:
    """Serve an echo at `address`, and leave no connection behind."""
    handlers: set[asyncio.Task[None]] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a handler runs in a task"
        handlers.add(task)
        writer.write(await reader.read(100))
        await close(writer)

    async with await start_server(echo, address):
        yield
        await asyncio.sleep(0.01)
        await asyncio.wait_for(asyncio.gather(*handlers), 5)


async def _unused(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    raise AssertionError("nobody connects here")


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_vsock_address_reads_back_as_it_is_written(cid: int, port: int) -> None:
    assert parse_address(str(VsockAddress(cid, port))) == VsockAddress(cid, port), "str and parse are inverse"


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert parse_address(str(address)) == address, "what parses is written the same way"


@pytest.mark.parametrize("text", ["unix:relative", "unix:/" + "x" * 107, "vsock:16", "tcp:host:99999", "tcp::80", ""])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a Unix socket needs|an address is"):
        parse_address(text)


async def test_bytes_go_both_ways_over_a_unix_socket(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "s"))
    async with echoing(address):
        reader, writer = await connect(address, timeout_s=5)
        writer.write(b"ping")
        assert await reader.read(100) == b"ping", "the echo comes back"
        await close(writer)


async def test_a_socket_file_that_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with echoing(UnixAddress(str(path))):
        _, writer = await connect(UnixAddress(str(path)), timeout_s=5)
        await close(writer)


async def test_a_socket_that_somebody_answers_at_is_not_taken(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "s"))
    async with echoing(address):
        with pytest.raises(AddressError, match="another process answers there"):
            await start_server(_unused, address)


async def test_a_port_in_use_is_said_in_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AddressError, match=rf"Could not listen at tcp:127.0.0.1:{port} \(.*\); is it in use\?"):
            await start_server(_unused, TcpAddress("127.0.0.1", port))


async def test_nobody_there_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(AddressError, match=r"Could not connect to unix:.* is it running\?"):
        await connect(UnixAddress(str(tmp_path / "none")), timeout_s=1)
