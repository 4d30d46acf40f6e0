"""Starts the supervisor, follows it until the cluster is ready, and says what is in the way when there is something."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dataplane.protocol.errors import MrgcError
from stacks.local.events import EventReader
from stacks.local.layout import PROJECT_ROOT, Layout
from stacks.local.options import ClusterOptions
from stacks.local.ports import holder, is_free
from stacks.local.procfs import sweep
from stacks.local.status import is_locked, read_status
from stacks.local.supervisor import LEASH, log_tail

POLL_S = 0.05
STOP_TIMEOUT_S = 60.0

KEPT = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "LOG_LEVEL", "VIRTUAL_ENV")
"""Variables that a cluster's processes inherit; no others: a shell's AWS profile or proxy would lead out."""

Show = Callable[[dict[str, Any]], None]


class LaunchError(MrgcError):
    """A cluster that was not started, or that did not come up."""


def clean_environment() -> dict[str, str]:
    """Return the environment that a cluster starts from: nothing in it leads off this machine."""
    nowhere = {"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
    return {name: os.environ[name] for name in KEPT if name in os.environ} | nowhere


def in_the_way(options: ClusterOptions) -> str | None:
    """Say what keeps this cluster from starting, or None: another one in its directory, or somebody at its port."""
    root = options.directory
    status = read_status(root)
    if status is not None and status.running:
        state = f"ready at {status.endpoint}" if status.ready else "coming up"
        return (
            f"A local cluster is {state} already (directory {root}, supervisor pid {status.supervisor}); "
            f"use it, or stop it with `mrgc local down --dir {root}`."
        )
    if is_locked(root):
        return f"Another `mrgc local up` is just starting in {root}; wait for it, or give another --dir."
    if not is_free(options.port):
        return (
            f"Port {options.port} on 127.0.0.1 is taken by {holder(options.port)}; "
            "stop that process (a cluster of another directory: `mrgc local down --dir …`), or give another --port."
        )
    return None


class Launch:
    """A supervisor that this process started.

    Attached, it ends with this process, however that ends; detached, it lives on once the cluster is ready.
    """

    def __init__(self, options: ClusterOptions, *, detach: bool) -> None:
        """Start it; raises `LaunchError` with what is in the way."""
        root = options.directory
        earlier = read_status(root)
        if earlier is not None and earlier.strays:
            # Left by a supervisor and a guard that were killed together; one of them would hold the port.
            sweep(earlier.cluster)
        obstacle = in_the_way(options)
        if obstacle is not None:
            raise LaunchError(obstacle)
        root.mkdir(parents=True, exist_ok=True)
        self._layout = Layout(root, root)
        self._layout.events_file.unlink(missing_ok=True)
        self._reader = EventReader(self._layout.events_file)
        self._log = root / "supervisor.log"
        program = [sys.executable, "-m", "stacks.local.cluster", options.model_dump_json()]
        if not detach:
            program = [sys.executable, "-I", "-S", str(LEASH), str(int(signal.SIGTERM)), str(os.getpid()), *program]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program, no shell
                program,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=clean_environment() | {"PYTHONPATH": str(PROJECT_ROOT)},
            )

    @property
    def root(self) -> Path:
        """The cluster's directory."""
        return self._layout.root

    @property
    def cluster_file(self) -> Path:
        """The cluster's description, there once it is ready."""
        return self._layout.cluster_file

    def follow(self, show: Show, *, until_ready: bool) -> bool:
        """Show events until the cluster is ready (or for ever), or it has ended; say whether it is ready.

        Raises `LaunchError` when it failed.
        """
        while True:
            ended = self._process.poll() is not None
            for event in self._reader.read():
                show(event)
                if event["kind"] == "failed":
                    self._process.wait()
                    raise LaunchError(event["error"])
                if event["kind"] == "ready" and until_ready:
                    return True
            if ended:
                return self._ended()
            time.sleep(POLL_S)

    def stop(self, show: Show) -> None:
        """Ask the supervisor to take everything down, and wait until it has."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        until = time.monotonic() + STOP_TIMEOUT_S
        while self._process.poll() is None:
            if time.monotonic() > until:
                # Its guard and leashes end the rest.
                self._process.kill()
                self._process.wait()
            self._show_new(show)
            time.sleep(POLL_S)
        self._show_new(show)

    def _show_new(self, show: Show) -> None:
        for event in self._reader.read():
            show(event)

    def _ended(self) -> bool:
        if self._process.returncode == 0:
            return False
        tail = "\n".join(f"    {line}" for line in log_tail(self._log)) or "    (its log is empty)"
        raise LaunchError(f"The supervisor ended with {self._process.returncode}; the end of {self._log}:\n{tail}")
