"""Files that others read while they are written: replaced whole, and private where they hold secrets."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from dataplane.protocol.errors import MrgcError

PRIVATE = 0o600


def write_json(path: Path, value: Any, *, mode: int = PRIVATE) -> None:
    """Replace `path` with `value` as JSON; a reader sees the old file or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2)
            file.write("\n")
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object, or None where there is no such file; raises `MrgcError` when it is something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise MrgcError(f"{path} can't be read as JSON ({error}); remove it and start the cluster anew.") from error
    if not isinstance(value, dict):
        raise MrgcError(f"{path} holds no JSON object; remove it and start the cluster anew.")
    return value
