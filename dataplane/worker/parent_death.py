"""Die when the process that started us dies: no engine outlives its worker, not even after SIGKILL.

Linux only (prctl(2), PR_SET_PDEATHSIG). The signal comes when the *thread* that started the child ends, so children
are started from threads that live as long as the process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1


def die_with_parent() -> None:
    """Ask the kernel to kill this process with SIGKILL when its parent's starting thread ends."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if os.getppid() != parent:
        # It died between the two calls, and its signal with it.
        os.kill(os.getpid(), signal.SIGKILL)


def children_die_with_us() -> None:
    """Have every child that is forked from now on call `die_with_parent`; spawned ones call it themselves."""
    os.register_at_fork(after_in_child=die_with_parent)
