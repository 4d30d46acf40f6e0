"""Die when the process that started us dies: no engine outlives its worker, not even after SIGKILL.

Linux only (prctl(2), PR_SET_PDEATHSIG). The signal comes when the *thread* that started the child ends, so children
are started from threads that live as long as the process.

A parent that dies before its child has asked for the signal sends none, and its child then finds another process as
its parent. Whom to compare that one with has to be known before the child exists: a forked child knows it from memory,
a spawned one from `PARENT_VARIABLE`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1
PARENT_VARIABLE: Final = "MRGC_PARENT_PID"
"""Environment variable that tells a spawned child the pid of the process that spawned it."""


def die_with_parent() -> None:
    """Ask the kernel to kill this process with SIGKILL when its parent's starting thread ends; for spawned children.

    Ends the process at once if the parent named by `PARENT_VARIABLE` is its parent no more; without the variable,
    which `children_die_with_us` sets, a parent that is dead already goes unnoticed.
    """
    told = os.environ.get(PARENT_VARIABLE, "")
    _die_with(int(told) if told.isascii() and told.isdigit() else os.getppid())
    _tell_children()


def children_die_with_us() -> None:
    """Have every child that is forked from now on die with this process; spawned ones call `die_with_parent`.

    A forked child no longer writes its own signals to this process's event loop either.
    """
    parent = 0

    def remember() -> None:
        nonlocal parent
        parent = os.getpid()

    def follow() -> None:
        _die_with(parent)
        # asyncio's wakeup descriptor is a socket that the fork shares: a SIGTERM to an engine that is unloaded would
        # be read by the worker's loop as its own, and stop the worker. Python 3.12 does the same by itself.
        signal.set_wakeup_fd(-1)
        _tell_children()

    _tell_children()
    os.register_at_fork(before=remember, after_in_child=follow)


def _tell_children() -> None:
    os.environ[PARENT_VARIABLE] = str(os.getpid())


def _die_with(parent: int) -> None:
    """Ask for the signal, then look whether `parent` was still there to send it."""
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if os.getppid() != parent:
        # It died before the signal was asked for.
        os.kill(os.getpid(), signal.SIGKILL)
