"""The few changes to a disk that a log is made of. Each is one step: it happened, or it did not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

PUBLIC: Final = 0o644
"""A log's files are for everybody; a web server runs as another user."""

TEMPORARY: Final = ".new"
"""How a file is called until it is whole. No reader asks for such a name."""


class Disk:
    """Changes under one folder. `replace` is whole or not at all, also when the machine loses power in between."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def replace(self, path: str, data: bytes) -> None:
        """Write a file anew under a temporary name, have the disk confirm it, and give it its name."""
        target = self.root / path
        missing = [folder for folder in (target.parent, *target.parents) if not folder.exists()]
        for folder in reversed(missing):
            self.make_folder(folder)
        temporary = target.with_name(target.name + TEMPORARY)
        self.write(temporary, data)
        self.rename(temporary, target)
        self.confirm_folder(target.parent)

    def make_folder(self, folder: Path) -> None:
        """Make one folder, and have the disk confirm its name."""
        folder.mkdir(exist_ok=True)
        self.confirm_folder(folder.parent)

    def write(self, path: Path, data: bytes) -> None:
        """Write a whole file and have the disk confirm its content."""
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        path.chmod(PUBLIC)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file its name, in place of another that had it."""
        old.replace(new)

    def remove(self, path: Path) -> None:
        """Remove one file."""
        path.unlink(missing_ok=True)

    def confirm_folder(self, folder: Path) -> None:
        """Have the disk confirm which names a folder has."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
