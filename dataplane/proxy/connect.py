"""The head of an HTTP `CONNECT` request, the only bytes that the proxy ever reads (RFC 9110, section 9.3.6).

boto3 in the enclave sends one before it starts TLS to KMS. Python 3.11's http.client writes
`CONNECT kms.us-east-1.amazonaws.com:443 HTTP/1.0` and nothing else, 52 bytes; later ones write HTTP/1.1 and a `Host`
line, about 110.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dataplane.protocol.errors import MrgcError

MAX_HOST = 253
"""Longest name in DNS, in characters (RFC 1035, section 2.3.4)."""

MAX_HEAD_BYTES = 1024
"""Longest head that is read. A name of 253 and a port of 5 digits, twice (request line and `Host`), make 518 bytes,
the words around them 32; the rest is room for headers that an HTTP library may add."""

MAX_HEADERS = 16
"""Header lines that a head may have; ours has one."""

_REQUEST_LINE = re.compile(rb"CONNECT ([A-Za-z0-9.-]{1,253}):([0-9]{1,5}) HTTP/1\.[01]")
_HEADER_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")

REASONS = {
    200: "Connection Established",
    400: "Bad Request",
    403: "Forbidden",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    502: "Bad Gateway",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """A host name (lower case) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class ConnectError(MrgcError):
    """A head that is no `CONNECT` to somewhere allowed; `status` is the HTTP status that answers it."""

    def __init__(self, status: int, message: str) -> None:
        """Keep the status beside the sentence."""
        super().__init__(message)
        self.status = status


class ConnectHead:
    """Collects a head as it comes; knows no sockets."""

    def __init__(self, allowed: frozenset[Endpoint]) -> None:
        """Allow tunnels to `allowed` only."""
        self._allowed = allowed
        self._buffer = bytearray()

    @property
    def missing(self) -> int:
        """Bytes that the head may still take: read no more than this at once."""
        return MAX_HEAD_BYTES - len(self._buffer)

    def feed(self, data: bytes) -> tuple[Endpoint, bytes] | None:
        """Take bytes; once the head is whole return where it goes and what followed it, until then None.

        Raises `ConnectError`: 400 malformed, 403 not allowed, 405 not `CONNECT`, 431 over `MAX_HEAD_BYTES`.
        """
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) >= MAX_HEAD_BYTES:
                raise ConnectError(431, f"The head of a CONNECT request is over {MAX_HEAD_BYTES} bytes; send less.")
            return None
        endpoint = parse_connect(bytes(self._buffer[:end]))
        if endpoint not in self._allowed:
            # The name is not repeated: what an enclave asks for is not the host's to log.
            raise ConnectError(403, "The endpoint asked for is not in KMS_ENDPOINTS; add it there if it should be.")
        return endpoint, bytes(self._buffer[end + 4 :])


def parse_connect(head: bytes) -> Endpoint:
    """Read a head without its final empty line; raises `ConnectError`."""
    first, *rest = head.split(b"\r\n")
    if not first.startswith(b"CONNECT "):
        raise ConnectError(405, "This port takes HTTP CONNECT only.")
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise ConnectError(400, "The CONNECT line is not `CONNECT host:port HTTP/1.x`.")
    if len(rest) > MAX_HEADERS or not all(_HEADER_LINE.fullmatch(line) for line in rest):
        raise ConnectError(400, f"A CONNECT request has at most {MAX_HEADERS} header lines of the form `name: value`.")
    port = int(match[2])
    if not 1 <= port <= 65_535:  # noqa: PLR2004 - TCP's ports
        raise ConnectError(400, "The port of a CONNECT request is from 1 to 65535.")
    return Endpoint(match[1].decode("ascii").lower(), port)


def parse_endpoints(text: str) -> frozenset[Endpoint]:
    """Read `host:port,host:port`; raises `ValueError` whose text says what was expected."""
    found = set()
    for part in (piece.strip() for piece in text.split(",")):
        host, _, port = part.rpartition(":")
        if not re.fullmatch(r"[A-Za-z0-9.-]{1,253}", host) or not port.isascii() or not port.isdigit():
            raise ValueError("a comma-separated list of host:port is needed")
        if not 1 <= int(port) <= 65_535:  # noqa: PLR2004 - TCP's ports
            raise ValueError("a port is from 1 to 65535")
        found.add(Endpoint(host.lower(), int(port)))
    return frozenset(found)


def answer(status: int) -> bytes:
    """Return the response head for `status`; a refusal has no body and ends the connection."""
    line = f"HTTP/1.1 {status} {REASONS[status]}\r\n"
    rest = "\r\n" if status == 200 else "Content-Length: 0\r\nConnection: close\r\n\r\n"  # noqa: PLR2004 - RFC 9110
    return (line + rest).encode("ascii")
