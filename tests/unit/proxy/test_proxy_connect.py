"""The head of CONNECT: what is let through, what is refused and with which status."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.proxy.connect import (
    MAX_HEAD_BYTES,
    ConnectError,
    ConnectHead,
    Endpoint,
    answer,
    parse_connect,
    parse_endpoints,
)

KMS = Endpoint("kms.us-east-1.amazonaws.com", 443)
ALLOWED = frozenset({KMS})
OF_PYTHON_311 = b"CONNECT kms.us-east-1.amazonaws.com:443 HTTP/1.0\r\n\r\n"


def refusal(data: bytes) -> ConnectError:
    with pytest.raises(ConnectError) as caught:
        ConnectHead(ALLOWED).feed(data)
    return caught.value


def test_what_http_client_sends_is_let_through() -> None:
    assert ConnectHead(ALLOWED).feed(OF_PYTHON_311) == (KMS, b""), "these are the bytes that boto3 wrote"


def test_headers_and_upper_case_names_are_let_through() -> None:
    head = b"CONNECT KMS.us-east-1.amazonaws.com:443 HTTP/1.1\r\nHost: kms.us-east-1.amazonaws.com:443\r\nA: b\r\n\r\n"
    assert ConnectHead(ALLOWED).feed(head) == (KMS, b""), "DNS names know no case"


def test_bytes_after_the_head_are_handed_back() -> None:
    assert ConnectHead(ALLOWED).feed(OF_PYTHON_311 + b"\x16\x03\x01") == (KMS, b"\x16\x03\x01"), (
        "TLS may follow at once"
    )


@given(cuts=st.lists(st.integers(0, len(OF_PYTHON_311)), max_size=6))
def test_a_head_is_read_however_it_is_cut(cuts: list[int]) -> None:
    head, found = ConnectHead(ALLOWED), None
    places = [0, *sorted(cuts), len(OF_PYTHON_311)]
    for start, end in itertools.pairwise(places):
        found = head.feed(OF_PYTHON_311[start:end]) if found is None else found
    assert found == (KMS, b""), "cutting must not change what is read"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"CONNECT evil.example.com:443 HTTP/1.1\r\n\r\n", 403),
        (b"CONNECT kms.us-east-1.amazonaws.com:80 HTTP/1.1\r\n\r\n", 403),
        (b"CONNECT kms.us-east-1.amazonaws.com.evil.com:443 HTTP/1.1\r\n\r\n", 403),
        (b"GET http://169.254.169.254/ HTTP/1.1\r\n\r\n", 405),
        (b"connect kms.us-east-1.amazonaws.com:443 HTTP/1.1\r\n\r\n", 405),
        (b"CONNECT kms.us-east-1.amazonaws.com HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT kms.us-east-1.amazonaws.com:0 HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT kms.us-east-1.amazonaws.com:65536 HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT kms.us-east-1.amazonaws.com:443  HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT kms.us-east-1.amazonaws.com:443 HTTP/2\r\n\r\n", 400),
        (b"CONNECT user@kms.us-east-1.amazonaws.com:443 HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT kms.us-east-1.amazonaws.com:443 HTTP/1.1\r\nno header\r\n\r\n", 400),
        (b"CONNECT kms.us-east-1.amazonaws.com:443 HTTP/1.1\nA: b\r\n\r\n", 400),
        (b"CONNECT kms.us-east-1.amazonaws.com:443 HTTP/1.1\r\n" + b"A: b\r\n" * 17 + b"\r\n", 400),
        (b"A" * MAX_HEAD_BYTES, 431),
    ],
)
def test_anything_else_is_refused(data: bytes, status: int) -> None:
    assert refusal(data).status == status, f"{data[:60]!r} must be refused so"


def test_a_refusal_does_not_repeat_what_was_asked_for() -> None:
    assert "evil" not in str(refusal(b"CONNECT evil.example.com:443 HTTP/1.1\r\n\r\n")), "it ends in the host's log"


@given(data=st.binary(max_size=1200))
def test_no_bytes_do_worse_than_a_refusal(data: bytes) -> None:
    try:
        found = ConnectHead(ALLOWED).feed(data)
    except ConnectError:
        return
    assert found is None, "random bytes can't name the one allowed endpoint"
    assert len(data) < MAX_HEAD_BYTES, "a head that long must have been refused"


def test_a_head_never_asks_for_more_than_its_limit() -> None:
    head = ConnectHead(ALLOWED)
    head.feed(b"C" * 1000)
    assert head.missing == 24, "1,024 bytes in all"


def test_a_parsed_endpoint_prints_as_it_is_written() -> None:
    assert str(parse_connect(OF_PYTHON_311.strip())) == "kms.us-east-1.amazonaws.com:443", "logs and settings agree"


def test_endpoints_are_a_comma_separated_list() -> None:
    found = parse_endpoints("kms.us-east-1.amazonaws.com:443, 127.0.0.1:4566")
    assert found == {KMS, Endpoint("127.0.0.1", 4566)}, "spaces do not count"


@pytest.mark.parametrize("text", ["", "kms", "kms:", ":443", "kms:443,", "kms:0", "kms:70000", "a b:443", "kms:\uff14"])
def test_endpoints_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"host:port|1 to 65535"):
        parse_endpoints(text)


def test_answers_are_http() -> None:
    assert answer(200) == b"HTTP/1.1 200 Connection Established\r\n\r\n", "bytes follow, so no length"
    assert answer(403).endswith(b"Connection: close\r\n\r\n"), "a refusal ends the connection"
