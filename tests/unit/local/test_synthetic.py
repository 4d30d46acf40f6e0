"""The synthetic engine: deterministic text, documented costs, OpenAI's shapes."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from dataplane.worker.engine import Reply
from dataplane.worker.pool import Pool, PoolOptions
from dataplane.worker.prepare import prepare
from stacks.local.synthetic import SyntheticEngine, SyntheticFactory, embedding, tokenize
from stacks.local.synthetic_cost import BLOCK_TOKENS, SyntheticCosts, prompt_blocks

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
POOL = Pool(name="tiny", path=Path("/nowhere"), options=PoolOptions(), digest="")
COSTS = SyntheticCosts(
    prefill_tokens_per_s=1000.0,
    step_s=0.010,
    per_sequence_s=0.001,
    chunk_tokens=512,
    kv_cache_tokens=4096,
    max_num_seqs=4,
)


class Time:
    """A clock that moves when somebody sleeps, and only then."""

    def __init__(self) -> None:
        self.now = 0.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now += seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def make(time: Time) -> Callable[..., Any]:
    async def engine(*, seed: int = 0, costs: SyntheticCosts = COSTS) -> SyntheticEngine:
        factory = SyntheticFactory(seed=seed, costs=costs, clock_ms=lambda: 7000, sleep=time.sleep)
        return await factory.load(POOL)

    return engine


async def ask(engine: SyntheticEngine, path: str, body: dict[str, Any], *, salt: str = "a", priority: int = 0) -> Any:
    """Ask and return (status, body, usage)."""
    call = prepare(path=path, body=json.dumps(body).encode(), pool="tiny", cache_salt=salt, priority=priority)
    async with engine.generate(call) as reply:
        data = b"".join([chunk async for chunk in reply.body])
    return reply.status, data, reply.usage()


def events(data: bytes) -> list[str]:
    return [line[6:] for line in data.decode().splitlines() if line]


async def test_the_text_is_a_function_of_seed_and_prompt_alone(make: Callable[..., Any]) -> None:
    alone = await make()
    _, first, _ = await ask(alone, COMPLETIONS, {"prompt": "p", "max_tokens": 20})
    crowded = await make()
    results = await asyncio.gather(
        *(ask(crowded, COMPLETIONS, {"prompt": text, "max_tokens": 20}) for text in ("p", "q", "r"))
    )
    assert results[0][1] == first, "a batch changes when tokens come, never which"
    assert results[1][1] != first
    _, other, _ = await ask(await make(seed=1), COMPLETIONS, {"prompt": "p", "max_tokens": 20})
    assert other != first, "another seed, another text"


async def test_openais_own_types_read_every_answer(make: Callable[..., Any]) -> None:
    engine = await make()
    messages = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    _, data, usage = await ask(engine, CHAT, {"messages": messages, "max_tokens": 4})
    chat = ChatCompletion.model_validate_json(data, strict=True)
    assert chat.usage is not None
    assert chat.usage.completion_tokens == usage.completion_tokens == 4
    assert (chat.system_fingerprint or "").startswith("synthetic"), "it says what it is"
    assert chat.choices[0].finish_reason == "length"

    options = {"include_usage": True}
    _, data, _ = await ask(engine, CHAT, {"messages": messages, "stream": True, "stream_options": options})
    *chunks, done = events(data)
    assert done == "[DONE]"
    parsed = [ChatCompletionChunk.model_validate_json(chunk, strict=True) for chunk in chunks]
    assert parsed[-1].usage is not None
    assert parsed[-1].usage.completion_tokens == 64
    assert parsed[-2].choices[0].finish_reason == "stop"
    assert not any(chunk.usage for chunk in parsed[:-1])

    _, data, _ = await ask(engine, COMPLETIONS, {"prompt": "x", "max_tokens": 2})
    assert Completion.model_validate_json(data).choices[0].text
    _, data, usage = await ask(engine, EMBEDDINGS, {"input": ["one", "two"]})
    vectors = CreateEmbeddingResponse.model_validate_json(data).data
    assert len(vectors) == 2
    assert usage.completion_tokens == 0
    _, data, _ = await ask(engine, EMBEDDINGS, {"input": "one", "encoding_format": "base64"})
    packed = base64.b64decode(json.loads(data)["data"][0]["embedding"])
    assert list(struct.unpack("<64f", packed)) == vectors[0].embedding, "both encodings say the same"


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        (CHAT, {}, "messages"),
        (CHAT, {"messages": [{"content": "x"}]}, "role"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "text only"),
        (CHAT, {"messages": [{"role": "user", "content": "x"}], "tools": [{}]}, "tools"),
        (COMPLETIONS, {"prompt": ["a", "b"]}, "prompt"),
        (COMPLETIONS, {"prompt": "x", "max_tokens": 0.5}, "max_tokens"),
        (COMPLETIONS, {"prompt": "x", "max_tokens": -1}, "max_tokens"),
        (COMPLETIONS, {"prompt": "x", "n": 2}, "choice"),
        (COMPLETIONS, {"prompt": "x", "stream_options": 3}, "stream_options"),
        (COMPLETIONS, {"prompt": "x" * 40_000, "max_tokens": 1}, "KV cache"),
        (EMBEDDINGS, {"input": []}, "input"),
        (EMBEDDINGS, {"input": "x", "encoding_format": "hex"}, "encoding_format"),
    ],
)
async def test_what_it_cannot_do_is_refused_in_openais_shape(
    make: Callable[..., Any], path: str, body: dict[str, Any], word: str
) -> None:
    status, data, usage = await ask(await make(), path, body)
    assert status == 400
    assert word in json.loads(data)["error"]["message"]
    assert usage is None


async def test_a_request_alone_takes_what_the_model_says(make: Callable[..., Any], time: Time) -> None:
    await ask(await make(), COMPLETIONS, {"prompt": "x" * 400, "max_tokens": 5})
    # 100 prompt tokens in the first step, which makes the first token too; then four steps.
    assert time.now == pytest.approx(5 * 0.010 + 100 / 1000)


async def test_a_bigger_batch_makes_each_token_slower_and_all_of_them_faster(
    make: Callable[..., Any], time: Time
) -> None:
    engine = await make()
    await asyncio.gather(*(ask(engine, COMPLETIONS, {"prompt": "abcd", "max_tokens": 100}) for _ in range(4)))
    assert time.now == pytest.approx(100 * (0.010 + 3 * 0.001), rel=0.05), "four at once pay for three more"


async def test_a_long_prompt_is_prefilled_in_chunks(make: Callable[..., Any], time: Time) -> None:
    await ask(await make(), COMPLETIONS, {"prompt": "x" * 4800, "max_tokens": 1})
    # 1,200 tokens at 512 a step: three steps.
    assert time.now == pytest.approx(3 * 0.010 + 1.2)


async def test_a_prefix_is_cached_for_one_salt_only_and_shortens_the_prefill(
    make: Callable[..., Any], time: Time
) -> None:
    engine = await make()
    took, cached = [], []
    for salt in ("a", "a", "b"):
        began = time.now
        _, _, usage = await ask(engine, COMPLETIONS, {"prompt": "x" * 1280, "max_tokens": 1}, salt=salt)
        took.append(time.now - began)
        cached.append(usage.cached_tokens)
    assert cached == [0, 319, 0], "all but the last token, which is always computed; another salt shares nothing"
    assert took[1] == pytest.approx(0.010 + 1 / 1000)
    assert took[0] == took[2] == pytest.approx(0.010 + 0.320)


async def test_a_full_kv_cache_makes_requests_wait(make: Callable[..., Any]) -> None:
    engine = await make()
    big = {"prompt": "x" * 4000, "max_tokens": 1500}
    async with AsyncExitStack() as stack:
        replies: list[Reply] = []
        for _ in range(2):
            call = prepare(path=COMPLETIONS, body=json.dumps(big).encode(), pool="tiny", cache_salt="", priority=0)
            replies.append(await stack.enter_async_context(engine.generate(call)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        load = engine.load()
        assert (load.running, load.waiting) == (1, 1), "2,500 tokens twice do not fit 4,096"
        assert load.kv_cache_usage == pytest.approx(2500 / 4096)
        assert load.owed == 2, "both still wait for something"
    await asyncio.sleep(0)
    load = engine.load()
    assert load == type(load)(waiting=0, running=0, kv_cache_usage=0.0, steps=load.steps), "all is given back"


async def test_a_lower_priority_number_goes_first(make: Callable[..., Any]) -> None:
    engine = await make(costs=SyntheticCosts(max_num_seqs=1, step_s=0.001))
    order: list[str] = []

    async def run(name: str, priority: int) -> None:
        await ask(engine, COMPLETIONS, {"prompt": name, "max_tokens": 3}, priority=priority)
        order.append(name)

    async with asyncio.TaskGroup() as tasks:
        for name, priority in (("first", 0), ("late", 5), ("soon", -5)):
            tasks.create_task(run(name, priority))
    assert order == ["soon", "first", "late"]


async def test_an_idle_engine_runs_no_task(make: Callable[..., Any]) -> None:
    engine = await make()
    before = asyncio.all_tasks()
    await ask(engine, COMPLETIONS, {"prompt": "x", "max_tokens": 2})
    for _ in range(5):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == before, "two hundred idle engines must cost nothing"


@given(st.text(max_size=200))
def test_tokens_join_to_the_text(text: str) -> None:
    assert b"".join(tokenize(text)) == text.encode("utf-8", "surrogatepass")
    assert sum(value * value for value in embedding(text, 0)) == pytest.approx(1.0)


@given(st.text(max_size=400), st.text(max_size=400))
def test_blocks_are_shared_exactly_as_far_as_prompts_are(one: str, other: str) -> None:
    first, second = tokenize(one), tokenize(other)
    equal = 0
    for left, right in zip(first, second, strict=False):
        if left != right:
            break
        equal += 1
    blocks = list(zip(prompt_blocks(first, "s"), prompt_blocks(second, "s"), strict=False))
    shared = sum(left == right for left, right in blocks)
    assert shared == min(equal // BLOCK_TOKENS, len(blocks))
    assert not set(prompt_blocks(first, "s")) & set(prompt_blocks(first, "t")), "another salt shares no block"
