"""Envelopes in pieces of any size, with bounded memory, both ways."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol.envelope import MAX_BODY_BYTES, RequestOpener, RequestSealer
from dataplane.protocol.errors import MrgcError, OpenError, ProblemError
from dataplane.protocol.frames import MAX_FRAME_DATA, FrameError
from dataplane.protocol.header import RequestHeader
from dataplane.protocol.suite import MAX_HEADER_BYTES, MAX_MESSAGE_BYTES

CEK = bytes(range(32))
MakeHeader = Callable[..., RequestHeader]
PADS = st.sampled_from([0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096])


def chunks(data: st.DataObject, body: bytes) -> list[bytes]:
    """Cut `body` wherever hypothesis likes."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=12)))
    return [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]


def unlocked_opener(body: bytes) -> RequestOpener:
    opener = RequestOpener()
    opener.feed(body)
    opener.unlock(CEK)
    return opener


@given(data=st.data(), message=st.binary(max_size=3000), pad=PADS, frame_size=st.integers(1, 4000))
def test_any_message_survives_any_cutting_in_both_directions(
    make_header: MakeHeader, data: st.DataObject, message: bytes, pad: int, frame_size: int
) -> None:
    sealer = RequestSealer(make_header(pad=pad), CEK)
    body = sealer.prefix() + b"".join(sealer.seal_message(message, max(frame_size, len(message) // 50)))
    opener = RequestOpener()
    unlock_at = data.draw(st.integers(0, 13))
    for number, chunk in enumerate(chunks(data, body)):
        opener.feed(chunk)
        if number >= unlock_at and opener.header is not None and not opener.unlocked:
            opener.unlock(CEK)
    if not opener.unlocked:
        assert opener.message() is None, "locked, nothing is readable"
        opener.unlock(CEK)
    opener.finish()
    assert opener.message() == message, "the message comes out as it went in"
    assert opener.th == sealer.th, "both sides hash the same frames"
    response = opener.response_sealer(data.draw(st.binary(min_size=32, max_size=32)))
    parts = data.draw(st.lists(st.binary(max_size=300), min_size=1, max_size=8))
    answer = response.prefix() + b"".join(
        response.seal(part, final=number == len(parts) - 1) for number, part in enumerate(parts)
    )
    tenant = sealer.response_opener()
    opened = [frame for chunk in chunks(data, answer) for frame in tenant.feed(chunk)]
    tenant.finish()
    assert [frame.data for frame in opened] == parts, "every part is one frame"
    assert [frame.final for frame in opened] == [False] * (len(parts) - 1) + [True], "only the last is final"


def test_the_first_frame_opens_before_the_second_is_sealed(make_header: MakeHeader) -> None:
    sealer = RequestSealer(make_header(), CEK)
    opener = RequestOpener()
    opener.feed(sealer.prefix())
    assert opener.header == make_header(), "the header is there before any frame"
    opener.unlock(CEK)
    opener.feed(sealer.seal(b"ab", final=False))
    assert opener.message() is None, "a message without its final frame is none"
    opener.feed(sealer.seal(b"c", final=True))
    assert opener.message() == b"abc", "the final frame completes it"
    response, tenant = opener.response_sealer(b"r" * 32), sealer.response_opener()
    assert tenant.feed(response.prefix()) == [], "no frame yet"
    for token in (b"head", b"one", b"two"):
        (frame,) = tenant.feed(response.seal(token))
        assert (frame.final, frame.data) == (False, token), "every frame opens as it comes"
    (receipt,) = tenant.feed(response.seal(b"receipt", final=True))
    assert receipt.final, "the receipt is final"
    assert tenant.done, "and ends the response"
    tenant.finish()


def test_a_long_part_is_split_over_frames_and_only_the_last_is_final(make_header: MakeHeader) -> None:
    sealer = RequestSealer(make_header(pad=4096), CEK)
    opener = unlocked_opener(sealer.prefix() + sealer.seal(b"q", final=True))
    response = opener.response_sealer(b"r" * 32)
    long = b"z" * (2 * MAX_FRAME_DATA + 1)
    frames = sealer.response_opener().feed(response.prefix() + response.seal(long, final=True))
    assert [len(frame.data) for frame in frames] == [MAX_FRAME_DATA, MAX_FRAME_DATA, 1], "full frames first"
    assert [frame.final for frame in frames] == [False, False, True], "one final frame"


@pytest.mark.parametrize("pad", [0, 256, 4096])
def test_the_largest_message_passes_and_one_byte_more_does_not(make_header: MakeHeader, pad: int) -> None:
    largest = b"x" * MAX_MESSAGE_BYTES
    sealer = RequestSealer(make_header(pad=pad), CEK)
    body = sealer.prefix() + b"".join(sealer.seal_message(largest))
    assert unlocked_opener(body).message() == largest, "1 MiB is allowed"
    with pytest.raises(ProblemError) as caught:
        list(RequestSealer(make_header(), CEK).seal_message(largest + b"x"))
    assert caught.value.code == "too-large", "a tenant learns it before sending"


def test_a_message_over_1_mib_is_refused_by_the_opener_too(
    make_header: MakeHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealer = RequestSealer(make_header(), CEK)
    monkeypatch.setattr(sealer, "_sealed", -(2**40))  # a sealer that does not count
    opener = RequestOpener()
    opener.feed(sealer.prefix())
    opener.unlock(CEK)
    for _ in range(MAX_MESSAGE_BYTES // 65_000):
        opener.feed(sealer.seal(b"x" * 65_000, final=False))
    with pytest.raises(ProblemError) as caught:
        opener.feed(sealer.seal(b"x" * 65_000, final=True))
    assert caught.value.code == "too-large", "the limit counts what the frames hold"
    assert opener.held_bytes == 0, "a refused request is let go of"


def test_a_locked_opener_holds_at_most_the_body_limit(make_header: MakeHeader, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_BODY_BYTES == 4 + 5 + 8192 + 4 * 1_048_576 + 65_557, "the arithmetic of the limit"
    sealer = RequestSealer(make_header(), CEK)
    monkeypatch.setattr(sealer, "_sealed", -(2**40))
    opener = RequestOpener()
    opener.feed(sealer.prefix())
    most, code = 0, ""
    for _ in range(100):
        try:
            opener.feed(sealer.seal(b"x" * 65_000, final=False))
        except ProblemError as error:
            code = error.code
            break
        most = max(most, opener.held_bytes)
    assert code == "too-large", "an endless body is refused"
    assert MAX_BODY_BYTES - 66_000 < most <= MAX_BODY_BYTES, "and no more than the limit was ever held"


def test_an_unlocked_opener_holds_the_message_and_no_frames(make_header: MakeHeader) -> None:
    sealer = RequestSealer(make_header(pad=4096), CEK)
    opener = RequestOpener()
    opener.feed(sealer.prefix())
    opener.unlock(CEK)
    for number in range(1, 200):
        opener.feed(sealer.seal(b"ten bytes!", final=False))
        assert opener.held_bytes == 10 * number, "padding and ciphertext are gone"


def test_a_flood_of_empty_frames_ends_at_the_body_limit(make_header: MakeHeader) -> None:
    sealer = RequestSealer(make_header(pad=4096), CEK)
    opener = RequestOpener()
    opener.feed(sealer.prefix())
    opener.unlock(CEK)

    def flood() -> None:
        for _ in range(2000):
            opener.feed(sealer.seal(b"", final=False))

    with pytest.raises(ProblemError) as caught:
        flood()
    assert caught.value.code == "too-large", "a body may not grow without carrying anything"


def test_a_header_that_never_comes_is_bounded_by_its_announced_length() -> None:
    opener = RequestOpener()
    opener.feed(b"MRGC\1" + MAX_HEADER_BYTES.to_bytes(4))
    opener.feed(bytes(MAX_HEADER_BYTES - 1))
    assert opener.held_bytes == 9 + MAX_HEADER_BYTES - 1, "one header at most waits"
    with pytest.raises(ProblemError, match="at most 8192"):
        RequestOpener().feed(b"MRGC\1" + (10_000_000).to_bytes(4))


@pytest.mark.parametrize("start", [b"X", b"MX", b"GET / HTTP/1.1", b"MRGX"])
def test_a_wrong_start_is_refused_at_its_first_wrong_byte(start: bytes) -> None:
    with pytest.raises(ProblemError) as caught:
        RequestOpener().feed(start)
    assert caught.value.code == "malformed-envelope", "it is no envelope"


def test_a_response_opener_holds_one_unfinished_frame(make_header: MakeHeader) -> None:
    sealer = RequestSealer(make_header(), CEK)
    response = unlocked_opener(sealer.prefix() + sealer.seal(b"q", final=True)).response_sealer(b"r" * 32)
    tenant = sealer.response_opener()
    stream = response.prefix() + b"".join(response.seal(b"y" * MAX_FRAME_DATA) for _ in range(4))
    for start in range(0, len(stream), 1000):
        tenant.feed(stream[start : start + 1000])
        assert tenant.held_bytes <= 65_557, "never more than one frame waits"
    announced = tenant.held_bytes
    with pytest.raises(OpenError, match="at most 65552"):
        tenant.feed(b"\0" + (65_553).to_bytes(4))
    assert announced == 0, "the frames before were whole"


def test_sealing_after_the_final_frame_is_a_mistake_that_says_so(make_header: MakeHeader) -> None:
    sealer = RequestSealer(make_header(), CEK)
    body = sealer.prefix() + sealer.seal(b"q", final=True)
    with pytest.raises(FrameError, match="follows the final frame"):
        sealer.seal(b"more", final=False)
    response = unlocked_opener(body).response_sealer(b"r" * 32)
    response.seal(b"end", final=True)
    with pytest.raises(FrameError, match="follows the final frame"):
        response.seal(b"more")


def test_nothing_can_be_asked_too_early(make_header: MakeHeader) -> None:
    sealer = RequestSealer(make_header(), CEK)
    with pytest.raises(FrameError, match="no final frame yet"):
        sealer.response_opener()
    opener = RequestOpener()
    with pytest.raises(FrameError, match="after the header"):
        opener.unlock(CEK)
    opener.feed(sealer.prefix())
    with pytest.raises(FrameError, match="not complete"):
        opener.response_sealer(b"r" * 32)
    with pytest.raises(MrgcError, match="16 bytes"):
        opener.unlock(bytes(16))
    opener.unlock(CEK)
    with pytest.raises(FrameError, match="once"):
        opener.unlock(CEK)
