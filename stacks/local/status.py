"""What runs in a cluster's directory, judged by the processes themselves and not by what a file once said."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stacks.local.files import read_json
from stacks.local.layout import Layout
from stacks.local.procfs import is_alive, marked, sweep
from stacks.local.supervisor import describe_exit, log_tail

POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStatus:
    """One process now: `state` is running, crashed, stopped or lost (gone, and no supervisor left to say how)."""

    name: str
    role: str
    region: str
    host: str
    pid: int
    state: str
    how: str
    log: Path

    def as_json(self) -> dict[str, Any]:
        """Return it for `--json`, with the log's end where it crashed."""
        value: dict[str, Any] = {
            "name": self.name,
            "role": self.role,
            "region": self.region,
            "host": self.host,
            "pid": self.pid,
            "state": self.state,
            "how": self.how,
            "log": str(self.log),
        }
        return value | ({"tail": log_tail(self.log)} if self.state in {"crashed", "lost"} else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """The whole cluster now. `strays` are marked processes although no supervisor lives."""

    running: bool
    ready: bool
    supervisor: int | None
    cluster: str
    endpoint: str
    began: float
    error: str | None
    processes: tuple[ProcessStatus, ...] = ()
    strays: tuple[int, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def faults(self) -> tuple[ProcessStatus, ...]:
        """Processes that ended without being asked to."""
        return tuple(process for process in self.processes if process.state in {"crashed", "lost"})

    @property
    def healthy(self) -> bool:
        """Whether everything that should run runs."""
        return self.running and self.ready and not self.faults

    def as_json(self) -> dict[str, Any]:
        """Return it for `--json`."""
        return {
            "running": self.running,
            "ready": self.ready,
            "healthy": self.healthy,
            "supervisor": self.supervisor,
            "endpoint": self.endpoint,
            "error": self.error,
            "strays": list(self.strays),
            "processes": [process.as_json() for process in self.processes],
        }


def read_status(root: Path) -> ClusterStatus | None:
    """Return the status of the cluster in a directory, or None where there never was one."""
    state = read_json(Layout(root, root).state_file)
    if state is None:
        return None
    supervisor = state["supervisor"]
    running = is_alive(supervisor["pid"], supervisor["ticks"])
    processes = tuple(_process(entry, supervised=running) for entry in state["processes"])
    return ClusterStatus(
        running=running,
        ready=running and bool(state["ready"]),
        supervisor=supervisor["pid"] if running else None,
        cluster=state["cluster"],
        endpoint=state["endpoint"],
        began=state["began"],
        error=state["error"],
        processes=processes,
        strays=() if running else tuple(marked(state["cluster"])),
        options=state["options"],
    )


def _process(entry: dict[str, Any], *, supervised: bool) -> ProcessStatus:
    state, how = entry["state"], describe_exit(entry["exit_code"])
    if state == "running" and not is_alive(entry["pid"], entry["ticks"]):
        # The supervisor notices within milliseconds; without one nobody knows how it ended.
        state, how = ("crashed", "just ended") if supervised else ("lost", "ended with its supervisor")
    return ProcessStatus(
        name=entry["name"],
        role=entry["role"],
        region=entry["region"],
        host=entry["host"],
        pid=entry["pid"],
        state=state,
        how=how if state != "running" else "",
        log=Path(entry["log"]),
    )


def is_locked(root: Path) -> bool:
    """Say whether a supervisor holds the directory, even one that has written nothing yet."""
    try:
        descriptor = os.open(Layout(root, root).lock_file, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def take_down(root: Path, *, timeout_s: float) -> list[int]:
    """Stop the cluster in a directory: ask its supervisor, then sweep whatever is left; returns what was swept.

    Safe to call when nothing runs. Only processes with this cluster's marker are touched, and the supervisor only while
    its pid and start time are the recorded ones.
    """
    state = read_json(Layout(root, root).state_file)
    if state is None:
        return []
    supervisor = state["supervisor"]
    pid, ticks = supervisor["pid"], supervisor["ticks"]
    if is_alive(pid, ticks):
        os.kill(pid, signal.SIGTERM)
        _wait_gone(pid, ticks, timeout_s)
        if is_alive(pid, ticks):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            _wait_gone(pid, ticks, timeout_s)
    return sweep(state["cluster"])


def _wait_gone(pid: int, ticks: int, timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while is_alive(pid, ticks) and time.monotonic() < until:
        time.sleep(POLL_S)


def summarize(status: ClusterStatus) -> str:
    """Return one sentence about the whole cluster."""
    running = sum(1 for process in status.processes if process.state == "running")
    if not status.running:
        left = f" {len(status.strays)} processes are left; `mrgc local down` ends them." if status.strays else ""
        return f"No cluster is running.{left}"
    age = time.time() - status.began
    state = "ready" if status.ready else "coming up"
    faults = f", {len(status.faults)} ended unasked" if status.faults else ""
    return (
        f"The cluster is {state} at {status.endpoint}: {running} of {len(status.processes)} processes run{faults} "
        f"(supervisor pid {status.supervisor}, up {age:.0f} s)."
    )
