"""The host link over real sockets: deadlines, back-pressure, cancellation, endings."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from dataplane.mesh.linkio import READY_RUN, LinkStream, LinkTimeoutError
from dataplane.protocol.errors import LinkError
from dataplane.protocol.link import LinkMessage, LinkType, encode

SOON_S = 0.05
PATIENCE_S = 5.0


@contextlib.asynccontextmanager
async def linked(buffer_bytes: int | None = None) -> AsyncIterator[tuple[LinkStream, asyncio.StreamWriter, LinkStream]]:
    """Two ends of a socket pair: a link, the other end's raw writer, and the other end's link."""
    ends = socket.socketpair()
    if buffer_bytes is not None:
        for end in ends:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    near, far = [await asyncio.open_connection(sock=end) for end in ends]
    links = LinkStream(*near), LinkStream(*far)
    try:
        yield links[0], far[1], links[1]
    finally:
        for link in links:
            link.abort()
            await link.close()


async def refuses_soon(link: LinkStream) -> None:
    """Expect `LinkError` from a link whose other end is gone, as soon as the kernel has said so."""

    async def send() -> None:
        for _ in range(20):
            await link.send(LinkType.DATA, bytes(1000), timeout_s=PATIENCE_S)
            await asyncio.sleep(0.005)

    with pytest.raises(LinkError):
        await send()


async def test_messages_and_maps_arrive_in_order() -> None:
    async with linked() as (near, _, far):
        await near.send(LinkType.OPEN, {"op": "health"}, timeout_s=PATIENCE_S)
        await near.send(LinkType.DATA, b"bytes", timeout_s=PATIENCE_S)
        await near.send(LinkType.END, timeout_s=PATIENCE_S)
        opening = await far.receive(PATIENCE_S)
        assert opening is not None, "the first message came"
        assert opening.map() == {"op": "health"}, "as a map"
        assert await far.receive(PATIENCE_S) == LinkMessage(LinkType.DATA, b"bytes"), "then bytes"
        assert await far.receive(PATIENCE_S) == LinkMessage(LinkType.END), "then the end"


async def test_long_data_goes_as_several_messages_and_empty_data_not_at_all() -> None:
    async with linked() as (near, _, far):
        long = bytes(range(256)) * 1000

        async def send() -> None:
            await near.send(LinkType.HOP_DATA, b"", timeout_s=PATIENCE_S)
            await near.send(LinkType.HOP_DATA, long, timeout_s=PATIENCE_S)
            await near.send(LinkType.HOP_END, timeout_s=PATIENCE_S)

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            received = []
            while (message := await far.receive(PATIENCE_S)) is not None and message.type is LinkType.HOP_DATA:
                received.append(message.payload)
        assert [len(part) for part in received] == [65_536, 65_536, 65_536, 59_392], "full messages, then the rest"
        assert b"".join(received) == long, "nothing is lost"


async def test_a_clean_end_is_none_every_time_it_is_asked_for() -> None:
    async with linked() as (near, _, far):
        await near.send(LinkType.END, timeout_s=PATIENCE_S)
        await near.close()
        assert await far.receive(PATIENCE_S) == LinkMessage(LinkType.END), "what was sent before closing arrives"
        assert await far.receive(PATIENCE_S) is None, "then the end"
        assert await far.receive(PATIENCE_S) is None, "and it stays the end"


async def test_an_end_within_a_message_is_an_error() -> None:
    async with linked() as (near, raw, _):
        raw.write(encode(LinkType.DATA, b"whole") + encode(LinkType.DATA, b"cut")[:-1])
        raw.write_eof()
        assert await near.receive(PATIENCE_S) == LinkMessage(LinkType.DATA, b"whole"), "what was whole counts"
        with pytest.raises(LinkError, match="within a message"):
            await near.receive(PATIENCE_S)


async def test_garbage_behind_a_good_message_never_looks_like_a_clean_end() -> None:
    async with linked() as (near, raw, _):
        raw.write(encode(LinkType.DATA, b"good") + b"garbage!")
        raw.write_eof()
        assert await near.receive(PATIENCE_S) == LinkMessage(LinkType.DATA, b"good"), "what was whole counts"
        with pytest.raises(LinkError, match="only types 1 to 10"):
            await near.receive(PATIENCE_S)


async def test_a_silent_peer_is_a_timeout_and_nothing_is_lost() -> None:
    async with linked() as (near, raw, _):
        whole = encode(LinkType.REPLY, b"\xa0")
        raw.write(whole[:3])
        with pytest.raises(LinkTimeoutError, match="sent nothing for"):
            await near.receive(SOON_S)
        raw.write(whole[3:])
        message = await near.receive(PATIENCE_S)
        assert message is not None, "the message came at last"
        assert message.map() == {}, "and both halves of it were kept"


async def test_a_cancelled_receive_loses_nothing() -> None:
    async with linked() as (near, raw, _):
        whole = encode(LinkType.DATA, b"payload")
        raw.write(whole[:4])
        waiting = asyncio.create_task(near.receive(PATIENCE_S))
        await asyncio.sleep(0.02)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        raw.write(whole[4:])
        assert await near.receive(PATIENCE_S) == LinkMessage(LinkType.DATA, b"payload"), "the stream is intact"


async def test_a_peer_that_reads_nothing_holds_the_sender_back_and_is_then_cut_off() -> None:
    async with linked(buffer_bytes=4096) as (near, _, _):
        sent = 0

        async def send_until_refused() -> None:
            nonlocal sent
            while sent < 100:
                await near.send(LinkType.DATA, bytes(65_536), timeout_s=SOON_S)
                sent += 1

        with pytest.raises(LinkTimeoutError, match="took no DATA message"):
            await send_until_refused()
        assert sent <= 3, "the sender stopped with little in flight instead of filling its memory"
        await refuses_soon(near)


async def test_a_slow_reader_gets_everything() -> None:
    async with linked(buffer_bytes=4096) as (near, _, far):

        async def send() -> None:
            for number in range(20):
                await near.send(LinkType.DATA, bytes([number]) * 30_000, timeout_s=PATIENCE_S)
            await near.send(LinkType.END, timeout_s=PATIENCE_S)

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            for number in range(20):
                await asyncio.sleep(0.002)
                expected = LinkMessage(LinkType.DATA, bytes([number]) * 30_000)
                assert await far.receive(PATIENCE_S) == expected, "in order and whole"
            assert await far.receive(PATIENCE_S) == LinkMessage(LinkType.END), "and its end"


async def test_a_cancelled_send_leaves_whole_messages_only() -> None:
    async with linked(buffer_bytes=4096) as (near, _, far):
        sending = asyncio.create_task(near.send(LinkType.DATA, bytes(300_000), timeout_s=PATIENCE_S))
        await asyncio.sleep(0.02)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        tail = asyncio.create_task(near.send(LinkType.ABORT, {"reason": "cancelled"}, timeout_s=PATIENCE_S))
        kinds = []
        while (message := await far.receive(PATIENCE_S)) is not None:
            kinds.append(message.type)
            if message.type is LinkType.ABORT:
                break
        await tail
        assert kinds[-1] is LinkType.ABORT, "the abort is readable behind what had gone out"
        assert len(kinds) <= 5, "and not all of the data had"


async def test_senders_in_several_tasks_do_not_mix() -> None:
    async with linked(buffer_bytes=4096) as (near, _, far):

        async def send(mark: int) -> None:
            for _ in range(10):
                await near.send(LinkType.HOP_DATA, bytes([mark]) * 20_000, timeout_s=PATIENCE_S)

        async with asyncio.TaskGroup() as group:
            for mark in range(4):
                group.create_task(send(mark))
            for _ in range(40):
                message = await far.receive(PATIENCE_S)
                assert message is not None, "forty messages were sent"
                assert message.payload == message.payload[:1] * 20_000, "each message is one sender's"


async def test_sending_to_a_closed_peer_is_a_link_error() -> None:
    async with linked() as (near, _, far):
        far.abort()
        await refuses_soon(near)


@pytest.mark.parametrize("waiting", [30_000, 1_000_000], ids=["it leaves while closing", "it never leaves"])
async def test_closing_does_not_wait_for_ever(waiting: int) -> None:
    async with linked(buffer_bytes=4096) as (near, _, far):
        near._writer.write(bytes(waiting))
        async with asyncio.timeout(PATIENCE_S):
            closing = asyncio.create_task(near.close(SOON_S))
            if waiting < 100_000:
                await far._reader.readexactly(waiting)
            await closing
            await near.close(SOON_S)
        near.abort()
        with pytest.raises(LinkError):
            await near.send(LinkType.END, timeout_s=SOON_S)


async def test_a_cancelled_close_still_drops_the_connection() -> None:
    async with linked(buffer_bytes=4096) as (near, _, far):
        near._writer.write(bytes(1_000_000))
        closing = asyncio.create_task(near.close(PATIENCE_S))
        await asyncio.sleep(0.02)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        async with asyncio.timeout(PATIENCE_S):
            received = await far._reader.read()
        assert len(received) < 1_000_000, "the stream ended, and what had not left was dropped"


async def test_a_read_full_of_messages_lets_others_run() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with linked() as (near, raw, _):
        raw.write(encode(LinkType.DATA) * 10_000 + encode(LinkType.END))
        assert await near.receive(PATIENCE_S) == LinkMessage(LinkType.DATA), "the first"
        running = asyncio.create_task(others())
        for _ in range(9_999):
            assert await near.receive(PATIENCE_S) == LinkMessage(LinkType.DATA), "all of them arrive"
        running.cancel()
        assert await near.receive(PATIENCE_S) == LinkMessage(LinkType.END), "in order"
    assert turns >= 10_000 // READY_RUN - 1, "and the loop went round meanwhile"
