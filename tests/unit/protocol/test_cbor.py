"""CBOR on the wire: one form only, and limits before anything is built."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol.cbor import CborError, decode, decode_map, encode

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.binary(max_size=40)
    | st.text(max_size=20)
    | st.floats(allow_nan=False)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_written_is_read_back(value: Any) -> None:
    data = encode(value)
    assert decode(data, max_bytes=10_000, max_depth=20) == value, "a round trip changes nothing"
    assert encode(decode(data, max_bytes=10_000, max_depth=20)) == data, "and there is one form"


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_in_one_way(data: bytes) -> None:
    try:
        value = decode(data, max_bytes=200)
    except CborError:
        return
    assert encode(value) == data, "what is accepted is the deterministic form of what it says"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "ends at byte 0"),
        (b"\x01\x02", "1 bytes follow"),
        (b"\x18\x01", "deterministic"),
        (b"\x19\x00\xff", "deterministic"),
        (b"\xa2\x61b\x01\x61a\x02", "deterministic"),
        (b"\xfb" + bytes(8), "deterministic"),
        (b"\xa2\x61a\x01\x61a\x02", "not valid"),
        (b"\x61\xff", "not valid"),
        (b"\x9f\x01\xff", "indefinite"),
        (b"\xbf\xff", "indefinite"),
        (b"\x5f\x41a\xff", "indefinite"),
        (b"\x1c", "reserved"),
        (b"\xc2\x41\x01", "tag"),
        (b"\xc1\x1a\x00\x00\x00\x00", "tag"),
        (b"\xd8\x23\x61(", "tag"),
        (b"\xd8\x1c\x81\xd8\x1d\x00", "tag"),
        (b"\xf7", "simple value"),
        (b"\xf8\xff", "simple value"),
        (b"\xff", "simple value"),
        (b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff", "longer than the data"),
        (b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff", "longer than the data"),
        (b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff", "longer than the data"),
        (b"\x1b\x00", "ends at byte 1"),
        (b"\x82\x01", "longer than the data"),
        (b"\x82\x41a", "ends at byte 3"),
    ],
)
def test_a_bad_item_is_refused_with_its_reason(data: bytes, why: str) -> None:
    with pytest.raises(CborError, match=why):
        decode(data, max_bytes=1000)


def test_depth_is_limited_before_anything_is_built() -> None:
    assert decode(b"\x81" * 8 + b"\x01", max_bytes=100) == [[[[[[[[1]]]]]]]], "eight levels are read"
    for deep in (b"\x81" * 9 + b"\x01", b"\x81" * 1_000_000 + b"\x01", b"\xa1\x61a" * 9 + b"\x01"):
        with pytest.raises(CborError, match="nested deeper"):
            decode(deep, max_bytes=2_000_000)


def test_size_is_limited_before_anything_is_read() -> None:
    with pytest.raises(CborError, match="at most 100"):
        decode(encode(bytes(100)), max_bytes=100)


def test_other_encodings_are_read_where_the_caller_allows_them() -> None:
    assert decode(b"\x18\x01", max_bytes=10, deterministic=False) == 1, "a long form of 1"
    with pytest.raises(CborError, match="tag"):
        decode(b"\xc2\x41\x01", max_bytes=10, deterministic=False)


@pytest.mark.parametrize("value", [1, [], "text", {1: 2}, {b"a": 1}, {"a": 1, 2: 3}])
def test_a_map_with_text_keys_is_the_only_map(value: object) -> None:
    with pytest.raises(CborError, match="map with text keys"):
        decode_map(encode(value), max_bytes=100)


def test_unhashable_keys_are_refused_and_do_not_crash() -> None:
    for data in (b"\xa1\x80\x01", b"\xa1\xa0\x01"):
        with pytest.raises(CborError):
            decode_map(data, max_bytes=100)


def test_a_value_that_cbor_does_not_know_is_named_by_type_only() -> None:
    with pytest.raises(CborError, match="type dict"):
        encode({"secret": object()})


def test_the_peer_library_agrees_about_the_deterministic_form() -> None:
    value = {"pad": 0, "v": 1, "ctx": {"b": 1, "a": 2}, "assurance": 2}
    assert decode(cbor2.dumps(value, canonical=True), max_bytes=100) == value, "RFC 8949, section 4.2.1"
    with pytest.raises(CborError, match="deterministic"):
        decode(cbor2.dumps(value), max_bytes=100)
