"""The synthetic engine: for load and fault tests, where tokens must cost time and memory and mean nothing.

OpenAI-compatible chat, completions and embeddings, streamed or whole. The text is a function of (seed, prompt) alone;
when its tokens come follows the cost model of `synthetic_cost`. It says what it is: `system_fingerprint` begins with
`synthetic`, and the worker names the engine in every answer. A token is a run of up to four UTF-8 bytes. What a real
model would be needed for (tools, structured output, logprobs, n over 1) is refused rather than imitated.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import math
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

from dataplane.worker.engine import EngineCall, EngineLoad, GpuMemory, Reply, Usage
from dataplane.worker.pool import Pool
from dataplane.worker.prepare import InnerError
from stacks.local.synthetic_cost import (
    PromptTooLongError,
    Scheduler,
    Sequence,
    Sleep,
    SyntheticCosts,
    prompt_blocks,
)

VERSION: Final = "1"
TOKEN_BYTES: Final = 4
EMBEDDING_WIDTH: Final = 64
DEFAULT_TOKENS: Final = 64
"""Length of an answer that was given no limit; one that was given a limit is exactly that long."""

MAX_TOKENS: Final = 16_384
MAX_INPUTS: Final = 256
"""Texts of one embeddings or completions request."""

WORDS: Final = (
    "amber",
    "basin",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "harbor",
    "inlet",
    "jetty",
    "kelp",
    "lagoon",
    "meadow",
    "nectar",
    "orchard",
    "pebble",
    "quarry",
    "river",
    "summit",
    "tundra",
    "umber",
    "valley",
    "willow",
    "xenon",
    "yarrow",
    "zephyr",
)
REFUSED: Final = ("tools", "functions", "logprobs", "top_logprobs", "prompt_logprobs", "response_format", "audio")
SSE: Final = "text/event-stream; charset=utf-8"
JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a generation request asks for, checked."""

    prompt: str
    max_tokens: int
    reason: str
    stream: bool
    usage_event: bool


class SyntheticFactory:
    """Makes synthetic engines; any pool that exists will do, its weights are not read beyond their digest."""

    kind = "synthetic"
    version = VERSION

    def __init__(
        self,
        *,
        seed: int = 0,
        costs: SyntheticCosts | None = None,
        clock_ms: Callable[[], int],
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """`sleep` makes the model's time pass; `clock_ms` only dates answers."""
        self._seed = seed
        self._costs = costs or SyntheticCosts()
        self._clock_ms = clock_ms
        self._sleep = sleep

    @property
    def options(self) -> Mapping[str, object]:
        """Seed and costs: all that shapes the answers."""
        return {"seed": self._seed, **asdict(self._costs)}

    async def load(self, pool: Pool) -> SyntheticEngine:
        """Return a ready engine."""
        return SyntheticEngine(
            pool.name,
            seed=self._seed,
            costs=self._costs,
            clock_ms=self._clock_ms,
            sleep=self._sleep,
            report_cached=pool.options.report_cached_tokens,
        )

    def gpu(self) -> GpuMemory:
        """There is none."""
        return GpuMemory()

    async def close(self) -> None:
        """Nothing is held."""


class SyntheticEngine:
    """One synthetic model."""

    def __init__(
        self,
        model: str,
        *,
        seed: int,
        costs: SyntheticCosts,
        clock_ms: Callable[[], int],
        sleep: Sleep,
        report_cached: bool,
    ) -> None:
        """`model` is what answers call themselves; they tell cached tokens where `report_cached` says so."""
        self._report_cached = report_cached
        self._model = model
        self._seed = seed
        self._costs = costs
        self._clock_ms = clock_ms
        self._scheduler = Scheduler(costs, sleep=sleep)

    @property
    def capacity(self) -> int:
        """Requests in one batch."""
        return self._costs.max_num_seqs

    def load(self) -> EngineLoad:
        """The scheduler's figures."""
        scheduler = self._scheduler
        return EngineLoad(
            waiting=scheduler.waiting,
            running=scheduler.running,
            kv_cache_usage=scheduler.kv_cache_usage,
            steps=scheduler.steps,
            owed=scheduler.waiting + scheduler.running,
        )

    async def wait_failed(self) -> str:
        """Wait for ever: this engine has nothing that could die before its process does."""
        await asyncio.Event().wait()
        return ""

    async def close(self) -> None:
        """Stop stepping."""
        await self._scheduler.close()

    @asynccontextmanager
    async def generate(self, call: EngineCall) -> AsyncIterator[Reply]:
        """Run one request; see `Engine.generate`."""
        async with AsyncExitStack() as stack:
            try:
                reply = await self._start(call.path, json.loads(call.body), stack)
            except InnerError as error:
                reply = _refusal(error)
            except PromptTooLongError as error:
                sentence = f"The synthetic engine's KV cache: {error}."
                reply = _refusal(InnerError(400, sentence, code="context_length_exceeded"))
            yield reply

    async def _start(self, path: str, request: dict[str, Any], stack: AsyncExitStack) -> Reply:
        """Check a request and put it into the scheduler, until `stack` is left."""
        _refuse_imitations(request)
        if path == "/v1/embeddings":
            return self._embed(request)
        chat = path == "/v1/chat/completions"
        wish = _wish(request, _chat_prompt(request) if chat else _completion_prompt(request))
        tokens = tokenize(wish.prompt)
        blocks = prompt_blocks(tokens, str(request.get("cache_salt", "")))
        sequence = Sequence(len(tokens), wish.max_tokens, blocks)
        await stack.enter_async_context(self._scheduler.run(sequence, priority=int(request.get("priority", 0))))
        writer = _Writer(
            self._model,
            wish,
            chat=chat,
            identity=self._identity(wish),
            clock_ms=self._clock_ms,
            report_cached=self._report_cached,
        )
        return Reply(
            status=200,
            content_type=SSE if wish.stream else JSON,
            body=writer.body(self._text(wish.prompt, sequence), sequence),
            usage=lambda: usage_of(sequence),
        )

    async def _text(self, prompt: str, sequence: Sequence) -> AsyncIterator[str]:
        """The answer's tokens, each when its step has passed."""
        state = hashlib.blake2b(prompt.encode(), key=self._seed.to_bytes(8), digest_size=32).digest()
        while sequence.generated < sequence.max_tokens or not sequence.steps.empty():
            number = await sequence.steps.get()
            state = hashlib.blake2b(state, digest_size=32).digest()
            word = WORDS[int.from_bytes(state[:4]) % len(WORDS)]
            yield word if number == 1 else f" {word}"

    def _identity(self, wish: Wish) -> str:
        return hashlib.blake2b(wish.prompt.encode(), key=self._seed.to_bytes(8), digest_size=8).hexdigest()

    def _embed(self, request: dict[str, Any]) -> Reply:
        texts = request.get("input")
        texts = [texts] if isinstance(texts, str) else texts
        if (
            not isinstance(texts, list)
            or not 0 < len(texts) <= MAX_INPUTS
            or not all(isinstance(t, str) for t in texts)
        ):
            raise InnerError(400, f"input must be a text, or up to {MAX_INPUTS} texts.", param="input")
        encoding = request.get("encoding_format", "float")
        if encoding not in ("float", "base64"):
            raise InnerError(400, "encoding_format must be float or base64.", param="encoding_format")
        data = []
        for index, text in enumerate(texts):
            vector = embedding(text, self._seed)
            packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            data.append(
                {"object": "embedding", "index": index, "embedding": packed if encoding == "base64" else vector}
            )
        count = sum(len(tokenize(text)) for text in texts)
        usage = Usage(prompt_tokens=count, completion_tokens=0, cached_tokens=0)
        body = {
            "object": "list",
            "model": self._model,
            "data": data,
            "usage": {"prompt_tokens": count, "total_tokens": count},
        }
        return Reply(status=200, content_type=JSON, body=_once(_json(body)), usage=lambda: usage)


class _Writer:
    """Writes one answer in the shape of chat or completions, whole or as server-sent events."""

    def __init__(
        self,
        model: str,
        wish: Wish,
        *,
        chat: bool,
        identity: str,
        clock_ms: Callable[[], int],
        report_cached: bool,
    ) -> None:
        self._wish = wish
        self._report_cached = report_cached
        self._chat = chat
        prefix, kind = ("chatcmpl", "chat.completion") if chat else ("cmpl", "text_completion")
        self._common = {
            "id": f"{prefix}-{identity}",
            "object": f"{kind}.chunk" if chat and wish.stream else kind,
            "created": clock_ms() // 1000,
            "model": model,
            "system_fingerprint": f"synthetic-{VERSION}",
        }

    async def body(self, tokens: AsyncIterator[str], sequence: Sequence) -> AsyncIterator[bytes]:
        if not self._wish.stream:
            text = "".join([token async for token in tokens])
            yield _json(self._common | {"choices": [self._whole(text)], "usage": self._usage(sequence)})
            return
        first = True
        async for token in tokens:
            if first and self._chat:
                yield self._event([self._piece({"role": "assistant", "content": ""}, None)])
            first = False
            yield self._event([self._piece({"content": token}, None)])
        yield self._event([self._piece({"content": ""} if not self._chat else {}, self._wish.reason)])
        if self._wish.usage_event:
            yield self._event([], usage=self._usage(sequence))
        yield b"data: [DONE]\n\n"

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return b"data: " + _json(self._common | {"choices": choices} | more) + b"\n\n"

    def _usage(self, sequence: Sequence) -> dict[str, Any]:
        """Usage as vLLM writes it, with or without its prompt tokens' details."""
        counts: dict[str, Any] = {
            "prompt_tokens": sequence.prompt_tokens,
            "completion_tokens": sequence.generated,
            "total_tokens": sequence.prompt_tokens + sequence.generated,
        }
        if self._report_cached:
            counts["prompt_tokens_details"] = {"cached_tokens": sequence.cached_tokens}
        return counts

    def _piece(self, delta: dict[str, str], reason: str | None) -> dict[str, Any]:
        content: dict[str, Any] = {"delta": delta} if self._chat else {"text": delta["content"]}
        return {"index": 0, "logprobs": None, "finish_reason": reason} | content

    def _whole(self, text: str) -> dict[str, Any]:
        message = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        return {"index": 0, "logprobs": None, "finish_reason": self._wish.reason} | message


def tokenize(text: str) -> list[bytes]:
    """Cut a text into runs of up to four bytes of UTF-8."""
    data = text.encode("utf-8", "surrogatepass")
    return [data[start : start + TOKEN_BYTES] for start in range(0, len(data), TOKEN_BYTES)] or [b""]


def embedding(text: str, seed: int) -> list[float]:
    """A unit vector that is a function of (seed, text)."""
    raw = hashlib.shake_256(seed.to_bytes(8) + text.encode()).digest(EMBEDDING_WIDTH * 2)
    values = [number / 32768 for number in struct.unpack(f"<{EMBEDDING_WIDTH}h", raw)]
    norm = math.sqrt(sum(value * value for value in values)) or 1.0
    return [struct.unpack("<f", struct.pack("<f", value / norm))[0] for value in values]


def usage_of(sequence: Sequence) -> Usage:
    """The tokens of one request so far."""
    return Usage(
        prompt_tokens=sequence.prompt_tokens,
        completion_tokens=sequence.generated,
        cached_tokens=sequence.cached_tokens,
    )


def _refuse_imitations(request: dict[str, Any]) -> None:
    for name in REFUSED:
        if request.get(name):
            raise InnerError(400, f"The synthetic engine does not do {name!r}.", param=name)


def _refusal(error: InnerError) -> Reply:
    return Reply(status=error.status, content_type=JSON, body=_once(error.body), usage=lambda: None)


def _wish(request: dict[str, Any], prompt: str) -> Wish:
    given = request.get("max_completion_tokens") or request.get("max_tokens")
    if given is not None and (type(given) is not int or not 0 < given <= MAX_TOKENS):
        raise InnerError(400, f"max_tokens must be from 1 to {MAX_TOKENS}.", param="max_tokens")
    if request.get("n", 1) not in (None, 1):
        raise InnerError(400, "The synthetic engine makes one choice only.", param="n")
    options = request.get("stream_options") or {}
    if not isinstance(options, dict):
        raise InnerError(400, "stream_options must be an object.", param="stream_options")
    return Wish(
        prompt=prompt,
        max_tokens=given if given is not None else DEFAULT_TOKENS,
        reason="length" if given is not None else "stop",
        stream=request.get("stream") is True,
        usage_event=options.get("include_usage") is True,
    )


def _chat_prompt(request: dict[str, Any]) -> str:
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InnerError(400, "messages must be a list with at least one message.", param="messages")
    lines = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InnerError(400, "Every message needs a role.", param="messages")
        lines.append(f"{message['role']}\n{_content(message.get('content'))}\n")
    return "".join(lines)


def _content(content: Any) -> str:
    """A message's text, given as such or in parts."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list) else [content]
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
        raise InnerError(400, "The synthetic engine reads text only.", param="messages")
    return "".join(part["text"] for part in parts)


def _completion_prompt(request: dict[str, Any]) -> str:
    prompt = request.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise InnerError(400, "prompt must be one text.", param="prompt")
    return prompt


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
