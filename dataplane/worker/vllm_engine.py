"""vLLM in process: its own OpenAI serving layer, called as an ASGI application, with tokens counted at the engine.

vLLM 0.32. Nothing here imports vLLM before an engine is loaded, so that the rest of the worker can be tested without.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.metadata
import logging
import os
from collections.abc import AsyncIterator, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from dataplane.worker.asgi import AsgiCall
from dataplane.worker.engine import (
    EngineCall,
    EngineError,
    EngineLoad,
    EngineOverloadedError,
    GpuMemory,
    Reply,
    Usage,
)
from dataplane.worker.pool import Pool
from dataplane.worker.prepare import InnerError

if TYPE_CHECKING:
    from dataplane.worker.vllm_runtime import Runtime

POLL_S: Final = 0.25
"""How often vLLM is asked whether its engine process is alive; it learns of a death at once and tells nobody."""

SHUTDOWN_S: Final = 15.0
"""Longest an engine may take to stop; then its process is killed with this one."""

OFFLINE: Final = {
    # The worker has no network: nothing may try one, or wait for it.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Set whatever the environment says, which whoever runs the host writes: no download, and no tensor on a network."""

QUIET: Final = {
    # This file gives vLLM no handler of its own, so that its records come to `LogGuard`, and silences the one logger
    # that writes lengths of running prompts when an engine's step fails, in a process that no guard reaches.
    "VLLM_CONFIGURE_LOGGING": "1",
    "VLLM_LOGGING_CONFIG_PATH": str(Path(__file__).with_name("vllm_logging.json")),
    "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": "False",
    "VLLM_TRACE_FUNCTION": "0",
    "VLLM_LOG_BATCHSIZE_INTERVAL": "-1",
    "VLLM_SERVER_DEV_MODE": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
}
"""Set whatever the environment says: who runs the host writes it, and none of these may make vLLM tell of requests."""

NEVER: Final = ("VLLM_DEBUG_DUMP_PATH", "VLLM_TORCH_PROFILER_DIR", "VLLM_API_KEY", "TORCH_LOGS", "TORCH_TRACE")
"""Removed: dumps and profiles hold what requests held."""

ALWAYS: Final[Mapping[str, object]] = MappingProxyType(
    {"scheduling_policy": "priority", "prefix_caching": "salted", "log_requests": False, "trust_remote_code": False}
)
"""What no pool and no host may choose: every request has the enclave's cache salt, so no block is shared across salts;
nothing of a request is logged; Python files in a model's folder are data and no code."""

GUARDED: Final = ("vllm", "torch", "transformers")
"""Libraries whose log records may quote what they were given."""

HTTP_SERVER_ERROR: Final = 500
HTTP_UNAVAILABLE: Final = 503


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmOptions:
    """What the host decides for every pool; a pool's own options win where both speak."""

    gpu_memory_utilization: float = 0.90
    kv_cache_memory_bytes: int | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    enforce_eager: bool = False
    one_process: bool = False
    """Run scheduler and model in one child process: for a CPU, where vLLM would start two."""


class LogGuard(logging.Filter):
    """Reduces the engine's records to where they were made, once requests are served: their text may quote a message.

    It sits on the handlers, because a logger's filter sees only that logger's own records.
    """

    def __init__(self) -> None:
        """Let everything through until `serving` is set."""
        super().__init__()
        self.serving = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record; it is never dropped."""
        if self.serving and record.name.partition(".")[0] in GUARDED:
            kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
            record.msg, record.args = f"{record.levelname} at {record.module}:{record.lineno} {kind}".rstrip(), ()
            record.exc_info = record.exc_text = record.stack_info = None
        return True


class VllmFactory:
    """Starts one vLLM engine per pool."""

    kind = "vllm"

    def __init__(self, *, options: VllmOptions, environ: MutableMapping[str, str] = os.environ) -> None:
        """Take the process offline and keep it from recording, as vLLM and what it imports understand it."""
        environ.update(OFFLINE)
        environ.update(QUIET)
        for name in NEVER:
            environ.pop(name, None)
        self._options = options
        self._guard = LogGuard()
        self._first = True
        # One thread, as old as the process: engine processes die with the thread that started them.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="vllm-loader")

    @property
    def version(self) -> str:
        """The installed vLLM's version; raises `EngineError` without one."""
        try:
            return importlib.metadata.version("vllm")
        except importlib.metadata.PackageNotFoundError:
            raise EngineError("vLLM is not installed in this environment; install it, or run `make engine`.") from None

    @property
    def options(self) -> Mapping[str, object]:
        """The host's options, and what is the same for every pool (`vllm_runtime` gives it to vLLM)."""
        return {**ALWAYS, **dataclasses.asdict(self._options)}

    async def load(self, pool: Pool) -> VllmEngine:
        """Start the engine's process and build the serving layer; raises `EngineError`."""
        loop = asyncio.get_running_loop()
        own, level = logging.getLogger(), logging.getLogger().level
        self._guard.serving = False
        try:
            runtime = await loop.run_in_executor(self._executor, self._start, pool)
        except Exception as error:
            raise EngineError(f"vLLM could not load pool {pool.name}: {_sentence(error)}") from error
        finally:
            self._guard.serving = True
        engine = VllmEngine(runtime, self._executor)
        try:
            await runtime.build()
        except BaseException as error:
            await engine.close()
            if isinstance(error, Exception):
                raise EngineError(f"vLLM could not serve pool {pool.name}: {_sentence(error)}") from error
            raise
        finally:
            own.setLevel(level)  # vLLM's serving layer raises it, and this worker would say nothing any more
        return engine

    def gpu(self) -> GpuMemory:
        """Memory of all NVIDIA GPUs by NVML; nothing where there is none, or before the first load."""
        if self._first:
            return GpuMemory()
        from dataplane.worker import vllm_runtime  # noqa: PLC0415 - see the module's docstring

        return vllm_runtime.gpu_memory()

    async def close(self) -> None:
        """Let the loader thread end; engine processes that are still there end with it."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _start(self, pool: Pool) -> Runtime:
        """In the loader thread: import vLLM the first time, then start the engine."""
        # On a CPU vLLM warns of all that it would rather have; there is no news in it.
        least = logging.ERROR if self._options.one_process else logging.WARNING
        for name in GUARDED:
            logging.getLogger(name).setLevel(max(least, logging.getLogger().getEffectiveLevel()))
        for handler in logging.getLogger().handlers:
            handler.addFilter(self._guard)  # adding it twice is adding it once
        from dataplane.worker import vllm_runtime  # noqa: PLC0415 - see the module's docstring

        # Forking is only safe while this process has served nothing; it saves a CPU's worth of imports.
        fork, self._first = self._first and self._options.one_process, False
        return vllm_runtime.start(pool, self._options, fork=fork)


class VllmEngine:
    """One loaded model in vLLM."""

    def __init__(self, runtime: Runtime, executor: ThreadPoolExecutor) -> None:
        """Made by `VllmFactory.load`."""
        self._runtime = runtime
        self._executor = executor
        self._in_flight = 0
        self._closed = False

    @property
    def capacity(self) -> int:
        """The engine's `max_num_seqs`."""
        return self._runtime.capacity

    @asynccontextmanager
    async def generate(self, call: EngineCall) -> AsyncIterator[Reply]:
        """Run one request through vLLM's OpenAI server; see `Engine.generate`."""
        runtime = self._runtime
        if call.path not in runtime.paths:
            raise InnerError(
                400,
                f"This model pool does not serve {call.path}; it serves {', '.join(runtime.paths)}.",
                code="not_served",
            )
        meter = runtime.meter()
        self._in_flight += 1
        try:
            async with AsgiCall(runtime.application, path=call.path, body=call.body) as asgi:
                status, content_type = await asgi.head()
                if status == HTTP_UNAVAILABLE:
                    raise EngineOverloadedError("The engine's queue is full.")
                if status >= HTTP_SERVER_ERROR or meter.failed or runtime.dead:
                    raise EngineError(f"The engine failed with status {status} before it answered.")

                async def body() -> AsyncIterator[bytes]:
                    async for chunk in asgi.body():
                        # vLLM writes an error event and ends the stream as if all were well.
                        if meter.failed:
                            raise EngineError("The engine failed while it answered.")
                        yield chunk

                def usage() -> Usage | None:
                    return meter.usage()

                yield Reply(status=status, content_type=content_type, body=body(), usage=usage)
        finally:
            self._in_flight -= 1

    def load(self) -> EngineLoad:
        """The scheduler's figures as of its last step; none follows an abort, so an idle engine has zeros."""
        figures = self._runtime.figures
        if self._in_flight == 0:
            return EngineLoad(waiting=0, running=0, kv_cache_usage=0.0, steps=figures.steps)
        return EngineLoad(
            waiting=figures.waiting,
            running=figures.running,
            kv_cache_usage=figures.kv_cache_usage,
            steps=figures.steps,
            owed=figures.owed,
        )

    async def wait_failed(self) -> str:
        """Wait until vLLM finds its engine process dead."""
        # vLLM keeps a flag and no event.
        while self._closed or not self._runtime.dead:  # noqa: ASYNC110 - see above
            await asyncio.sleep(POLL_S)
        return "vLLM's engine process ended."

    async def close(self) -> None:
        """Stop the engine's process."""
        if self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._executor, self._runtime.shutdown, SHUTDOWN_S)


def _sentence(error: BaseException) -> str:
    """The first line of an error at load time, when no request's text can be in it."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'}"
