"""Work is proportional to what is allowed, not to what is sent: no input holds an event loop for 20 ms."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dataplane.protocol import cbor
from dataplane.protocol.cbor import CborError
from dataplane.protocol.envelope import RequestOpener, RequestSealer
from dataplane.protocol.errors import LinkError, OpenError, ProblemError
from dataplane.protocol.header import RequestHeader
from dataplane.protocol.hopmessage import HopHead, HopMessage, HopTail
from dataplane.protocol.link import LinkDecoder, LinkMessage, LinkType
from dataplane.protocol.message import MessageError, RequestMessage, ResponseHead
from dataplane.protocol.suite import MAX_MESSAGE_BYTES, MAX_REQUEST_FRAMES
from tests.support.cost import LOOP_STEP_S, least_cpu_s

MakeHeader = Callable[..., RequestHeader]
CEK = bytes(range(32))
MIB = 1024 * 1024
HOSTILE = {
    "an array of empty maps": b"\x9a" + (MIB - 5).to_bytes(4) + b"\xa0" * (MIB - 5),
    "an array of small arrays": b"\x99\xff\xff" + b"\x87\0\0\0\0\0\0\0" * 65_535,
    "a map of a hundred thousand pairs": b"\xba"
    + (100_000).to_bytes(4)
    + b"".join(b"\x65%05x\0" % number for number in range(100_000)),
    "one text of umlauts": b"\x7a" + (MIB - 6).to_bytes(4) + "ä".encode() * ((MIB - 6) // 2),
    "one long run of bytes": b"\x5a" + (MIB - 5).to_bytes(4) + bytes(MIB - 5),
    "lists within lists": b"\x81" * (MIB - 1) + b"\0",
    "floats": b"\x9a" + (116_000).to_bytes(4) + b"\xfb\x3f\xb9\x99\x99\x99\x99\x99\x9a" * 116_000,
}
MAXIMAL = {"path": "/v1/completions", "content_type": "application/json", "body": b"\xff" * (MAX_MESSAGE_BYTES - 80)}


def refused(read: Callable[[bytes], object], data: bytes) -> None:
    try:
        read(data)
    except (MessageError, ProblemError, OpenError, LinkError, CborError):
        return


@pytest.mark.parametrize("name", HOSTILE)
def test_no_message_of_a_mebibyte_holds_the_loop(name: str) -> None:
    data = HOSTILE[name]
    assert len(data) <= MAX_MESSAGE_BYTES, "a message that the frames may carry"
    for read in (RequestMessage.decode, HopMessage.decode, lambda given: cbor.decode(given, max_bytes=MIB)):
        took = least_cpu_s(lambda read=read: refused(read, data))  # type: ignore[misc]
        assert took < LOOP_STEP_S, f"{name} took {took * 1000:.1f} ms"


def test_the_largest_honest_message_is_read_well_within_a_step() -> None:
    data = cbor.encode(MAXIMAL)
    assert RequestMessage.decode(data).body == MAXIMAL["body"], "it is read"
    took = least_cpu_s(lambda: RequestMessage.decode(data))
    assert took < LOOP_STEP_S, f"reading it took {took * 1000:.1f} ms, the second encoding included"


@pytest.mark.parametrize("read", [RequestHeader.decode, ResponseHead.decode, HopHead.decode, HopTail.decode])
def test_no_map_of_64_kib_holds_the_loop(read: Callable[[bytes], object]) -> None:
    for data in (
        b"\x99\xff\xf0" + b"\xa0" * 0xFFF0,
        b"\xb9\x40\x00" + b"".join(b"\x62%c%c\0" % divmod(number, 128) for number in range(0x4000)),
    ):
        took = least_cpu_s(lambda data=data: refused(read, data))  # type: ignore[misc]
        assert took < LOOP_STEP_S / 4, f"it took {took * 1000:.1f} ms"


def test_no_map_on_the_host_link_holds_the_loop() -> None:
    data = b"\x99\xff\xf0" + b"\xa0" * 0xFFF0
    for kind in LinkType:
        took = least_cpu_s(lambda kind=kind: refused(lambda given: LinkMessage(kind, given).map(), data))  # type: ignore[misc]
        assert took < LOOP_STEP_S / 4, f"{kind.name} took {took * 1000:.1f} ms"


def test_more_items_than_allowed_are_refused_before_they_are_looked_at() -> None:
    with pytest.raises(CborError, match="more than 7 items"):
        cbor.decode(HOSTILE["an array of empty maps"], max_bytes=MIB, max_items=7)
    with pytest.raises(CborError, match="more than 7 items"):
        cbor.decode(b"\x82\x83\0\0\0\x83\0\0\0", max_bytes=100, max_items=7)
    assert cbor.decode(b"\x82\x82\0\0\x82\0\0", max_bytes=100, max_items=7) == [[0, 0], [0, 0]], "seven are read"


def test_a_request_message_may_hold_three_members_and_nothing_inside_them() -> None:
    for data in (
        cbor.encode({"path": "/v1/completions", "content_type": "a", "body": [b""]}),
        cbor.encode({"path": "/v1/completions", "content_type": "a", "body": b"", "more": 1}),
    ):
        with pytest.raises(MessageError) as caught:
            RequestMessage.decode(data)
        assert caught.value.status == 400, "it is refused inside the envelope"


# Frames.


def frames(make_header: MakeHeader, count: int, size: int, pad: int = 0) -> tuple[bytes, list[bytes]]:
    sealer = RequestSealer(make_header(pad=pad), CEK)
    return sealer.prefix(), [sealer.seal(b"x" * size, final=number == count - 1) for number in range(count)]


def test_as_many_frames_as_allowed_pass_and_one_more_is_refused(make_header: MakeHeader) -> None:
    prefix, sealed = frames(make_header, MAX_REQUEST_FRAMES, 1)
    opener = RequestOpener()
    opener.feed(prefix + b"".join(sealed))
    opener.unlock(CEK)
    assert opener.message() == b"x" * MAX_REQUEST_FRAMES, "the bound itself passes"
    prefix, sealed = frames(make_header, MAX_REQUEST_FRAMES + 1, 1)
    for key_first in (True, False):
        opener = RequestOpener()
        opener.feed(prefix)
        if key_first:
            opener.unlock(CEK)
        for frame in sealed[:MAX_REQUEST_FRAMES]:
            opener.feed(frame)
        with pytest.raises(ProblemError) as caught:
            opener.feed(sealed[-1])
        assert caught.value.code == "too-large", "whether the key is there or not"
        assert opener.held_bytes == 0, "and nothing is kept"


def test_the_largest_message_fits_in_frames_of_256_bytes(make_header: MakeHeader) -> None:
    assert MAX_REQUEST_FRAMES * 256 == MAX_MESSAGE_BYTES, "what the bound was made from"
    sealer = RequestSealer(make_header(), CEK)
    body = sealer.prefix() + b"".join(sealer.seal_message(b"x" * MAX_MESSAGE_BYTES, frame_size=256))
    opener = RequestOpener()
    opener.feed(body)
    opener.unlock(CEK)
    assert len(opener.message() or b"") == MAX_MESSAGE_BYTES, "a quarter of a kibibyte a frame is legal"


@pytest.mark.parametrize(("pad", "size"), [(0, 0), (0, 1), (0, 256), (16, 12), (4096, 0), (4096, 1000), (4096, 65_532)])
@pytest.mark.parametrize("key_first", [True, False])
def test_no_request_body_holds_the_loop(make_header: MakeHeader, pad: int, size: int, key_first: bool) -> None:  # noqa: FBT001
    count = min(MAX_REQUEST_FRAMES, MAX_MESSAGE_BYTES // max(size, 1), 4 * MIB // (25 + max(size, pad)))
    prefix, sealed = frames(make_header, count, size, pad)
    body = b"".join(sealed)

    def steps() -> list[Callable[[], object]]:
        """Everything that the enclave does between two turns of its loop."""
        opener = RequestOpener()
        opener.feed(prefix)
        if key_first:
            opener.unlock(CEK)
        made: list[Callable[[], object]] = [
            lambda start=start: opener.feed(body[start : start + 65_536])  # type: ignore[misc]
            for start in range(0, len(body), 65_536)
        ]
        if not key_first:
            slices = opener.unlocking(CEK)
            made += [lambda: next(slices, None)] * (len(body) // 65_536 + 2)
        return made

    worst = worst_step_s(steps)
    assert worst < LOOP_STEP_S, f"one step took {worst * 1000:.1f} ms"


def worst_step_s(steps: Callable[[], list[Callable[[], object]]]) -> float:
    """The dearest of a row of steps; each counts with the least of three runs of the whole row."""
    runs = [[least_cpu_s(step, tries=1) for step in steps()] for _ in range(3)]
    return max(float(min(costs)) for costs in zip(*runs, strict=True))


def test_unlocking_in_slices_gives_the_same_message(make_header: MakeHeader) -> None:
    prefix, sealed = frames(make_header, 300, 1000, 4096)
    opener = RequestOpener()
    opener.feed(prefix + b"".join(sealed))
    slices = 0
    for _ in opener.unlocking(CEK):
        slices += 1
        assert opener.unlocked, "the key is in place from the first slice on"
    assert slices > 10, "1.2 MB of frames are not opened at once"
    assert opener.message() == b"x" * 300_000, "every slice is there"


# The host link's messages.


def test_a_read_full_of_empty_messages_does_not_hold_the_loop() -> None:
    flood = b"\x02\0\0\0\0" * (65_536 // 5)

    def one_read() -> None:
        decoder = LinkDecoder()
        decoder.add(flood)
        assert decoder.next() == LinkMessage(LinkType.DATA), "one at a time"

    assert least_cpu_s(one_read) < LOOP_STEP_S / 4, "the others wait as bytes"
    decoder = LinkDecoder()
    decoder.add(flood)
    count = 0
    while decoder.next() is not None:
        count += 1
    assert count == 65_536 // 5, "none is lost"
    assert decoder.empty, "and the stream may end there"
