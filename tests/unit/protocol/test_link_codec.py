"""The host link's codec: any cutting, bounded memory, one error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol.errors import LinkError
from dataplane.protocol.link import MAX_PAYLOAD_BYTES, LinkDecoder, LinkMessage, LinkType, encode, encode_map, split


def drain(decoder: LinkDecoder, data: bytes = b"") -> list[LinkMessage]:
    """Add bytes and take every message that is whole."""
    decoder.add(data)
    return list(iter(decoder.next, None))


MESSAGES = st.lists(st.builds(LinkMessage, st.sampled_from(LinkType), st.binary(max_size=200)), max_size=12)


@given(messages=MESSAGES, steps=st.lists(st.integers(1, 90), min_size=1))
def test_messages_survive_any_cutting(messages: list[LinkMessage], steps: list[int]) -> None:
    stream = b"".join(encode(message.type, message.payload) for message in messages)
    decoder, out, position, turn = LinkDecoder(), [], 0, 0
    while position < len(stream):
        step = steps[turn % len(steps)]
        out += drain(decoder, stream[position : position + step])
        position, turn = position + step, turn + 1
    assert out == messages, "the same messages in order"
    assert decoder.empty, "the stream may end here"


@given(st.binary(max_size=400))
def test_any_bytes_are_messages_or_a_link_error(data: bytes) -> None:
    decoder = LinkDecoder()
    try:
        messages = drain(decoder, data)
    except LinkError:
        for again in (lambda: decoder.add(encode(LinkType.END)), decoder.next):
            with pytest.raises(LinkError):
                again()
        return
    rest = data[sum(5 + len(message.payload) for message in messages) :]
    assert decoder.empty == (rest == b""), "what is left is an unfinished message"


@pytest.mark.parametrize("start", [b"\0" + bytes(4), b"\x0b" + bytes(4), b"\xff" * 5, b"\2\0\1\0\1", b"HTTP/1.1 400"])
def test_an_unknown_type_or_length_is_refused_before_its_payload(start: bytes) -> None:
    with pytest.raises(LinkError, match="only types 1 to 10"):
        drain(LinkDecoder(), start)


def test_the_last_good_message_before_garbage_is_not_lost() -> None:
    decoder = LinkDecoder()
    decoder.add(encode(LinkType.END) + b"\xff" * 5)
    assert decoder.next() == LinkMessage(LinkType.END), "END came before it"
    with pytest.raises(LinkError):
        decoder.next()


def test_a_decoder_holds_one_message_at_most() -> None:
    decoder = LinkDecoder()
    whole = encode(LinkType.DATA, bytes(MAX_PAYLOAD_BYTES))
    for start in range(0, len(whole) - 1, 1000):
        assert drain(decoder, whole[start : min(start + 1000, len(whole) - 1)]) == [], "not whole yet"
    assert len(decoder._buffer) == 5 + MAX_PAYLOAD_BYTES - 1, "all but its last byte"
    (message,) = drain(decoder, whole[-1:])
    assert message.payload == bytes(MAX_PAYLOAD_BYTES), "the largest message passes"
    assert decoder.empty, "and nothing is kept"
    with pytest.raises(LinkError, match="at most 65536"):
        encode(LinkType.DATA, bytes(MAX_PAYLOAD_BYTES + 1))


@given(size=st.integers(0, 3 * MAX_PAYLOAD_BYTES))
def test_long_data_is_split_and_joined(size: int) -> None:
    data = bytes(size)
    messages = drain(LinkDecoder(), b"".join(split(LinkType.DATA, data)))
    assert b"".join(message.payload for message in messages) == data, "the same bytes"
    assert len(messages) == -(-size // MAX_PAYLOAD_BYTES), "in as few messages as possible"


def test_only_streams_can_be_split() -> None:
    with pytest.raises(LinkError, match="can't be split"):
        list(split(LinkType.REPLY, b"x"))


def test_maps_survive_and_other_payloads_are_no_maps() -> None:
    fields = {"op": "infer", "deadline_ms": 5, "nonce": b"n", "ok": True, "nothing": None, "load": 0.5}
    (message,) = drain(LinkDecoder(), encode_map(LinkType.OPEN, fields))
    assert message.map() == fields, "a map is read as it was written"
    for payload in (b"", b"\x01", b"\x80", b"\xa1\x01\x02", b"garbage", b"\xa0\0"):
        with pytest.raises(LinkError, match="OPEN message on the host link is no CBOR map"):
            LinkMessage(LinkType.OPEN, payload).map()


def test_a_payload_does_not_show_in_repr() -> None:
    (message,) = drain(LinkDecoder(), encode_map(LinkType.OPEN, {"secret_access_key": "private"}))
    assert "private" not in repr(message), "credentials travel in OPEN"
