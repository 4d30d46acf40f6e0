"""The stock `openai` client against the tenant's proxy, in its ordinary uses and when things break."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import openai
import pytest

from dataplane.protocol.errors import ProblemError, SettingsError
from dataplane.protocol.message import RequestMessage
from dataplane.tenant.proxy import TenantProxy
from dataplane.tenant.session import SessionError
from tests.unit.tenant.fake_cluster import API_KEY, Answer, Drop, FakeCluster, Refuse, Step, chat_events, running

MESSAGES: list[Any] = [{"role": "user", "content": "sesame"}]
EVENTS = "text/event-stream"


def engine(message: RequestMessage) -> Step:
    """Answer as an OpenAI-compatible engine would."""
    request = json.loads(message.body)
    answer: dict[str, Any]
    choice: dict[str, Any]
    if message.path == "/v1/embeddings":
        data = [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}]
        answer = {"object": "list", "model": "tiny", "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}}
        return Answer((json.dumps(answer).encode(),))
    if message.path == "/v1/completions":
        choice = {"index": 0, "text": "open", "finish_reason": "stop", "logprobs": None}
        answer = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "tiny", "choices": [choice]}
        return Answer((json.dumps(answer).encode(),))
    if request.get("stream"):
        return Answer(chat_events("o", "p", "en"), content_type=EVENTS)
    tokens = [{"token": "open", "logprob": -0.5, "bytes": None, "top_logprobs": []}]
    call = {"id": "call-1", "type": "function", "function": {"name": "door", "arguments": '{"n": 1}'}}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "open", "tool_calls": [call] if "tools" in request else None},
        "finish_reason": "stop",
        "logprobs": {"content": tokens, "refusal": None} if request.get("logprobs") else None,
    }
    answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "tiny", "choices": [choice]}
    return Answer((json.dumps(answer).encode(),))


@asynccontextmanager
async def proxied(cluster: FakeCluster, **options: Any) -> AsyncIterator[TenantProxy]:
    async with running(cluster), cluster.client() as client:
        server = TenantProxy(client, port=0, **options)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()


@asynccontextmanager
async def stock(
    cluster: FakeCluster, *, max_retries: int = 0, api_key: str = "unused", **options: Any
) -> AsyncIterator[openai.AsyncOpenAI]:
    """The stock client, pointed at a proxy in front of `cluster`."""
    async with (
        proxied(cluster, **options) as server,
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=api_key, max_retries=max_retries, timeout=10) as client,
    ):
        yield client


async def drained(stream: AsyncIterator[Any]) -> None:
    async for _ in stream:
        pass


async def test_a_chat_completion() -> None:
    cluster = FakeCluster(otherwise=engine)
    async with stock(cluster) as client:
        raw = await client.chat.completions.with_raw_response.create(model="tiny", messages=MESSAGES)
        done = raw.parse()
    assert done.choices[0].message.content == "open", "the engine's answer"
    assert done._request_id == cluster.seen[0].headers["X-Request-ID"], "the request has one name from end to end"
    assert raw.headers["X-MRGC-Instance"] == "i-0123456789abcdef0", "the enclave's word on who answered"
    assert raw.headers["X-MRGC-Assurance"] == "0", "and what it proved"
    assert cluster.seen[0].headers["Authorization"] == f"Bearer {API_KEY}", "the tenant's key, not the local client's"


async def test_a_streamed_chat() -> None:
    async with stock(FakeCluster(otherwise=engine)) as client:
        stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
        words = [chunk.choices[0].delta.content async for chunk in stream]
    assert words == ["o", "p", "en"], "chunk by chunk"


async def test_the_synchronous_client_streams_too() -> None:
    async with proxied(FakeCluster(otherwise=engine)) as server:

        def ask() -> list[str | None]:
            with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
                stream = client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
                return [chunk.choices[0].delta.content for chunk in stream]

        assert await asyncio.to_thread(ask) == ["o", "p", "en"], "the same chunks"


async def test_tokens_arrive_as_they_come() -> None:
    slow = Answer(chat_events("first", "second"), content_type=EVENTS, hang_after=1)
    async with stock(FakeCluster(otherwise=lambda _: slow)) as client:
        stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
        async with asyncio.timeout(2):
            chunk = await anext(aiter(stream))
        assert chunk.choices[0].delta.content == "first", "the first token does not wait for the second"
        await stream.close()


async def test_completions_and_embeddings() -> None:
    async with stock(FakeCluster(otherwise=engine)) as client:
        completion = await client.completions.create(model="tiny", prompt="sesame")
        embedding = await client.embeddings.create(model="tiny", input="sesame", encoding_format="float")
    assert completion.choices[0].text == "open", "a plain completion"
    assert embedding.data[0].embedding == [0.25, -0.5], "an embedding"


async def test_models_are_listed_and_a_wrong_one_is_not_found() -> None:
    async with stock(FakeCluster()) as client:
        assert [model.id async for model in client.models.list()] == ["tiny"], "the router's pools"
        assert (await client.models.retrieve("tiny")).owned_by == "mrgc", "one of them"
        with pytest.raises(openai.NotFoundError) as caught:
            await client.models.retrieve("org/none")
    assert caught.value.code == "model_not_found", "OpenAI's code for it"


async def test_tools_and_logprobs_go_through_untouched() -> None:
    cluster = FakeCluster(otherwise=engine)
    tools: list[Any] = [{"type": "function", "function": {"name": "door", "parameters": {"type": "object"}}}]
    async with stock(cluster) as client:
        done = await client.chat.completions.create(
            model="tiny", messages=MESSAGES, tools=tools, logprobs=True, extra_body={"priority": 3}
        )
    sent = json.loads(cluster.seen[0].message.body)
    assert (sent["tools"], sent["priority"]) == (tools, 3), "what the proxy does not know, it passes on"
    choice = done.choices[0]
    assert choice.message.tool_calls is not None, "tool calls come back"
    assert choice.logprobs is not None, "log probabilities come back"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("unauthenticated", openai.AuthenticationError),
        ("kms-denied", openai.PermissionDeniedError),
        ("key-not-registered", openai.PermissionDeniedError),
        ("assurance-too-low", openai.PermissionDeniedError),
        ("unknown-model-pool", openai.NotFoundError),
        ("expired", openai.BadRequestError),
        ("replayed", openai.ConflictError),
        ("tenant-over-limit", openai.RateLimitError),
        ("no-capacity", openai.InternalServerError),
    ],
)
async def test_problems_become_the_errors_that_users_expect(code: str, kind: type[openai.APIStatusError]) -> None:
    cluster = FakeCluster(otherwise=lambda _: Refuse(ProblemError(code, "The reason, and what to do.")))
    async with stock(cluster) as client:
        for stream in (False, True):
            with pytest.raises(kind) as caught:
                await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=stream)
            assert "The reason, and what to do." in str(caught.value), "the sentence reaches the person"
            assert caught.value.body == {
                "message": "The reason, and what to do.",
                "type": caught.value.type,
                "param": "model" if code == "unknown-model-pool" else None,
                "code": caught.value.code,
            }, "in OpenAI's shape"


async def test_retry_after_reaches_the_stock_client_and_its_retry_succeeds() -> None:
    cluster = FakeCluster(otherwise=engine)
    # Longer than the request's own deadline: so the proxy says when, and does not wait itself.
    cluster.steps.append(Refuse(ProblemError("tenant-over-limit", "Slow down.", retry_after_s=1)))
    async with stock(cluster, max_retries=1, deadline_s=0.9) as client:
        raw = await client.chat.completions.with_raw_response.create(model="tiny", messages=MESSAGES)
    assert raw.retries_taken == 1, "the stock client came back"
    assert len(cluster.seen) == 2, "once"


async def test_a_failure_that_was_retried_here_is_not_retried_by_the_client() -> None:
    cluster = FakeCluster(otherwise=lambda _: Drop())
    async with stock(cluster, max_retries=2) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="tiny", messages=MESSAGES)
    assert caught.value.response.headers["x-should-retry"] == "false", "retries must not multiply"
    assert len(cluster.seen) == 4, "the proxy's own attempts and no more"


async def test_the_engines_own_errors_keep_their_status_and_text() -> None:
    body = json.dumps({"error": {"message": "max_tokens is too large", "type": "x", "param": None, "code": 400}})
    cluster = FakeCluster(otherwise=lambda _: Answer((body.encode(),), status=400))
    async with stock(cluster) as client:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match="max_tokens is too large"):
                await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=stream)


@pytest.mark.parametrize(
    "fault",
    [
        {"cut_after": 2},
        {"end_early": True},
        {"request": b"\x00" * 32},
        {"trailing": b"\x00"},
    ],
    ids=["cut midway", "no receipt after [DONE]", "wrong receipt after [DONE]", "bytes after the receipt"],
)
async def test_a_stream_that_is_not_whole_raises(fault: dict[str, Any]) -> None:
    broken = Answer(chat_events("o", "p", "en"), content_type=EVENTS, **fault)
    async with stock(FakeCluster(otherwise=lambda _: broken)) as client:
        stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
        first = await anext(aiter(stream))
        assert first.choices[0].delta.content == "o", "the tokens that came are given"
        with pytest.raises(openai.APIConnectionError):
            await drained(stream)


async def test_the_synchronous_client_does_not_take_a_cut_stream_for_whole() -> None:
    broken = Answer(chat_events("o", "p"), content_type=EVENTS, end_early=True)
    async with proxied(FakeCluster(otherwise=lambda _: broken)) as server:

        def ask() -> None:
            with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
                list(client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True))

        with pytest.raises(openai.APIConnectionError):
            await asyncio.to_thread(ask)


async def test_an_old_client_without_chunks_sees_a_reset() -> None:
    broken = Answer(chat_events("o", "p"), content_type=EVENTS, cut_after=1)
    async with proxied(FakeCluster(otherwise=lambda _: broken)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
        body = json.dumps({"model": "tiny", "messages": MESSAGES, "stream": True}).encode()
        head = f"POST /v1/chat/completions HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(-1), 3)
        writer.close()


async def test_a_collected_answer_that_breaks_is_asked_again() -> None:
    cluster = FakeCluster(otherwise=engine)
    cluster.steps.append(Answer((b'{"half":', b"1}"), cut_after=1))
    async with stock(cluster) as client:
        done = await client.chat.completions.create(model="tiny", messages=MESSAGES)
    assert done.choices[0].message.content == "open", "the client noticed nothing"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_cancels_the_request_at_the_host(*, stream: bool) -> None:
    slow = Answer(chat_events("first", "second"), content_type=EVENTS, hang_after=1)
    cluster = FakeCluster(otherwise=lambda _: slow)
    async with stock(cluster) as client:
        if stream:
            chunks = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
            await anext(aiter(chunks))
            await chunks.close()
        else:
            task = asyncio.create_task(client.chat.completions.create(model="tiny", messages=MESSAGES))
            await cluster.arrived.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with asyncio.timeout(2):
            await cluster.cancelled.wait()


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"{", "invalid_json"), (b"[]", "missing_model"), (b'{"model": 1}', "missing_model")],
)
async def test_bad_bodies_are_refused_in_openais_shape(body: bytes, code: str) -> None:
    cluster = FakeCluster()
    async with (
        proxied(cluster) as server,
        aiohttp.ClientSession() as http,
        http.post(f"{server.url}/v1/chat/completions", data=body) as answer,
    ):
        document = await answer.json()
        assert (answer.status, document["error"]["code"]) == (400, code), "a clear refusal"
    assert not cluster.seen, "nothing was sent"


async def test_what_is_too_large_or_not_there_is_said_in_openais_shape() -> None:
    async with proxied(FakeCluster()) as server, aiohttp.ClientSession() as http:
        async with http.post(f"{server.url}/v1/chat/completions", data=io.BytesIO(bytes((1 << 20) + 1))) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (413, "too-large"), "over 1 MiB"
        declared = f"{HEAD}Content-Length: {(1 << 20) + 1}\r\n\r\n".encode()
        assert (await said_to(server, declared)).startswith(b"HTTP/1.1 413"), "at once, where its length says so"
        async with http.get(f"{server.url}/v1/files") as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (404, "not-found"), "another path"
        async with http.get(f"{server.url}/v1/chat/completions") as answer:
            assert answer.status == 405, "another method"
        async with http.get(f"{server.url}/health") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ok"}), "it is up"


HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


async def said_to(server: TenantProxy, data: bytes) -> bytes:
    """Everything that the proxy answers to bytes that no client library would send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(data)
            await writer.drain()
        received = b""
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(2):
                while piece := await reader.read(65_536):
                    received += piece
        return received
    finally:
        writer.close()


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param("X-Big: " + "x" * 10_000_000 + "\r\nContent-Length: 2\r\n", id="10 MB header"),
        pytest.param("Content-Length: 2\r\nContent-Length: 3\r\n", id="two lengths"),
        pytest.param("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", id="length and chunked"),
    ],
)
async def test_a_head_that_can_be_read_two_ways_is_refused(extra: str) -> None:
    cluster = FakeCluster(otherwise=engine)
    async with proxied(cluster) as server:
        answer = await said_to(server, f"{HEAD}{extra}\r\n{{}}".encode())
        # A peer that is still sending 10 MB may be cut off before it reads the answer.
        assert answer == b"" or b" 400 " in answer.split(b"\r\n", 1)[0], "as malformed"
        assert not cluster.seen, "nothing was sent"
        async with aiohttp.ClientSession() as http, http.get(f"{server.url}/health") as health:
            assert health.status == 200, "and the next one is served"


async def test_a_body_that_stops_midway_is_given_up() -> None:
    cluster = FakeCluster(otherwise=engine)
    async with proxied(cluster, body_s=0.1) as server:
        answer = await said_to(server, f'{HEAD}Content-Length: 100\r\n\r\n{{"model"'.encode())
        assert answer.startswith(b"HTTP/1.1 408 "), "long before the deadline"
        assert b"not whole within 0.1 s" in answer, "and it says why"
        assert not cluster.seen, "nothing was sent"


async def test_a_refused_data_key_is_a_permission_error() -> None:
    cluster = FakeCluster()
    cluster.kms.fail = SessionError("KMS refused the key; check the credentials.", denied=True)
    async with stock(cluster) as client:
        with pytest.raises(openai.PermissionDeniedError, match="check the credentials") as caught:
            await client.chat.completions.create(model="tiny", messages=MESSAGES)
    assert caught.value.code == "kms-denied", "the protocol's code"


async def test_a_local_api_key_is_asked_for() -> None:
    async with stock(FakeCluster(otherwise=engine), local_api_key="local", api_key="other") as client:
        with pytest.raises(openai.AuthenticationError, match="local API key"):
            await client.models.list()
    async with stock(FakeCluster(otherwise=engine), local_api_key="local", api_key="local") as client:
        assert [model.id async for model in client.models.list()] == ["tiny"], "with it, all is open"


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "https://evil.example"}])
async def test_a_page_from_elsewhere_cannot_speak_as_the_tenant(headers: dict[str, str]) -> None:
    async with (
        proxied(FakeCluster()) as server,
        aiohttp.ClientSession() as http,
        http.get(f"{server.url}/v1/models", headers=headers) as answer,
    ):
        assert (answer.status, (await answer.json())["error"]["code"]) == (403, "not-local"), "refused"


async def test_it_does_not_open_itself_to_others_unasked() -> None:
    cluster = FakeCluster(url="http://127.0.0.1:1")
    with pytest.raises(SettingsError, match="allow it"):
        TenantProxy(cluster.client(), host="0.0.0.0")
    with pytest.raises(SettingsError, match="needs a local API key"):
        TenantProxy(cluster.client(), host="0.0.0.0", allow_remote=True)
    TenantProxy(cluster.client(), host="0.0.0.0", allow_remote=True, local_api_key="k")


async def test_a_port_in_use_is_said() -> None:
    async with proxied(FakeCluster()) as server:
        port = int(server.url.rsplit(":", 1)[1])
        second = TenantProxy(FakeCluster(url="http://127.0.0.1:1").client(), port=port)
        with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1:{port}"):
            await second.start()
