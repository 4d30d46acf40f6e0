"""Which file system a folder is on, as the kernel's table of mounts says (proc(5), /proc/pid/mountinfo)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

MOUNTINFO: Final = Path("/proc/self/mountinfo")

ELSEWHERE: Final = frozenset(
    {"lustre", "nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "afs", "gfs2", "ocfs2", "glusterfs", "orangefs"}
)
"""Kinds of file systems whose bytes another machine serves, now so and then otherwise."""

_FUSE: Final = "fuse"
"""A program serves these (`fuse`, `fuseblk`, `fuse.<name>`), and whoever runs it chooses the bytes of every read."""

_DEVICE: Final = 2
"""Field of a line, from 0, that has `major:minor`."""


def read_mounts() -> str:
    """The table as text, empty where there is none to read."""
    try:
        return MOUNTINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def served_elsewhere(device: int, table: str) -> str | None:
    """Return the kind of the file system with this `st_dev`, if a machine or a program serves its bytes, else None.

    None, too, for a device that the table lacks: a kernel may give a subvolume a number of its own (btrfs).
    """
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in table.splitlines():
        before, separator, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")[0]
        if separator and len(fields) > _DEVICE and fields[_DEVICE] == number:
            return kind if kind in ELSEWHERE or kind.partition(".")[0].startswith(_FUSE) else None
    return None
