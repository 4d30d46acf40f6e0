"""Whatever is changed on the way, nothing of it is taken for the sender's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol.envelope import Opened, RequestOpener, RequestSealer, ResponseOpener
from dataplane.protocol.errors import MrgcError, OpenError, ProblemError
from dataplane.protocol.frames import FrameSealer
from dataplane.protocol.header import RequestHeader
from dataplane.protocol.keys import KeySchedule
from dataplane.protocol.suite import TENANT_SUITE

CEK = bytes(range(32))
SALT = b"s" * 32
MakeHeader = Callable[..., RequestHeader]


def seal_request(header: RequestHeader, message: bytes, frame_size: int = 16_384) -> tuple[RequestSealer, bytes]:
    sealer = RequestSealer(header, CEK)
    return sealer, sealer.prefix() + b"".join(sealer.seal_message(message, frame_size))


def open_request(body: bytes, cek: bytes = CEK) -> bytes:
    opener = RequestOpener()
    opener.feed(body)
    if opener.header is not None:
        opener.unlock(cek)
    opener.finish()
    message = opener.message()
    assert message is not None, "finish() promised a whole message"
    return message


def seal_response(header: RequestHeader, parts: list[bytes]) -> tuple[RequestSealer, bytes]:
    sealer, body = seal_request(header, b"question")
    opener = RequestOpener()
    opener.feed(body)
    opener.unlock(CEK)
    response = opener.response_sealer(SALT)
    frames = [response.seal(part, final=part is parts[-1]) for part in parts]
    return sealer, response.prefix() + b"".join(frames)


def open_response(opener: ResponseOpener, body: bytes) -> list[Opened]:
    opened = opener.feed(body)
    opener.finish()
    return opened


def flipped(body: bytes, bit: int) -> bytes:
    changed = bytearray(body)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


@pytest.mark.parametrize("pad", [0, 64])
def test_every_single_bit_of_a_request_counts(make_header: MakeHeader, pad: int) -> None:
    _, body = seal_request(make_header(pad=pad), b"a prompt in two frames", 16)
    assert open_request(body) == b"a prompt in two frames", "unchanged, it opens"
    for bit in range(len(body) * 8):
        with pytest.raises(ProblemError):
            open_request(flipped(body, bit))


@pytest.mark.parametrize("pad", [0, 64])
def test_every_single_bit_of_a_response_counts(make_header: MakeHeader, pad: int) -> None:
    sealer, body = seal_response(make_header(pad=pad), [b"head", b"token", b"receipt"])
    assert len(open_response(sealer.response_opener(), body)) == 3, "unchanged, it opens"
    for bit in range(len(body) * 8):
        with pytest.raises(OpenError):
            open_response(sealer.response_opener(), flipped(body, bit))


@given(data=st.data())
def test_a_change_anywhere_in_a_large_request_is_refused(make_header: MakeHeader, data: st.DataObject) -> None:
    message = data.draw(st.binary(min_size=1000, max_size=4000))
    _, body = seal_request(make_header(pad=data.draw(st.sampled_from([0, 16, 256]))), message, 500)
    bit = data.draw(st.integers(0, len(body) * 8 - 1))
    with pytest.raises(ProblemError):
        open_request(flipped(body, bit))


@given(cut=st.integers(0, 10_000))
def test_a_request_cut_anywhere_never_finishes(make_header: MakeHeader, cut: int) -> None:
    _, body = seal_request(make_header(), b"x" * 300, 100)
    with pytest.raises(ProblemError, match=r"before the final frame|within the envelope's header"):
        open_request(body[: cut % len(body)])


@given(cut=st.integers(0, 10_000))
def test_a_response_cut_anywhere_never_finishes(make_header: MakeHeader, cut: int) -> None:
    sealer, body = seal_response(make_header(), [b"head", b"a", b"b", b"receipt"])
    opener = sealer.response_opener()
    opener.feed(body[: cut % len(body)])
    assert not opener.done, "without its final frame a response is not done"
    with pytest.raises(OpenError, match="truncated"):
        opener.finish()


def test_a_response_cut_between_frames_gives_its_frames_and_then_refuses(make_header: MakeHeader) -> None:
    sealer, whole = seal_response(make_header(), [b"head", b"token", b"receipt"])
    opener = sealer.response_opener()
    last = 5 + 4 + len(b"receipt") + 16
    assert [frame.data for frame in opener.feed(whole[:-last])] == [b"head", b"token"], "what came is given"
    with pytest.raises(OpenError, match="truncated"):
        opener.finish()


def test_frames_swapped_repeated_or_dropped_are_refused(make_header: MakeHeader) -> None:
    sealer = RequestSealer(make_header(), CEK)
    first, second, last = sealer.seal_message(b"abcdef", 2)
    for order in ([second, first, last], [first, first, last], [first, last], [first, second, second], [last]):
        with pytest.raises(ProblemError) as caught:
            open_request(sealer.prefix() + b"".join(order))
        assert caught.value.code == "malformed-envelope", "the order is part of what is authenticated"


def test_anything_after_the_final_frame_is_refused_even_later(make_header: MakeHeader) -> None:
    sealer, body = seal_request(make_header(), b"question")
    opener = RequestOpener()
    opener.feed(body)
    opener.unlock(CEK)
    assert opener.message() == b"question", "the message is complete"
    with pytest.raises(ProblemError, match="follow the final frame"):
        opener.feed(b"\0")
    with pytest.raises(ProblemError, match="follow the final frame"):
        opener.message()
    sealer, response = seal_response(make_header(), [b"head", b"receipt"])
    tenant = sealer.response_opener()
    tenant.feed(response)
    with pytest.raises(OpenError, match="follow the final frame"):
        tenant.feed(b"\0")
    assert not tenant.done, "a response with a tail was not ours"


def test_another_data_key_opens_nothing(make_header: MakeHeader) -> None:
    _, body = seal_request(make_header(), b"question")
    with pytest.raises(ProblemError, match="does not authenticate"):
        open_request(body, cek=bytes(32))


def test_a_response_to_another_request_is_refused(make_header: MakeHeader) -> None:
    _, response = seal_response(make_header(), [b"head", b"receipt"])
    for other, message in ((make_header(), b"questiom"), (make_header(rid=b"r" * 16), b"question")):
        asked, _ = seal_request(other, message)
        with pytest.raises(OpenError, match="does not authenticate"):
            asked.response_opener().feed(response)


@pytest.mark.parametrize(
    ("plain", "why"),
    [
        (b"\0\0\0\3abc" + bytes(8) + b"\1", "padding that is not zero"),
        (b"\0\0\0\3abc\1" + bytes(8), "padding that is not zero"),
        (b"\0\0\0\3abc" + bytes(9 + 16), "does not fit"),
        (b"\0\0\0\x0dabc" + bytes(9), "does not fit"),
        (b"\xff\xff\xff\xffabc" + bytes(9), "does not fit"),
    ],
)
def test_an_authentic_frame_with_wrong_padding_is_refused(make_header: MakeHeader, plain: bytes, why: str) -> None:
    header = make_header(pad=16)
    prefix = RequestSealer(header, CEK).prefix()
    schedule = KeySchedule(TENANT_SUITE, prefix, CEK)
    raw = FrameSealer(schedule.request(), schedule.header_hash, 16)
    nonce, aad = raw._next(1)
    ciphertext = raw._cipher.encrypt(nonce, plain, aad)
    with pytest.raises(ProblemError, match=why) as caught:
        open_request(prefix + b"\1" + len(ciphertext).to_bytes(4) + ciphertext)
    assert caught.value.code == "malformed-envelope", "bad padding is a malformed envelope"


def test_no_error_text_quotes_what_was_sealed(make_header: MakeHeader) -> None:
    secret = b"a very private question"
    _, body = seal_request(make_header(), secret)
    for bit in range(0, len(body) * 8, 5):
        with pytest.raises(MrgcError) as caught:
            open_request(flipped(body, bit))
        assert "private" not in str(caught.value), "an error goes to the router in clear"
