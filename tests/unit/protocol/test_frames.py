"""Frames: limits, padding arithmetic and the counter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol.frames import (
    MAX_CIPHERTEXT_BYTES,
    MAX_FRAME_DATA,
    MAX_FRAMES,
    FrameBuffer,
    FrameError,
    FrameOpener,
    FrameSealer,
    check_pad,
    padded_length,
)
from dataplane.protocol.keys import DirectionKeys, KeySchedule, KeyScheduleError
from dataplane.protocol.suite import HOP_SUITE, TENANT_SUITE

KEYS = DirectionKeys(key=bytes(range(32)), nonce=bytes(range(12)))
HASH = bytes(32)
PADS = [0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]


def head(flag: int, length: int) -> bytes:
    return bytes([flag]) + length.to_bytes(4)


def test_exactly_the_ten_legal_pads_are_legal() -> None:
    assert [pad for pad in range(-16, 9000) if check_pad(pad)] == PADS, "0 and the powers of two from 16 to 4096"


@given(size=st.integers(0, MAX_FRAME_DATA), pad=st.sampled_from(PADS))
def test_padding_is_the_least_that_reaches_a_multiple(size: int, pad: int) -> None:
    length = padded_length(size, pad)
    assert length >= size + 4, "length and data fit"
    assert length <= MAX_CIPHERTEXT_BYTES - 16, "and a full frame is legal under every pad"
    if pad:
        assert length % pad == 0, "a multiple of pad"
        assert length - pad < size + 4, "and no larger than needed"
    else:
        assert length == size + 4, "no padding at all"


@pytest.mark.parametrize("pad", PADS)
def test_a_full_frame_opens_and_one_byte_more_is_refused(pad: int) -> None:
    sealer, opener = FrameSealer(KEYS, HASH, pad), FrameOpener(KEYS, HASH, pad)
    frame = sealer.seal(b"x" * MAX_FRAME_DATA, final=True)
    assert len(frame) == 5 + MAX_CIPHERTEXT_BYTES, "64 KiB of plaintext, a tag and a head"
    assert opener.open(1, frame[5:]) == b"x" * MAX_FRAME_DATA, "it opens"
    with pytest.raises(FrameError, match="at most 65532"):
        FrameSealer(KEYS, HASH, pad).seal(b"x" * (MAX_FRAME_DATA + 1), final=True)


def test_the_last_number_is_used_and_none_after_it() -> None:
    sealer, opener = FrameSealer(KEYS, HASH, 0), FrameOpener(KEYS, HASH, 0)
    sealer._index = opener._index = MAX_FRAMES - 1
    frame = sealer.seal(b"last", final=False)
    assert opener.open(0, frame[5:]) == b"last", "the last number still works"
    with pytest.raises(FrameError, match="start a new request"):
        sealer.seal(b"one more", final=True)
    with pytest.raises(FrameError, match="start a new request"):
        opener.open(1, frame[5:])


def test_equal_data_never_gives_equal_frames() -> None:
    sealer = FrameSealer(KEYS, HASH, 0)
    frames = {sealer.seal(b"same", final=False) for _ in range(500)}
    assert len(frames) == 500, "every frame has its own nonce"


def test_a_frame_that_failed_does_not_give_its_number_back() -> None:
    sealer, opener = FrameSealer(KEYS, HASH, 0), FrameOpener(KEYS, HASH, 0)
    frame = sealer.seal(b"data", final=False)
    with pytest.raises(FrameError, match="frame 0 does not authenticate"):
        opener.open(0, bytes(len(frame) - 5))
    with pytest.raises(FrameError, match="frame 1 does not authenticate"):
        opener.open(0, frame[5:])


@pytest.mark.parametrize(
    ("pad", "start", "why"),
    [
        (0, head(2, 100), "flag 2"),
        (0, head(255, 100), "flag 255"),
        (0, head(0, MAX_CIPHERTEXT_BYTES + 1), "at most 65552"),
        (0, head(0, 2**32 - 1), "at most 65552"),
        (0, head(1, 0), "no frame with pad 0"),
        (0, head(1, 19), "no frame with pad 0"),
        (16, head(1, 20), "no frame with pad 16"),
        (256, head(0, 256), "no frame with pad 256"),
    ],
)
def test_a_head_that_cannot_be_right_is_refused_before_its_bytes_come(pad: int, start: bytes, why: str) -> None:
    with pytest.raises(FrameError, match=why):
        FrameBuffer(pad).feed(start)


@given(data=st.data(), sizes=st.lists(st.integers(0, 200), min_size=1, max_size=10))
def test_a_buffer_gives_out_the_frames_that_went_in(data: st.DataObject, sizes: list[int]) -> None:
    sealer, opener, buffer = FrameSealer(KEYS, HASH, 0), FrameOpener(KEYS, HASH, 0), FrameBuffer(0)
    parts = [bytes(size) for size in sizes]
    stream = b"".join(sealer.seal(part, final=i == len(parts) - 1) for i, part in enumerate(parts))
    out, position = [], 0
    while position < len(stream):
        step = data.draw(st.integers(1, 300))
        buffer.feed(stream[position : position + step])
        position += step
        assert buffer.complete == (position >= len(stream)), "complete with the last byte and not before"
        if data.draw(st.booleans()):
            out += buffer.take()
    out += buffer.take()
    assert [opener.open(flag, ciphertext) for flag, ciphertext in out] == parts, "the same frames in order"
    assert len(buffer) == 0, "and nothing is kept"


def test_no_key_shows_in_any_repr() -> None:
    assert "00010203" not in repr(KEYS), "no bytes of the key"
    assert repr(KEYS) == "DirectionKeys()", "nothing at all of it"


def test_every_direction_of_every_suite_has_keys_of_its_own() -> None:
    keys = []
    for suite in (TENANT_SUITE, HOP_SUITE):
        schedule = KeySchedule(suite, b"prefix", bytes(32))
        keys += [schedule.request(), schedule.response(bytes(32), bytes(32)), schedule.response(b"\1" * 32, bytes(32))]
    assert len({key.key for key in keys}) == len({key.nonce for key in keys}) == 6, "labels and salts separate them"


def test_secrets_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(KeyScheduleError, match="data key of 31 bytes"):
        KeySchedule(TENANT_SUITE, b"prefix", bytes(31))
    with pytest.raises(KeyScheduleError, match="salt of 16 bytes"):
        KeySchedule(TENANT_SUITE, b"prefix", bytes(32)).response(bytes(16), bytes(32))
