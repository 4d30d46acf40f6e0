"""The in-process ASGI caller."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dataplane.worker.asgi import QUEUED_CHUNKS, AsgiCall
from dataplane.worker.engine import EngineError

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}


def piece(data: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def collect(call: AsgiCall) -> bytes:
    return b"".join([chunk async for chunk in call.body()])


async def test_the_application_gets_the_request_and_its_answer_comes_back() -> None:
    seen: dict[str, Any] = {}

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope, request=await receive())
        await send(START)
        await send(piece(b"one "))
        await send(piece(b"two", more=False))

    async with AsgiCall(application, path="/v1/x", body=b"{}") as call:
        assert await call.head() == (200, "text/plain")
        assert await collect(call) == b"one two"
    assert seen["path"] == "/v1/x"
    assert seen["request"] == {"type": "http.request", "body": b"{}", "more_body": False}
    assert (b"content-type", b"application/json") in seen["headers"]


async def test_leaving_early_is_a_disconnect_that_the_application_sees() -> None:
    seen: list[str] = []

    async def application(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        await send(piece(b"x"))
        seen.append((await receive())["type"])

    async with AsgiCall(application, path="/", body=b"") as call:
        await call.head()
    assert seen == ["http.disconnect"], "and the caller waited until it had"


async def test_an_application_that_ignores_the_disconnect_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplane.worker.asgi.ABORT_GRACE_S", 0.01)
    ended = asyncio.Event()

    async def application(_: Any, __: Any, send: Any) -> None:
        await send(START)
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with AsgiCall(application, path="/", body=b"") as call:
        await call.head()
    assert ended.is_set(), "nothing of it may be left running"


async def test_a_cancelled_caller_still_disconnects_the_application() -> None:
    seen: list[str] = []
    begun = asyncio.Event()

    async def application(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        begun.set()
        seen.append((await receive())["type"])

    async def caller() -> None:
        async with AsgiCall(application, path="/", body=b"") as call:
            await collect(call)

    task = asyncio.create_task(caller())
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert seen == ["http.disconnect"]


async def test_a_slow_reader_stops_the_application_and_loses_nothing() -> None:
    sent = 0

    async def application(_: Any, __: Any, send: Any) -> None:
        nonlocal sent
        await send(START)
        for _ in range(QUEUED_CHUNKS * 3):
            await send(piece(b"x"))
            sent += 1
        await send(piece(b"", more=False))

    async with AsgiCall(application, path="/", body=b"") as call:
        await call.head()
        for _ in range(200):
            await asyncio.sleep(0)
        assert sent <= QUEUED_CHUNKS, "what nobody reads must not pile up"
        assert await collect(call) == b"x" * QUEUED_CHUNKS * 3


async def test_leaving_while_the_application_waits_for_room_does_not_hang() -> None:
    async def application(_: Any, __: Any, send: Any) -> None:
        await send(START)
        for _ in range(QUEUED_CHUNKS * 3):
            await send(piece(b"x"))

    async with asyncio.timeout(1), AsgiCall(application, path="/", body=b"") as call:
        await call.head()
        await asyncio.sleep(0)


async def test_an_application_that_fails_before_it_answers_is_an_engine_error_without_its_text() -> None:
    async def application(_: Any, __: Any, ___: Any) -> None:
        raise ValueError("the prompt was: secret")

    async with AsgiCall(application, path="/", body=b"") as call:
        with pytest.raises(EngineError) as caught:
            await call.head()
    assert "secret" not in str(caught.value), "an application's error may quote the request"
    assert "ValueError" in str(caught.value)


@pytest.mark.parametrize("fails", [True, False])
async def test_a_body_that_breaks_off_is_an_engine_error(*, fails: bool) -> None:
    async def application(_: Any, __: Any, send: Any) -> None:
        await send(START)
        await send(piece(b"half"))
        if fails:
            raise RuntimeError

    async with AsgiCall(application, path="/", body=b"") as call:
        await call.head()
        with pytest.raises(EngineError, match="broke off"):
            await collect(call)
