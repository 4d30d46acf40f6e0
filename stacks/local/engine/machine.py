"""What the engine needs of a machine: Linux on x86-64, 4 GiB of disk, and a Python 3.11 for its environment.

The wheels are for CPython 3.11 alone, while the project runs on later ones too, so the engine's environment may have
an interpreter of its own: this one where it is a 3.11, else `python3.11` on PATH, else one that uv finds or fetches.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

MIN_FREE_BYTES: Final = 4 * 1024**3
"""1.8 GB installed, 0.6 GB of wheels downloaded and unpacked beside it; the rest keeps the disk from filling."""

PYTHON: Final = (3, 11)
PYTHON_NAME: Final = "python3.11"

PROBE_TIMEOUT_S: Final = 20.0
"""For an interpreter to say that it has venv; a cold disk takes a second or two."""

UV: Final = Path(".mrgc/tools/bin/uv")
"""Where `make` puts uv, below the project."""


def obstacle(root: Path) -> str | None:
    """Say in a clause why the engine can't be installed into `root` on this machine, or None."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        return f"its wheels are for Linux on x86-64, and this is {system} on {machine}"
    place = next(parent for parent in (root, *root.parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if free < MIN_FREE_BYTES:
        return f"{place} has {free / 1024**3:.1f} GiB free, and installing it needs {MIN_FREE_BYTES / 1024**3:.0f} GiB"
    if maker(root) is None:
        return "its wheels are for Python 3.11, and there is neither python3.11 with venv nor uv"
    return None


def maker(root: Path) -> tuple[str, ...] | None:
    """The command that makes an environment of Python 3.11, with pip, in the folder given as its last argument.

    None where nothing here can.
    """
    if sys.version_info[:2] == PYTHON and _has_venv(sys.executable):
        return sys.executable, "-m", "venv"
    named = shutil.which(PYTHON_NAME)
    if named is not None and _has_venv(named):
        return named, "-m", "venv"
    ours = root.parent / UV
    uv = str(ours) if ours.exists() else shutil.which("uv")
    return None if uv is None else (uv, "venv", "--quiet", "--no-project", "--seed", "--python", "3.11")


def _has_venv(python: str) -> bool:
    """Whether an interpreter runs, is a 3.11, and can make environments with pip."""
    question = f"import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != {PYTHON})"
    try:
        # The command is an interpreter that was found, asked a question of this module's own.
        done = subprocess.run(  # noqa: S603 - see above
            [python, "-c", question], capture_output=True, check=False, timeout=PROBE_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
