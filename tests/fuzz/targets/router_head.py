"""The router's reading of a request's head, as raw header lines, smuggling attempts among the seeds."""

from __future__ import annotations

import time

from dataplane.mesh.deadline import Deadline
from dataplane.protocol.errors import ProblemError
from dataplane.router.head import MAX_REQUEST_BYTES, read_credentials, read_fields, read_request_id, read_route

BASE = (
    b"Authorization: Bearer key\r\nX-Tenant-ID: tenant-a\r\nX-Model-Pool: tiny\r\n"
    b"X-KMS-Key-ARN: arn:aws:kms:us-east-1:1:key/k\r\nContent-Type: application/octet-stream\r\n"
)
FRAMINGS = (
    b"Content-Length: 9",
    b"Transfer-Encoding: chunked",
    b"Content-Length: 9\r\nTransfer-Encoding: chunked",
    b"Content-Length: 9\r\nContent-Length: 9",
    b"Content-Length: 9\r\nContent-Length: 10",
    b"Content-Length: 9, 9",
    b"Content-Length: +9",
    b"Content-Length: -1",
    b"Content-Length: 0x9",
    b"Content-Length: 9_0",
    b"Content-Length: \xd9\xa9",
    b"Content-Length:\t9",
    b"Content-Length: 9\x00",
    b"Content-Length : 9",
    b"content-length: 9\r\nCONTENT-LENGTH: 9",
    b"Content-Length: 99999999999999999999999999",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: identity, chunked",
    b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
    b"Transfer-Encoding:\n chunked",
    b"Transfer_Encoding: chunked",
    b"Expect: 100-continue\r\nContent-Length: 1",
    b"Expect: 200-ok\r\nContent-Length: 1",
    b"Upgrade: h2c\r\nContent-Length: 1",
    b"Content-Encoding: gzip\r\nContent-Length: 1",
)
MORE = (
    b"X-Request-ID: r\r\nX-Deadline-Ms: 1000\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    b"X-Deadline-Ms: 999999999999999999999999",
    b"X-MRGC-Affinity: 0123456789abcdef,fedcba9876543210",
    b"X-Request-ID: \xff\xfe",
)
SEEDS = [BASE + framing for framing in FRAMINGS] + [BASE + FRAMINGS[0] + b"\r\n" + more for more in MORE]


def target(data: bytes) -> None:
    """Read what the router reads; an accepted head says exactly once where its body ends."""
    pairs = [
        (name, value)
        for name, colon, value in (line.partition(b":") for line in data.split(b"\r\n"))
        if colon  # the HTTP parser before us refuses a line without one
    ]
    try:
        fields = read_fields(pairs)
        credentials = read_credentials(fields)
        read_request_id(fields)
        route = read_route(fields)
        deadline = Deadline.from_header(route.deadline, monotonic=time.monotonic)
    except ProblemError as problem:
        assert problem.status in {400, 401, 413, 504}, "a refusal is the tenant's fault"
        problem.to_json()
        return
    assert credentials.api_key, "nobody passes without a key"
    assert 0 < len(route.tenant) <= 128, "names are bounded"
    assert 0 <= deadline.remaining_s <= 3600, "deadlines too"
    length = route.framing.length
    assert length is None or 0 < length <= MAX_REQUEST_BYTES, "a length is a length"
    said = [name for name, _ in pairs if name.lower() in {b"content-length", b"transfer-encoding"}]
    assert len(said) == 1, "exactly one way of saying where the body ends"
