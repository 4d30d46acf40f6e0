"""How long one synchronous step takes: what an event loop is held for."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Final

LOOP_STEP_S: Final = 0.020
"""Longest that anything may hold an event loop."""

TRIES: Final = 3


def least_cpu_s(step: Callable[[], object], *, tries: int = TRIES) -> float:
    """CPU seconds of this thread for `step`, the least of `tries`.

    CPU time of the thread does not count what other processes take, the least of several leaves out a cold cache, and
    a collection of other tests' garbage is put off.
    """
    least = float("inf")
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(tries):
            began = time.thread_time()
            step()
            least = min(least, time.thread_time() - began)
            if least < LOOP_STEP_S / 4:
                break
    finally:
        if collecting:
            gc.enable()
    return least
