"""Hosts that fail, over the wire: what is tried again, what is not, and how a broken answer reaches the tenant."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.registry.host import HostState
from dataplane.router.upstream import MAX_RETRY_AFTER_S, bounded_retry_after
from tests.unit.router.harness import (
    ANSWER,
    ENVELOPE,
    Behaviour,
    Exchange,
    FakeParent,
    answer_well,
    eventually,
    head,
    record,
    running,
)


def first(_: int) -> int:
    """A chance that always falls on the first: the order of hosts decides."""
    return 0


async def cut_before_answer(exchange: Exchange) -> None:
    exchange.cut()


async def talk_garbage(exchange: Exchange) -> None:
    await exchange.raw(b"\x00\x01\x02 this is no HTTP\r\n\r\n")


async def answer_html(exchange: Exchange) -> None:
    await exchange.head(200, "text/html")
    await exchange.chunk(b"<html>")
    await exchange.end()


async def answer_nothing(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.end()


async def answer_undelimited(exchange: Exchange) -> None:
    await exchange.raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\r\nMRGC")
    exchange.writer.close()


async def fail_plainly(exchange: Exchange) -> None:
    await exchange.head(500, "text/plain")
    await exchange.chunk(b"oops")
    await exchange.end()


async def huge_head(exchange: Exchange) -> None:
    await exchange.raw(b"HTTP/1.1 200 OK\r\nX-Junk: " + b"j" * 100_000 + b"\r\n\r\n")


async def head_then_cut(exchange: Exchange) -> None:
    await exchange.head()
    exchange.cut()


async def redirect(exchange: Exchange) -> None:
    await exchange.head(307, "text/plain", Location="http://169.254.169.254/latest/")
    await exchange.end()


def problem(status: int, code: str, **more: str) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await exchange.problem(status, code, **more)

    return behave


RETRIED = [
    cut_before_answer,
    talk_garbage,
    answer_html,
    answer_nothing,
    answer_undelimited,
    fail_plainly,
    huge_head,
    head_then_cut,
    redirect,
    problem(502, "host-failed"),
    problem(503, "no-capacity"),
    problem(429, "overloaded", Retry_After="7"),
]


@pytest.mark.parametrize("fault", RETRIED)
async def test_a_host_that_fails_before_its_answer_is_replaced_by_another(tmp_path: Path, fault: Behaviour) -> None:
    async with (
        FakeParent(fault) as bad,
        FakeParent(fault) as worse,
        FakeParent() as good,
        running(tmp_path, bad, worse, randrange=first) as router,
    ):
        # Worse by score than both others, so that it is tried last.
        await router.put(record("i-2", good.address, health=0, queue_depth=100, running=8))
        reply = await router.infer()
        assert reply.status == 200, reply.body
        assert reply.body == ANSWER, "the answer is the good host's"
        assert reply.headers["x-mrgc-attempts"] == "3", "two failed before it"
        assert reply.headers["x-mrgc-instance"] == "i-2", "the host that answered is named"
        assert good.exchanges[0].body == ENVELOPE, "the retry had the whole body"
        assert len(bad.exchanges) == len(worse.exchanges) == 1, "no host was asked twice"


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_host_that_can_not_be_connected_to_is_replaced(tmp_path: Path, chunked: bool) -> None:  # noqa: FBT001 - a case
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        async with FakeParent() as good, running(tmp_path, randrange=first) as router:
            await router.put(record("i-0", address), record("i-1", good.address, health=0))
            if chunked:
                data = head(transfer_encoding="chunked") + b"%x\r\n%s\r\n0\r\n\r\n" % (len(ENVELOPE), ENVELOPE)
                reply = await router.ask(data)
            else:
                reply = await router.infer()
            assert (reply.status, reply.headers["x-mrgc-attempts"]) == (200, "2"), reply.body
            assert good.exchanges[0].body == ENVELOPE, "the body arrived whole"


@pytest.mark.parametrize(
    ("fault", "status", "code", "words"),
    [
        (cut_before_answer, 502, "host-failed", "closed the connection before its answer"),
        (talk_garbage, 502, "host-failed", "not HTTP"),
        (answer_html, 502, "host-failed", "no envelope"),
        (answer_nothing, 502, "host-failed", "with nothing"),
        (answer_undelimited, 502, "host-failed", "where its answer ends"),
        (fail_plainly, 502, "host-failed", "answered 500"),
        (redirect, 502, "host-failed", "answered 307"),
        (problem(502, "host-failed", detail="The worker is gone."), 502, "host-failed", "The worker is gone."),
        (problem(503, "no-capacity"), 503, "no-capacity", "Because."),
        (problem(429, "overloaded", Retry_After="7"), 429, "overloaded", "Because."),
        (problem(403, "no-capacity"), 502, "host-failed", "answered 403 without a problem document"),
    ],
)
async def test_when_every_host_fails_the_last_failure_is_told(
    tmp_path: Path, fault: Behaviour, status: int, code: str, words: str
) -> None:
    async with FakeParent(fault) as one, FakeParent(fault) as two, running(tmp_path, one, two) as router:
        reply = await router.infer()
        assert (reply.status, reply.code) == (status, code), reply.body
        assert words in reply.problem["detail"], "the sentence says what the host did"
        assert reply.headers["retry-after"] == ("7" if code == "overloaded" else "1"), "it may pass"
        assert reply.headers["x-mrgc-attempts"] == "2", "both hosts were tried, and no third time"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "malformed-envelope"),
        (400, "header-mismatch"),
        (400, "unsupported-version"),
        (400, "expired"),
        (403, "kms-denied"),
        (403, "assurance-too-low"),
        (409, "replayed"),
        (413, "too-large"),
        (504, "deadline-exceeded"),
    ],
)
async def test_what_the_enclave_refuses_is_passed_on_and_not_tried_elsewhere(
    tmp_path: Path, status: int, code: str
) -> None:
    fault = problem(status, code, detail="The enclave's own sentence.")
    async with FakeParent(fault) as one, FakeParent(fault) as two, running(tmp_path, one, two) as router:
        reply = await router.infer()
        assert (reply.status, reply.code) == (status, code), reply.body
        assert reply.problem["detail"] == "The enclave's own sentence.", "its sentence is passed on"
        assert reply.headers["x-mrgc-attempts"] == "1", "another host would say the same"
        assert len(one.exchanges) + len(two.exchanges) == 1, "and was not asked"


async def test_a_host_killed_midway_breaks_the_answer_and_never_ends_it(tmp_path: Path) -> None:
    async def die(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunk(b"MRGC first piece")
        await asyncio.sleep(0.05)
        exchange.cut()

    async with FakeParent(die) as parent, FakeParent(die) as other, running(tmp_path, parent, other) as router:
        reply = await router.infer()
        assert reply.status == 200, "the answer had begun"
        assert reply.body == b"MRGC first piece", "what came was passed on"
        assert not reply.clean, "a broken answer must not look complete"
        assert len(parent.exchanges) + len(other.exchanges) == 1, "nothing is tried again once bytes have gone out"


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
async def test_an_answer_that_ends_too_early_is_broken_however_it_was_framed(tmp_path: Path, framing: bytes) -> None:
    piece = b"4\r\nMRGC\r\n" if b"chunked" in framing else b"MRGC"

    async def stop_short(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n" + framing + b"\r\n\r\n")
        await exchange.raw(piece)
        exchange.writer.close()  # an orderly end of the connection, not a reset

    async with FakeParent(stop_short) as parent, running(tmp_path, parent) as router:
        reply = await router.infer()
        assert (reply.status, reply.clean) == (200, False), "an orderly close before the end is no end"


async def test_garbage_in_the_middle_of_an_answer_breaks_it(tmp_path: Path) -> None:
    async def garble(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunk(b"MRGC")
        await asyncio.sleep(0.02)
        await exchange.raw(b"no chunk at all\r\n")
        await exchange.wait_closed()

    async with FakeParent(garble) as parent, running(tmp_path, parent) as router:
        reply = await router.infer()
        assert (reply.status, reply.clean) == (200, False), "garbage is no end"


async def test_a_silent_host_times_out_and_another_is_asked(tmp_path: Path) -> None:
    async def hang(exchange: Exchange) -> None:
        await exchange.wait_closed()

    async with (
        FakeParent(hang) as bad,
        FakeParent() as good,
        running(tmp_path, randrange=first, first_byte_timeout_s=0.1) as router,
    ):
        await router.put(record("i-0", bad.address), record("i-1", good.address, health=0))
        reply = await router.infer()
        assert (reply.status, reply.headers["x-mrgc-attempts"]) == (200, "2"), reply.body


async def test_a_host_that_falls_silent_midway_breaks_the_answer(tmp_path: Path) -> None:
    async def stall(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunk(b"MRGC")
        await exchange.wait_closed()

    async with FakeParent(stall) as parent, running(tmp_path, parent, stream_idle_s=0.1) as router:
        reply = await router.infer()
        assert (reply.status, reply.clean) == (200, False), "silence is no end"


async def test_a_deadline_that_passes_before_the_answer_is_told(tmp_path: Path) -> None:
    async def hang(exchange: Exchange) -> None:
        await exchange.wait_closed()

    async with FakeParent(hang) as one, FakeParent(hang) as two, running(tmp_path, one, two) as router:
        reply = await router.infer(x_deadline_ms="100")
        assert (reply.status, reply.code) == (504, "deadline-exceeded"), reply.body
        assert "while host i-" in reply.problem["detail"], "the sentence says where the time went"
        assert reply.headers["x-mrgc-attempts"] == "1", "there is no time for another"
        asked = (one.exchanges + two.exchanges)[0]
        assert int(asked.headers["x-deadline-ms"]) <= 100, "the host was given no more time than there was"


async def test_a_deadline_that_passes_midway_breaks_the_answer(tmp_path: Path) -> None:
    async def stall(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunk(b"MRGC")
        await exchange.wait_closed()

    async with FakeParent(stall) as parent, running(tmp_path, parent) as router:
        reply = await router.infer(x_deadline_ms="150")
        assert (reply.status, reply.clean) == (200, False), "the stream is cut, not ended"


async def test_a_body_that_was_not_kept_is_not_tried_again(tmp_path: Path) -> None:
    async with (
        FakeParent(cut_before_answer) as one,
        FakeParent(cut_before_answer) as two,
        running(tmp_path, one, two, replay_total_bytes=10) as router,
    ):
        reply = await router.infer()
        assert (reply.status, reply.code) == (502, "host-failed"), reply.body
        assert reply.headers["x-mrgc-attempts"] == "1", "there was no room to keep the body for a retry"
        page = await router.get("/metrics", admin=True)
        assert b'mrgc_router_retries_refused_total{reason="body"} 1.0' in page.body, "and the reason is counted"


async def test_retries_stop_when_the_budget_is_spent(tmp_path: Path) -> None:
    # Refusals of full hosts open no breaker, so only the budget can end the retries.
    async with (
        FakeParent(problem(429, "overloaded")) as one,
        FakeParent(problem(429, "overloaded")) as two,
        running(tmp_path, one, two) as router,
    ):
        attempts = [int((await router.infer()).headers["x-mrgc-attempts"]) for _ in range(60)]
        assert attempts[0] == 2, "at first every request is tried on the other host too"
        assert 1 in attempts, "then the budget of retries is spent"
        retries = sum(attempts) - len(attempts)
        assert retries < len(attempts), "and retries no longer double the load on hosts that are full"
        page = (await router.get("/metrics", admin=True)).body
        assert b'mrgc_router_retries_refused_total{reason="budget"}' in page, "which is counted"


async def test_a_host_that_keeps_failing_is_left_alone_and_health_follows(tmp_path: Path) -> None:
    async with FakeParent(fail_plainly) as bad, running(tmp_path, bad) as router:
        for _ in range(5):
            assert (await router.infer()).status == 502, "the breaker counts to five"
        reply = await router.infer()
        assert (reply.status, reply.code) == (503, "no-capacity"), "then the host is not asked"
        assert len(bad.exchanges) == 5, "and really was not"
        assert (await router.get("/health")).status == 503, "a router without a host to use says so"
        bad.behave = answer_well
        await eventually(lambda: router.router.hosts.routable == 1, "the breaker lets a probe through")
        assert (await router.get("/health")).status == 200, "which makes the router ready again"
        assert (await router.infer()).status == 200, "and the probe succeeds"


@pytest.mark.parametrize("state", [HostState.DRAINING, HostState.UNHEALTHY])
async def test_hosts_that_are_not_ready_get_nothing(tmp_path: Path, state: HostState) -> None:
    async with FakeParent() as parent, running(tmp_path) as router:
        await router.put(record("i-0", parent.address, state=state))
        reply = await router.infer()
        assert (reply.status, reply.code) == (503, "no-capacity"), reply.body
        assert parent.exchanges == [], "it was not asked"


async def test_an_early_refusal_is_passed_on_while_the_body_is_still_coming(tmp_path: Path) -> None:
    fault = problem(413, "too-large")
    async with (
        FakeParent(fault, read_body=False) as parent,
        running(tmp_path, parent) as router,
        router.client() as client,
    ):
        await client.send(head(content_length="100000") + b"MRGC")
        reply = await client.reply()
        assert (reply.status, reply.code) == (413, "too-large"), "it need not wait for the rest of the body"


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ("2", "2"),
        ("007", "7"),
        ("0", "0"),
        ("60", "60"),
        ("61", "60"),
        ("9" * 18, "60"),
        ("9" * 19, "1"),
        ("9" * 500, "1"),
        ("9" * 5_000, "1"),
        ("-1", "1"),
        ("1.5", "1"),
        ("soon", "1"),
        ("Wed, 21 Oct 2026 07:28:00 GMT", "1"),
        ("", "1"),
        (None, "1"),
    ],
)
async def test_what_a_host_says_of_coming_back_is_bounded(tmp_path: Path, sent: str | None, told: str) -> None:
    async def refuse(exchange: Exchange) -> None:
        more = {} if sent is None else {"Retry_After": sent}
        await exchange.problem(429, "overloaded", **more)

    async with FakeParent(refuse) as parent, running(tmp_path, parent) as router:
        reply = await router.infer()
        assert (reply.status, reply.code) == (429, "overloaded"), reply.body
        assert reply.headers["retry-after"] == told, "a minute at most, and one second where nothing sensible was said"
        assert router.router.hosts.views()[0].breaker == "closed", "the host is well"


@given(st.text(max_size=40) | st.integers().map(str) | st.integers(0, 10**4000).map(str))
def test_no_text_of_a_host_passes_the_bound(text: str) -> None:
    told = bounded_retry_after(text)
    assert told is None or 0 <= int(told) <= MAX_RETRY_AFTER_S, "whatever was sent"
