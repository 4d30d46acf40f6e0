"""The synthetic engine's cost model: a continuous-batching scheduler with made-up but documented costs.

One step at a time, as real engines go:

1. Waiting requests are admitted in order of (priority, arrival) while fewer than `max_num_seqs` run and their
   prompt and longest answer fit the KV cache; the first that does not fit blocks those behind it.
2. Prompts are prefilled in chunks of at most `chunk_tokens` uncached tokens a step, oldest first. A token is cached
   when its whole 16-token block, with all before it and the same salt, was prefilled before and is still kept.
3. The step takes `step_s + per_sequence_s * (running - 1) + prefilled tokens / prefill_tokens_per_s`.
4. Every prefilled request then gets one token.

Nothing is random and nothing looks at a clock: time passes only in the `sleep` that is given.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

BLOCK_TOKENS: Final = 16
"""Tokens a block of KV cache, vLLM's customary size."""

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticCosts:
    """The model's constants. As given: near an 8-billion-parameter model on one L40S, in shape rather than in proof."""

    prefill_tokens_per_s: float = 8000.0
    step_s: float = 0.012
    per_sequence_s: float = 0.0003
    chunk_tokens: int = 2048
    kv_cache_tokens: int = 131_072
    max_num_seqs: int = 64

    def step(self, *, running: int, prefilled: int) -> float:
        """Seconds that one step takes."""
        return self.step_s + self.per_sequence_s * max(running - 1, 0) + prefilled / self.prefill_tokens_per_s


@dataclass(slots=True, eq=False)
class Sequence:
    """One request in the scheduler."""

    prompt_tokens: int
    max_tokens: int
    blocks: tuple[bytes, ...] = field(repr=False)
    cached_tokens: int = 0
    prefilled: int = 0
    generated: int = 0
    started: bool = False
    steps: asyncio.Queue[int] = field(default_factory=asyncio.Queue, repr=False)

    @property
    def reserved(self) -> int:
        """Tokens of KV cache that it may come to need: there is no preemption, so they are set aside at once."""
        return self.prompt_tokens + self.max_tokens

    @property
    def unfilled(self) -> int:
        """Prompt tokens that no step has prefilled yet."""
        return self.prompt_tokens - self.cached_tokens - self.prefilled


class PromptTooLongError(Exception):
    """A request that could never fit the KV cache; `limit` is the most that does."""

    def __init__(self, limit: int) -> None:
        """Name the limit in tokens."""
        super().__init__(f"prompt and answer together may have at most {limit} tokens")
        self.limit = limit


class Scheduler:
    """Runs the cost model for one engine; its task exists only while there is work."""

    def __init__(self, costs: SyntheticCosts, *, sleep: Sleep) -> None:
        """`sleep` makes time pass."""
        self._costs = costs
        self._sleep = sleep
        self._waiting: list[tuple[int, int, Sequence]] = []
        self._running: dict[Sequence, None] = {}
        self._arrivals = itertools.count()
        self._reserved = 0
        self._prefix: OrderedDict[bytes, None] = OrderedDict()
        self._task: asyncio.Task[None] | None = None
        self.steps = 0

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests in the batch."""
        return len(self._running)

    @property
    def kv_cache_usage(self) -> float:
        """Part of the KV cache that running requests have set aside."""
        return self._reserved / self._costs.kv_cache_tokens

    @asynccontextmanager
    async def run(self, sequence: Sequence, *, priority: int) -> AsyncIterator[Sequence]:
        """Queue a request; `tokens` of it then come as steps make them. Leaving removes it, finished or not.

        Raises `PromptTooLongError`.
        """
        if sequence.reserved > self._costs.kv_cache_tokens:
            raise PromptTooLongError(self._costs.kv_cache_tokens)
        heapq.heappush(self._waiting, (priority, next(self._arrivals), sequence))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._loop(), name="synthetic-steps")
        try:
            yield sequence
        finally:
            self._remove(sequence)

    async def close(self) -> None:
        """Stop stepping."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _loop(self) -> None:
        while self._waiting or self._running:
            self._admit()
            prefilled = self._prefill()
            await self._sleep(self._costs.step(running=len(self._running), prefilled=prefilled))
            self.steps += 1
            for sequence in list(self._running):
                if sequence.unfilled == 0 and sequence.generated < sequence.max_tokens:
                    self._keep(sequence)
                    sequence.generated += 1
                    sequence.steps.put_nowait(sequence.generated)
                if sequence.generated >= sequence.max_tokens and sequence.unfilled == 0:
                    self._remove(sequence)

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._costs.max_num_seqs:
            sequence = self._waiting[0][2]
            if self._reserved + sequence.reserved > self._costs.kv_cache_tokens:
                return
            heapq.heappop(self._waiting)
            self._reserved += sequence.reserved
            sequence.cached_tokens = self._cached(sequence)
            sequence.started = True
            self._running[sequence] = None

    def _prefill(self) -> int:
        """Spend one step's chunk on the oldest prompts; return the tokens prefilled."""
        left = self._costs.chunk_tokens
        for sequence in self._running:
            share = min(left, sequence.unfilled)
            sequence.prefilled += share
            left -= share
        return self._costs.chunk_tokens - left

    def _cached(self, sequence: Sequence) -> int:
        """Tokens of the prompt whose blocks are kept, from the first on; the last token is always computed."""
        kept = 0
        for block in sequence.blocks:
            if block not in self._prefix:
                break
            self._prefix.move_to_end(block)
            kept += 1
        return min(kept * BLOCK_TOKENS, max(sequence.prompt_tokens - 1, 0))

    def _keep(self, sequence: Sequence) -> None:
        """Keep a prefilled prompt's blocks, and let the longest unused go where there is no room."""
        if sequence.generated:
            return
        for block in sequence.blocks:
            self._prefix[block] = None
            self._prefix.move_to_end(block)
        room = max(self._costs.kv_cache_tokens - self._reserved, 0) // BLOCK_TOKENS
        while len(self._prefix) > room:
            self._prefix.popitem(last=False)

    def _remove(self, sequence: Sequence) -> None:
        if sequence in self._running:
            del self._running[sequence]
            self._reserved -= sequence.reserved
        elif not sequence.started:
            self._waiting = [entry for entry in self._waiting if entry[2] is not sequence]
            heapq.heapify(self._waiting)


def prompt_blocks(tokens: list[bytes], salt: str) -> tuple[bytes, ...]:
    """Chained digests of the prompt's whole blocks: equal only for the same salt and everything before."""
    digest, blocks = hashlib.blake2b(salt.encode(), digest_size=16).digest(), []
    for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        content = b"\0".join(tokens[start : start + BLOCK_TOKENS])
        digest = hashlib.blake2b(content, key=digest, digest_size=16).digest()
        blocks.append(digest)
    return tuple(blocks)
