"""Starts, watches and stops a cluster's processes. It restarts nothing: a crash is told, not hidden."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dataplane.protocol.errors import MrgcError
from stacks.local.procfs import MARKER, start_ticks, sweep

LEASH = Path(__file__).with_name("leash.py")
LOG_TAIL_LINES = 12
LOG_TAIL_BYTES = 8192
KILL_WAIT_S = 5.0

State = Literal["running", "crashed", "stopped"]


class SupervisorError(MrgcError):
    """A process that could not be started, or that ended before it was ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """How one process is started. `env` is added to the supervisor's own; it may hold secrets and is never shown."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    log: Path
    region: str = ""
    host: str = ""
    role: str = ""


@dataclass(slots=True, kw_only=True)
class Child:
    """One started process. `exit_code` is negative for a signal, as in `subprocess`."""

    spec: ProcessSpec
    process: asyncio.subprocess.Process = field(repr=False)
    pid: int
    ticks: int
    state: State = "running"
    exit_code: int | None = None

    def describe(self) -> dict[str, Any]:
        """Return what the state file says of this process."""
        return {
            "name": self.spec.name,
            "role": self.spec.role,
            "region": self.spec.region,
            "host": self.spec.host,
            "pid": self.pid,
            "ticks": self.ticks,
            "state": self.state,
            "exit_code": self.exit_code,
            "log": str(self.spec.log),
        }


OnExit = Callable[[Child], None]


class Supervisor:
    """Owns a cluster's processes from start to end.

    Every child is leashed to this process (it dies with it), starts its own process group (Ctrl-C in a terminal reaches
    the orchestrator only), and carries the cluster's marker. `on_exit` is called for each that ended without being
    asked to. Must be used from the main thread: the leash follows the thread that started the child.
    """

    def __init__(self, *, cluster: str, on_exit: OnExit) -> None:
        """Start with no process."""
        self.cluster = cluster
        self._on_exit = on_exit
        self.children: dict[str, Child] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._guard: asyncio.subprocess.Process | None = None
        self._stopping = False

    async def open(self) -> None:
        """Start the guard, which sweeps when this process is gone, however it went."""
        self._guard = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "stacks.local.guard",
            self.cluster,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )

    async def start(self, spec: ProcessSpec) -> Child:
        """Start one process; raises `SupervisorError` if its name is taken or everything is stopping."""
        if spec.name in self.children or self._stopping:
            reason = "the cluster is stopping" if self._stopping else "one of that name was started before"
            raise SupervisorError(f"{spec.name} was not started: {reason}.")
        spec.log.parent.mkdir(parents=True, exist_ok=True)
        leash = (sys.executable, "-I", "-S", str(LEASH), str(int(signal.SIGKILL)), str(os.getpid()))
        with spec.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *leash,
                *spec.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **spec.env, MARKER: f"{self.cluster}/{spec.name}"},
                process_group=0,
            )
        child = Child(spec=spec, process=process, pid=process.pid, ticks=start_ticks(process.pid) or 0)
        self.children[spec.name] = child
        self._watchers[spec.name] = asyncio.create_task(self._watch(child), name=f"watch {spec.name}")
        return child

    async def stop(self, names: Sequence[str], *, grace_s: float) -> None:
        """Ask the named processes to end, and end those that have not after `grace_s` seconds."""
        children = [self.children[name] for name in names if self.children[name].state == "running"]
        for child in children:
            child.state = "stopped"
            _signal(child, signal.SIGTERM)
        watchers = [self._watchers[child.spec.name] for child in children]
        if watchers:
            await asyncio.wait(watchers, timeout=grace_s)
        for child in children:
            if child.exit_code is None:
                _signal(child, signal.SIGKILL)
        if watchers:
            await asyncio.wait(watchers, timeout=KILL_WAIT_S)

    async def close(self, order: Sequence[Sequence[str]], *, grace_s: float) -> list[int]:
        """Stop everything, group by group in the given order and then the rest; returns pids that had to be swept."""
        self._stopping = True
        try:
            for names in order:
                await self.stop([name for name in names if name in self.children], grace_s=grace_s)
            await self.stop(list(self.children), grace_s=grace_s)
        finally:
            left = sweep(self.cluster)
            for watcher in self._watchers.values():
                watcher.cancel()
            await asyncio.gather(*self._watchers.values(), return_exceptions=True)
            await self._close_guard()
        return left

    async def _close_guard(self) -> None:
        if self._guard is None or self._guard.stdin is None:
            return
        self._guard.stdin.close()
        try:
            async with asyncio.timeout(KILL_WAIT_S):
                await self._guard.wait()
        except TimeoutError:
            self._guard.kill()
            await self._guard.wait()
        self._guard = None

    async def _watch(self, child: Child) -> None:
        """Wait for a child's end; kill what it left behind; tell whoever wants to know."""
        child.exit_code = await child.process.wait()
        # What a dead worker started would otherwise keep its memory and its cores.
        sweep(self.cluster, child.spec.name)
        if child.state == "running":
            child.state = "crashed"
            self._on_exit(child)


def _signal(child: Child, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.process.send_signal(number)


def log_tail(path: Path) -> list[str]:
    """Return the last lines of a log file, [] where there is none."""
    try:
        with path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - LOG_TAIL_BYTES))
            text = log.read().decode(errors="replace")
    except OSError:
        return []
    return text.splitlines()[-LOG_TAIL_LINES:]


def describe_exit(code: int | None) -> str:
    """Say how a process ended: `exit code 1`, `SIGKILL`."""
    if code is None:
        return "still running"
    if code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"
