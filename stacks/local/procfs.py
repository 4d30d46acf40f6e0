"""Processes as /proc shows them: who they are, and which of them belong to one local cluster.

A pid alone names nobody, since the kernel uses it again; a pid with its start time does. Every process of a cluster
also carries the cluster's marker in its environment, and so does whatever it starts itself (vLLM's helpers, say), so
that a sweep finds all of them and nobody else. Linux only, like the cluster itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

MARKER = "MRGC_LOCAL_CLUSTER"
"""Environment variable that marks a cluster's processes: `<cluster id>/<process name>`."""

PROC = Path("/proc")
POLL_S = 0.02


def start_ticks(pid: int) -> int | None:
    """Return a process's start time in clock ticks since boot, or None if it is gone or a zombie (proc_pid_stat(5))."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the program's name in parentheses, and may hold spaces and parentheses itself.
    fields = text.rpartition(")")[2].split()
    state, started = fields[0], fields[19]
    return None if state in "ZX" else int(started)


def is_alive(pid: int, ticks: int) -> bool:
    """Say whether the process that had this pid and start time still runs."""
    return start_ticks(pid) == ticks


def marked(cluster: str, process: str = "") -> list[int]:
    """Return the pids that carry the cluster's marker, all of them or one named process's and its descendants'."""
    value = f"{MARKER}={cluster}/{process}".encode()
    found = []
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # Gone, or somebody else's.
            continue
        if any(each == value if process else each.startswith(value) for each in variables):
            found.append(int(entry.name))
    return [pid for pid in found if start_ticks(pid) is not None]


def sweep(cluster: str, process: str = "", *, timeout_s: float = 5.0) -> list[int]:
    """Kill whatever carries the marker until nothing does; returns the pids that it killed.

    A process that outlives SIGKILL for `timeout_s` (stuck in the kernel) is left, and `marked` still shows it.
    """
    killed: dict[int, None] = {}
    until = time.monotonic() + timeout_s
    while (pids := marked(cluster, process)) and time.monotonic() < until:
        for pid in pids:
            killed[pid] = None
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_S)
    return list(killed)
