"""A real `mrgc tenant proxy` process, as a tenant would run it beside an application."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from dataplane.protocol.errors import MrgcError
from stacks.local.launch import clean_environment
from stacks.local.supervisor import LEASH, log_tail

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0


class SidecarError(MrgcError):
    """A tenant proxy that did not start."""


class TenantSidecar:
    """The process while the context lasts; `url` is its OpenAI base URL. It dies with this process."""

    def __init__(self, cluster_file: Path, tenant: str, log: Path) -> None:
        """Take the cluster's description and the tenant to speak for."""
        self._cluster_file = cluster_file
        self._tenant = tenant
        self._log = log
        self.url = ""

    def __enter__(self) -> Self:
        leash = [sys.executable, "-I", "-S", str(LEASH), str(int(signal.SIGTERM)), str(os.getpid())]
        program = str(Path(sys.executable).with_name("mrgc"))
        arguments = ["tenant", "proxy", "--cluster", str(self._cluster_file), "--tenant", self._tenant]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program, no shell
                [*leash, program, *arguments, "--port", "0", "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=clean_environment(),
            )
        # A proxy that hangs before its first line would hang the read below: end it instead.
        timer = threading.Timer(START_TIMEOUT_S, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline() if self._process.stdout else b""
        finally:
            timer.cancel()
        try:
            self.url = str(json.loads(line)["url"])
        except (ValueError, KeyError):
            self._stop()
            tail = " ".join(log_tail(self._log)) or "it said nothing"
            raise SidecarError(f"`mrgc tenant proxy` did not start: {tail}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
