"""The request header: read, or refused with one of the protocol's codes."""

from __future__ import annotations

from dataplane.protocol import cbor
from dataplane.protocol.errors import ProblemError
from dataplane.protocol.header import RequestHeader, check_http, check_time
from tests.fuzz.targets import request_envelope

GOOD = request_envelope.header().encode()
SEEDS = [
    GOOD,
    request_envelope.header(pad=4096, assurance=2, wrapped=b"w" * 300).encode(),
    cbor.encode({"v": 2, "future": [1, {"a": None}]}),
    b"\xbb" + b"\xff" * 8,
]
CODES = {"malformed-envelope", "unsupported-version", "header-mismatch", "expired"}


def target(data: bytes) -> None:
    """Read; an accepted header has one form, and survives the checks against clock and HTTP."""
    try:
        header = RequestHeader.decode(data)
    except ProblemError as problem:
        assert problem.code in CODES, "a code of the protocol's table"
        problem.to_json()
        return
    assert header.encode() == data, "one form"
    for now_ms in (0, header.iat, 2**63):
        try:
            check_time(header, now_ms)
            check_http(header, tenant=header.tenant, model=header.model, kms=header.kms)
        except ProblemError as problem:
            assert problem.code in CODES, "a code of the protocol's table"
