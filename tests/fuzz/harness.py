"""The targets: how they are found, what they start from, and what counts as a bug.

A target is a module in `tests/fuzz/targets` with `target(data: bytes) -> None`, which raises only for a bug, and
`SEEDS: list[bytes]`. It may set `MAX_LEN` (longest input that `make fuzz` tries, bytes) and `MEASURES_ITSELF` (it
calls `step` for what an event loop would be held by; otherwise its whole run is one step).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

FOLDER: Final = Path(__file__).parent
TARGETS: Final = FOLDER / "targets"
CORPUS: Final = FOLDER / "corpus"
CRASHES: Final = FOLDER / "crashes"

STEP_S: Final = 0.020
"""Longest that anything may hold an event loop."""
TRIES: Final = 3
SLOWER: Final = "MRGC_FUZZ_SLOWER"
"""Environment variable: how many times slower the code runs than alone, 1 by default. `make fuzz` instruments it."""
MAX_LEN: Final = 4096

T = TypeVar("T")


class TooSlowError(Exception):
    """A step that holds an event loop for longer than `STEP_S`."""


@dataclass(frozen=True)
class Target:
    """One target with its seeds: those in the module, in the corpus, and every crash that was ever found."""

    name: str
    run: Callable[[bytes], None]
    seeds: list[bytes]
    max_len: int
    measures_itself: bool

    def check(self, data: bytes) -> None:
        """Run once; what it raises is a bug."""
        if self.measures_itself:
            self.run(data)
        else:
            step(lambda: self.run(data))

    def corpus(self) -> list[bytes]:
        """Inputs that fuzzing found worth keeping."""
        return contents(CORPUS / self.name)

    def crashes(self) -> list[bytes]:
        """Inputs that once were bugs."""
        return contents(CRASHES / self.name)


def names() -> list[str]:
    """Every target's name, which is its module's."""
    return sorted(path.stem for path in TARGETS.glob("*.py") if path.stem != "__init__")


def load(name: str) -> Target:
    """Import one target."""
    module = importlib.import_module(f"tests.fuzz.targets.{name}")
    return Target(
        name=name,
        run=module.target,
        seeds=list(module.SEEDS),
        max_len=getattr(module, "MAX_LEN", MAX_LEN),
        measures_itself=getattr(module, "MEASURES_ITSELF", False),
    )


def contents(folder: Path) -> list[bytes]:
    """The bytes of every file in `folder`, which need not exist."""
    return [path.read_bytes() for path in sorted(folder.glob("*")) if path.is_file()] if folder.is_dir() else []


def step(call: Callable[[], T]) -> T:
    """Return what `call` returns or raises; `TooSlowError` if it can't be done within `STEP_S` of this thread's CPU.

    Only what was too slow is tried again: the least of `TRIES` counts, so that a busy machine is no bug.
    """
    limit_s = STEP_S * float(os.environ.get(SLOWER, "1"))
    began = time.thread_time()
    try:
        return call()
    finally:
        least = time.thread_time() - began
        if least > limit_s:
            least = min(least, *(_again_s(call) for _ in range(TRIES - 1)))
        if least > limit_s:
            raise TooSlowError(f"one step took {least * 1000:.1f} ms, and {limit_s * 1000:.0f} are allowed")


def _again_s(call: Callable[[], object]) -> float:
    began = time.thread_time()
    with contextlib.suppress(Exception):  # the first run's outcome is what counts
        call()
    return time.thread_time() - began
