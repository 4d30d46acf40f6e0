"""Loopback ports that are free now, below the range from which the kernel takes ports for outgoing connections."""

from __future__ import annotations

import contextlib
import socket

import psutil

from dataplane.protocol.errors import MrgcError

FIRST_PORT = 18_000
LAST_PORT = 31_999
"""Linux takes outgoing ports from 32,768 up (ip_local_port_range): below it nobody takes ours by accident."""


class PortError(MrgcError):
    """A port that is taken, or too few that are free."""


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Say whether a listener could bind the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        # As asyncio's servers do; otherwise a port that was used a minute ago would look taken.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError:
            return False
    return True


def free_ports(count: int, *, first: int = FIRST_PORT) -> list[int]:
    """Return `count` free ports in ascending order; raises `PortError` when there are not so many."""
    found: list[int] = []
    for port in range(first, LAST_PORT + 1):
        if len(found) == count:
            break
        if is_free(port):
            found.append(port)
    if len(found) < count:
        raise PortError(f"Only {len(found)} of {count} ports are free from {first} to {LAST_PORT} on 127.0.0.1.")
    return found


def holder(port: int) -> str:
    """Say who listens on a port, as well as this user may know."""
    with contextlib.suppress(psutil.AccessDenied, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                if connection.pid is None:
                    break
                with contextlib.suppress(psutil.Error):
                    command = " ".join(psutil.Process(connection.pid).cmdline())[:120]
                    return f"pid {connection.pid} ({command})"
    return "another process"
