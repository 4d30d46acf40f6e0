"""Start a program that dies with its parent: `python -I -S leash.py SIGNAL PARENT_PID PROGRAM ARGUMENT...`.

Runs as a script, with nothing imported but the standard library, so that it costs milliseconds: it asks the kernel for
`SIGNAL` at its parent's death (prctl(2), PR_SET_PDEATHSIG; kept over execve) and becomes the program.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
LEAST_ARGUMENTS = 4
EX_OSERR = 71


def main(arguments: list[str]) -> int:
    """Become the program; returns an exit code only where that failed."""
    if len(arguments) < LEAST_ARGUMENTS:
        sys.stderr.write("usage: leash.py SIGNAL PARENT_PID PROGRAM ARGUMENT...\n")
        return 64
    number, parent, program = int(arguments[1]), int(arguments[2]), arguments[3:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        sys.stderr.write(f"leash: prctl failed: {os.strerror(ctypes.get_errno())}.\n")
        return EX_OSERR
    if os.getppid() != parent:
        return 0  # The parent died before the kernel was asked, so nobody wants the program any more.
    try:
        os.execvp(program[0], program)  # noqa: S606 - starting this program is the purpose
    except OSError as error:
        sys.stderr.write(f"leash: {program[0]} could not be started: {error.strerror}.\n")
    return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv))
