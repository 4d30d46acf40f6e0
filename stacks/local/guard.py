"""The last one out: `python -m stacks.local.guard CLUSTER` waits for the end of its standard input, then sweeps.

The supervisor holds the other end of that pipe. However it ends, SIGKILL included, the kernel closes the pipe, and
whatever still carries the cluster's marker is killed: grandchildren too, which no signal at a parent's death reaches.
"""

from __future__ import annotations

import signal
import sys

from stacks.local.procfs import sweep


def main(arguments: list[str]) -> int:
    """Wait, sweep, and say how many were killed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while sys.stdin.buffer.read(1024):
        pass
    killed = sweep(arguments[0])
    if killed:
        sys.stderr.write(f"guard: killed {len(killed)} processes that were left: {killed}.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
