"""What happens while a cluster comes up and runs: one JSON object a line, written by the supervisor.

Kinds: `stage` (name, detail, total), `progress` (name, done), `done` (name, seconds), `ready` (endpoint), `crash`
(name, pid, how, log, tail), `failed` (error), `stopped` (swept, error). Every event has `t`, seconds since the start.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class EventLog:
    """Writes events; the file starts anew with each cluster."""

    def __init__(self, path: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Open the file for this cluster."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._monotonic = monotonic
        self._began = monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def emit(self, kind: str, **fields: Any) -> None:
        """Write one event."""
        event = {"t": round(self._monotonic() - self._began, 3), "kind": kind, **fields}
        self._file.write(json.dumps(event) + "\n")

    @contextmanager
    def stage(self, name: str, detail: str, *, total: int = 0) -> Iterator[Callable[[], None]]:
        """Tell of a stage's beginning and end, and of each of its `total` steps through what is yielded."""
        began, done = self._monotonic(), 0
        self.emit("stage", name=name, detail=detail, total=total)

        def step() -> None:
            nonlocal done
            done += 1
            self.emit("progress", name=name, done=done, total=total)

        yield step
        self.emit("done", name=name, seconds=round(self._monotonic() - began, 2))


class EventReader:
    """Reads the events that were written since the last look; half a line waits for its other half."""

    def __init__(self, path: Path, *, offset: int = 0) -> None:
        """Start at `offset` bytes."""
        self._path = path
        self._offset = offset

    def read(self) -> list[dict[str, Any]]:
        """Return the new events, in order."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole, newline, _ = data.rpartition(b"\n")
        if not newline:
            return []
        self._offset += len(whole) + 1
        return [json.loads(line) for line in whole.splitlines()]
