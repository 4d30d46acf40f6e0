"""Loopback ports that are free now, below the range from which the kernel takes ports for outgoing connections."""

from __future__ import annotations

import contextlib
import socket

import psutil

from dataplane.protocol.errors import MrgcError

LOOPBACK = "127.0.0.1"
FIRST_PORT = 18_000
LAST_PORT = 31_999
"""Linux takes outgoing ports from 32,768 up (ip_local_port_range): below it nobody takes ours by accident."""


class PortError(MrgcError):
    """A port that is taken, or too few that are free."""


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Say whether a listener could bind the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        # As asyncio's servers do; otherwise a port that was used a minute ago would look taken.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError:
            return False
    return True


class HeldPorts:
    """Free ports, held until `close`, so that no other cluster takes them before their listeners start.

    Each is bound, not listened on. A second bind that insists on having the port alone fails, and so do this module's;
    a listener that sets SO_REUSEADDR, as asyncio's do, gets it (socket(7), ip(7)).
    """

    def __init__(self, count: int, *, first: int = FIRST_PORT) -> None:
        """Hold the `count` lowest ports that are free; raises `PortError` when there are not so many."""
        self._sockets: list[socket.socket] = []
        self.numbers: list[int] = []
        for port in range(first, LAST_PORT + 1):
            if len(self.numbers) == count:
                return
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                sock.bind((LOOPBACK, port))
            except OSError:
                sock.close()
                continue
            # Only now: set before, it would share a port that somebody else holds.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._sockets.append(sock)
            self.numbers.append(port)
        if len(self.numbers) < count:
            found = len(self.numbers)
            self.close()
            raise PortError(f"Only {found} of {count} ports are free from {first} to {LAST_PORT} on {LOOPBACK}.")

    def close(self) -> None:
        """Let them go."""
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()


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
