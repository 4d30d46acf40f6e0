"""The part of the vLLM engine that imports vLLM: arguments, engine process, serving layer, counters.

Imported only by `vllm_engine`, in the process that runs an engine.
"""

from __future__ import annotations

import contextvars
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final, Self

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.metrics.loggers import StatLoggerBase

from dataplane.worker.asgi import Application
from dataplane.worker.engine import EngineError, GpuMemory, Usage
from dataplane.worker.parent_death import children_die_with_us
from dataplane.worker.pool import Pool
from dataplane.worker.prepare import PATHS
from dataplane.worker.vllm_engine import ALWAYS, VllmOptions

MIB: Final = 1024 * 1024

SERVED: Final = {"generate": ("/v1/chat/completions", "/v1/completions"), "embed": ("/v1/embeddings",)}
"""The paths that each of vLLM's tasks stands for; others of its many endpoints are never called."""

METER: contextvars.ContextVar[Meter | None] = contextvars.ContextVar("mrgc_meter", default=None)
"""The meter of the request that the current task serves; tasks that it starts inherit it."""

children_die_with_us()


@dataclass(slots=True)
class Figures:
    """The scheduler's state at its last step; `steps` and `owed` as in `EngineLoad`."""

    waiting: int = 0
    running: int = 0
    kv_cache_usage: float = 0.0
    steps: int = 0
    owed: int = 0


@dataclass(slots=True)
class Meter:
    """Counts one request's tokens from the engine's own outputs, so nothing is added to what the tenant sees."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    ran: bool = False
    failed: bool = False
    figures: Figures = field(default_factory=Figures, repr=False)

    def usage(self) -> Usage | None:
        """The counts, or None where nothing reached the engine."""
        if not self.ran:
            return None
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_tokens=self.cached_tokens,
        )


@dataclass(slots=True)
class _Sequence:
    """Counts one engine request (an API request may make several) into its meter."""

    meter: Meter
    deltas: bool
    owed: bool = False
    prompt: int = 0
    cached: int = 0
    made: dict[int, int] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.owed = True
        self.meter.figures.owed += 1
        return self

    def __exit__(self, *_: object) -> None:
        """Owe nothing any more, whether it was answered or given up."""
        if self.owed:
            self.owed = False
            self.meter.figures.owed -= 1

    def count(self, output: Any) -> None:
        """Add one output of a generation; figures that the engine repeats are not counted twice."""
        self.count_prompt(output)
        for choice in output.outputs:
            made, before = len(choice.token_ids), self.made.get(choice.index, 0)
            total = before + made if self.deltas else max(before, made)
            self.made[choice.index] = total
            self.meter.completion_tokens += total - before

    def count_prompt(self, output: Any) -> None:
        """Add one output's prompt, which is all that an embedding has."""
        meter, prompt = self.meter, len(output.prompt_token_ids or ())
        cached = int(getattr(output, "num_cached_tokens", 0) or 0)
        meter.ran = True
        meter.figures.steps += 1
        if output.finished:
            self.__exit__()
        meter.prompt_tokens += max(prompt - self.prompt, 0)
        meter.cached_tokens += max(cached - self.cached, 0)
        self.prompt, self.cached = max(prompt, self.prompt), max(cached, self.cached)


class MeteredLLM(AsyncLLM):  # type: ignore[misc]  # vLLM publishes no types here
    """vLLM's engine client, which counts tokens and engine failures into the current meter."""

    async def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[Any, None]:
        """As vLLM's own; closing it aborts the request in the engine."""
        meter = METER.get() or Meter()
        sequence = _Sequence(meter, deltas=sampling_params.output_kind == RequestOutputKind.DELTA)
        try:
            with sequence:
                async with aclosing(super().generate(prompt, sampling_params, request_id, **options)) as outputs:
                    async for output in outputs:
                        sequence.count(output)
                        yield output
        except (EngineDeadError, EngineGenerateError):
            meter.failed = True
            raise

    async def encode(
        self, prompt: Any, pooling_params: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[Any, None]:
        """As vLLM's own; closing it aborts the request in the engine."""
        meter = METER.get() or Meter()
        sequence = _Sequence(meter, deltas=False)
        try:
            with sequence:
                async with aclosing(super().encode(prompt, pooling_params, request_id, **options)) as outputs:
                    async for output in outputs:
                        sequence.count_prompt(output)
                        yield output
        except (EngineDeadError, EngineGenerateError):
            meter.failed = True
            raise


class Runtime:
    """One engine process, the client that talks to it, and the application that serves it."""

    def __init__(self, llm: Any, arguments: Any, figures: Figures) -> None:
        """Made by `start`."""
        self.figures = figures
        self._llm = llm
        self._arguments = arguments
        self._application: Application | None = None
        self.paths: tuple[str, ...] = ()

    @property
    def application(self) -> Application:
        """The OpenAI server of this engine; only after `build`."""
        if self._application is None:
            raise RuntimeError("the serving layer was not built")
        return self._application

    @property
    def capacity(self) -> int:
        """Sequences that the scheduler runs at once."""
        return int(self._llm.vllm_config.scheduler_config.max_num_seqs)

    @property
    def dead(self) -> bool:
        """Whether the engine process is gone."""
        return bool(self._llm.errored)

    def meter(self) -> Meter:
        """Start counting for the request that the current task serves from here on."""
        meter = Meter(figures=self.figures)
        METER.set(meter)
        return meter

    async def build(self) -> None:
        """Build the serving layer, in the event loop that will run it."""
        await self._llm.reset_mm_cache()
        tasks = await self._llm.get_supported_tasks()
        application = build_app(self._arguments, tasks, self._llm.model_config)
        # vLLM asks the server to exit when its engine dies; ours watches the engine itself.
        application.state.server = SimpleNamespace(should_exit=False)
        await init_app_state(self._llm, application.state, self._arguments, tasks)
        self._application = application
        served = {path for task, paths in SERVED.items() if task in tasks for path in paths}
        self.paths = tuple(path for path in PATHS if path in served)

    def shutdown(self, timeout_s: float) -> None:
        """Stop the engine process; blocks for at most about `timeout_s` seconds."""
        self._llm.shutdown(timeout=timeout_s)


def start(pool: Pool, options: VllmOptions, *, fork: bool) -> Runtime:
    """Start an engine process for `pool`; blocks until it is ready. Raises whatever vLLM does."""
    arguments = _arguments(pool, options)
    config = AsyncEngineArgs.from_cli_args(arguments).create_engine_config()
    figures = Figures()

    class FigureLogger(StatLoggerBase):  # type: ignore[misc]  # vLLM publishes no types here
        """Keeps the scheduler's last figures."""

        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            del vllm_config, engine_index

        def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
            del iteration_stats
            figures.steps += 1
            if scheduler_stats is not None:
                figures.waiting = int(scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs)
                figures.running = int(scheduler_stats.num_running_reqs)
                figures.kv_cache_usage = float(scheduler_stats.kv_cache_usage)

        def log_engine_initialized(self) -> None:
            """Nothing to say."""

    if fork and current_platform.is_cpu():
        # vLLM's CPU platform insists on a fresh interpreter for OpenMP's sake; nothing has used OpenMP here yet.
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
    llm = MeteredLLM.from_vllm_config(
        config, stat_loggers=[FigureLogger], disable_log_stats=True, enable_log_requests=False
    )
    return Runtime(llm, arguments, figures)


def _arguments(pool: Pool, options: VllmOptions) -> Any:
    """What `vllm serve` would be given."""
    mine = pool.options
    words: list[str] = [
        *("--model", str(pool.path), "--served-model-name", pool.name, "--runner", mine.runner),
        *("--scheduling-policy", str(ALWAYS["scheduling_policy"]), "--no-trust-remote-code"),
        *("--gpu-memory-utilization", str(options.gpu_memory_utilization)),
        *("--disable-fastapi-docs", "--disable-log-stats"),
        *("--tensor-parallel-size", str(mine.tensor_parallel_size)),
    ]
    optional = {
        "--kv-cache-memory-bytes": options.kv_cache_memory_bytes,
        "--max-model-len": mine.max_model_len or options.max_model_len,
        "--max-num-seqs": mine.max_num_seqs or options.max_num_seqs,
        "--quantization": mine.quantization,
        "--tool-call-parser": mine.tool_call_parser,
        "--reasoning-parser": mine.reasoning_parser,
    }
    for name, value in optional.items():
        if value is not None:
            words += [name, str(value)]
    if mine.report_cached_tokens:
        words.append("--enable-prompt-tokens-details")
    if mine.tool_call_parser is not None:
        words.append("--enable-auto-tool-choice")
    if options.enforce_eager:
        words.append("--enforce-eager")
    if options.one_process:
        words += ["--distributed-executor-backend", "uni"]
    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(words)
    validate_parsed_serve_args(arguments)
    if arguments.trust_remote_code:
        raise EngineError("vLLM would run code from the model's folder, and the configuration says it never does.")
    return arguments


def gpu_memory() -> GpuMemory:
    """Sum NVML's figures over all GPUs that this process may see."""
    if not current_platform.is_cuda():
        return GpuMemory()
    from vllm.third_party import pynvml  # noqa: PLC0415 - only where there is a GPU

    total = used = 0
    try:
        pynvml.nvmlInit()
        try:
            for index in range(pynvml.nvmlDeviceGetCount()):
                memory = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index))
                total, used = total + int(memory.total), used + int(memory.used)
        finally:
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return GpuMemory()
    return GpuMemory(available=total > 0, total_mb=total // MIB, used_mb=used // MIB)
