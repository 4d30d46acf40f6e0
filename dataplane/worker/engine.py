"""What the worker asks of an inference engine, and nothing about any one of them.

An engine serves one model pool. It takes an OpenAI-compatible request as path and JSON, and gives status, content type
and body as they come. Leaving the context of `generate` before the body's end aborts the request in the engine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from dataplane.protocol.errors import MrgcError

if TYPE_CHECKING:
    from dataplane.worker.pool import Pool


class EngineError(MrgcError):
    """The engine itself failed (not the request): it died, or broke off an answer."""


class EngineOverloadedError(MrgcError):
    """The engine's own admission refused the request before it began; another host may take it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one request, counted from the engine's outputs; `cached_tokens` came from the prefix cache."""

    prompt_tokens: int = field(repr=False)
    completion_tokens: int = field(repr=False)
    cached_tokens: int = field(repr=False)

    def as_map(self, *, cached: bool) -> dict[str, int]:
        """The map that the hop's tail carries; with `cached_tokens` only where the pool reports them."""
        told = {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}
        return told | {"cached_tokens": self.cached_tokens} if cached else told


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCall:
    """One request: an OpenAI path, and JSON that `prepare` has checked and completed."""

    path: str
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer. `usage` is final once `body` has ended; it is None where nothing was run (an error)."""

    status: int
    content_type: str
    body: AsyncIterator[bytes] = field(repr=False)
    usage: Callable[[], Usage | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """The engine's own figures: requests waiting and running, and the fraction (0 to 1) of KV cache in use.

    `steps` moves whenever the engine gets on with anything, and `owed` requests still wait for something of it: with
    `owed` above 0 and `steps` still, it hangs.
    """

    waiting: int
    running: int
    kv_cache_usage: float
    steps: int = 0
    owed: int = 0


class Engine(Protocol):
    """One loaded model."""

    @property
    def capacity(self) -> int:
        """Requests that it runs at once; beyond them they wait."""
        ...

    def generate(self, call: EngineCall) -> AbstractAsyncContextManager[Reply]:
        """Run one request.

        Entering raises `EngineOverloadedError` or `EngineError` before anything was answered; `body` raises
        `EngineError` when the engine breaks off. A request that the engine finds wrong is a `Reply` with its status, or
        an `InnerError` raised while entering.
        """
        ...

    def load(self) -> EngineLoad:
        """The engine's figures now."""
        ...

    async def wait_failed(self) -> str:
        """Wait until the engine is dead for good; return what happened, in one sentence."""
        ...

    async def close(self) -> None:
        """Stop the engine and free what it holds; idempotent."""
        ...


class EngineFactory(Protocol):
    """Loads engines of one kind."""

    @property
    def kind(self) -> str:
        """What a response says made it: `vllm` or `synthetic`."""
        ...

    @property
    def version(self) -> str:
        """The engine's version, part of the configuration digest."""
        ...

    @property
    def options(self) -> Mapping[str, object]:
        """What every engine of this factory runs with: texts, numbers, booleans and None; also part of that digest."""
        ...

    async def load(self, pool: Pool) -> Engine:
        """Load a pool's model; raises `EngineError` when that fails.

        The engine writes `cached_tokens` into a body only where `pool.options.report_cached_tokens` says so.
        """
        ...

    def gpu(self) -> GpuMemory:
        """What the host's accelerators say now."""
        ...

    async def close(self) -> None:
        """Free what the factory itself holds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMemory:
    """Memory of all GPUs of this host, in MiB; zeros where there is none."""

    available: bool = False
    total_mb: int = 0
    used_mb: int = 0

    @property
    def used_in_sixteenths_mb(self) -> int:
        """What is used, rounded up to a sixteenth of all: nothing is called free that is not."""
        used = min(max(self.used_mb, 0), self.total_mb)
        sixteenths = -(-16 * used // self.total_mb) if self.total_mb else 0
        return sixteenths * self.total_mb // 16
