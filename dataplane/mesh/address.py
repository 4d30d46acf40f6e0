"""Addresses of byte streams: TCP, Unix sockets and vsock, behind one pair of functions.

Written as `unix:/run/mrgc/proxy.sock`, `vsock:16:5000` (CID and port, vsock(7)) or `tcp:127.0.0.1:8080`. A listener
on vsock binds `VMADDR_CID_ANY`, whatever CID its address names: a host can't bind the CID that its guest calls it by.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from dataplane.protocol.errors import MrgcError

STREAM_LIMIT = 131_072
"""Bytes that a reader holds before it stops reading: two messages of the host link at their largest."""

MAX_UNIX_PATH = 107
"""Longest path of a Unix socket, in bytes: `sun_path` is 108 with its final zero (unix(7))."""

BACKLOG = 128
"""Connections that wait to be accepted; Linux's historic `SOMAXCONN`, and vsock's own bound."""

MAX_VSOCK_NUMBER = 2**32 - 1

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class AddressError(MrgcError):
    """A listener that could not bind, or an address that nobody answers at."""


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket by its path."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class VsockAddress:
    """A vsock port of a context (3 the parent instance, 16 our enclave)."""

    cid: int
    port: int

    def __str__(self) -> str:
        return f"vsock:{self.cid}:{self.port}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP port of a host."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"tcp:{self.host}:{self.port}"


Address = UnixAddress | VsockAddress | TcpAddress


def parse_address(text: str) -> Address:
    """Read an address; raises `ValueError` whose text says what was expected."""
    kind, _, rest = text.partition(":")
    if kind == "unix":
        if not rest.startswith("/") or len(os.fsencode(rest)) > MAX_UNIX_PATH:
            raise ValueError(f"a Unix socket needs an absolute path of at most {MAX_UNIX_PATH} bytes")
        return UnixAddress(rest)
    head, _, port = rest.rpartition(":")
    if kind == "vsock" and _number(head, MAX_VSOCK_NUMBER) and _number(port, MAX_VSOCK_NUMBER):
        return VsockAddress(int(head), int(port))
    if kind == "tcp" and head and _number(port, 65_535):
        return TcpAddress(head, int(port))
    raise ValueError("an address is unix:/path, vsock:CID:PORT or tcp:HOST:PORT")


def _number(text: str, most: int) -> bool:
    """Say whether `text` is a plain decimal number up to `most`."""
    return text.isascii() and text.isdigit() and int(text) <= most


def _coerce(value: object) -> object:
    """Let settings give an address as text."""
    return parse_address(value) if isinstance(value, str) else value


AddressField = Annotated[Address, BeforeValidator(_coerce)]
"""An address as a settings field."""


async def connect(
    address: Address, *, timeout_s: float, limit: int = STREAM_LIMIT
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect within `timeout_s` seconds; raises `AddressError` when nobody answers there."""
    try:
        async with asyncio.timeout(timeout_s):
            if isinstance(address, UnixAddress):
                return await asyncio.open_unix_connection(address.path, limit=limit)
            if isinstance(address, TcpAddress):
                return await asyncio.open_connection(address.host, address.port, limit=limit)
            return await _connect_vsock(address, limit)
    except TimeoutError:
        raise AddressError(f"Nothing answered at {address} within {timeout_s:g} s; is it running?") from None
    except OSError as error:
        raise AddressError(f"Could not connect to {address} ({error.strerror or error}); is it running?") from error


async def _connect_vsock(address: VsockAddress, limit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect over vsock; the socket is closed on every path that does not return it."""
    sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)  # noqa: FBT003 - the standard library takes it so
        await asyncio.get_running_loop().sock_connect(sock, (address.cid, address.port))
        return await asyncio.open_connection(sock=sock, limit=limit)
    except BaseException:
        sock.close()
        raise


async def start_server(handler: Handler, address: Address, *, limit: int = STREAM_LIMIT) -> asyncio.Server:
    """Listen at `address` and call `handler` for each connection; raises `AddressError` if it can't bind.

    A Unix socket that a dead process left behind is replaced; one that somebody still answers at is not.
    """
    try:
        if isinstance(address, UnixAddress):
            await _clear_stale(address)
            server = await asyncio.start_unix_server(handler, address.path, limit=limit, backlog=BACKLOG)
            Path(address.path).chmod(0o660)
            return server
        if isinstance(address, TcpAddress):
            return await asyncio.start_server(handler, address.host, address.port, limit=limit, backlog=BACKLOG)
        sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        try:
            sock.bind((socket.VMADDR_CID_ANY, address.port))
            return await asyncio.start_server(handler, sock=sock, limit=limit, backlog=BACKLOG)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise AddressError(f"Could not listen at {address} ({error.strerror or error}); is it in use?") from error


async def _clear_stale(address: UnixAddress) -> None:
    """Remove a socket file that nobody listens at; leave anything else for `bind` to complain about."""
    path = Path(address.path)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.stat().st_mode):
            return
        try:
            _, writer = await asyncio.wait_for(asyncio.open_unix_connection(address.path), 1.0)
        except ConnectionRefusedError:
            path.unlink()
            return
        writer.close()
        await writer.wait_closed()
        raise AddressError(f"Could not listen at {address}: another process answers there; stop it first.")
