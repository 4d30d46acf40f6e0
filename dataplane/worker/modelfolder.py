"""A model pool's folder in the store, read with suspicion: the store is the operator's and may change meanwhile.

Folders are walked by descriptor, no link is followed anywhere below the pool, and only plain files are opened. What is
a link, a device, a pipe or a socket is refused by its name.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dataplane.protocol.errors import MrgcError

MAX_FILES: Final = 4096
"""Files of one pool: the largest published models have some 200 shards and a few dozen small files."""

MAX_DEPTH: Final = 8
MANIFEST_FILE: Final = "mrgc-manifest.json"
"""Names the pool's files and is none of them: it holds their digest."""

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not blocking: opening a pipe that was put in a file's place must not wait for its writer.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class PoolError(MrgcError):
    """A pool whose files can't be used; the text names the pool and the file."""


class ModelFolder:
    """One pool's folder, open. Every method blocks on the file system."""

    def __init__(self, path: Path) -> None:
        """Open the folder; raises `PoolError` for a link, `OSError` for what is no folder."""
        self.path = path
        try:
            self._root = os.open(path, _FOLDER)
        except OSError as error:
            if path.is_symlink():
                raise _refused(path, "", "is a symbolic link") from error
            raise

    def close(self) -> None:
        """Close the folder."""
        os.close(self._root)

    def names(self) -> list[str]:
        """Every file's name, relative with `/`, sorted as UTF-8 bytes; raises `PoolError`.

        Names that begin with a dot are left out, with what is below them, and so is the manifest.
        """
        found: list[str] = []
        for name in self._walk(self._root, "", 0):
            if len(found) > MAX_FILES:
                raise _refused(self.path, "", f"has more than {MAX_FILES} files")
            found.append(name)
        return sorted((name for name in found if name != MANIFEST_FILE), key=str.encode)

    def has_manifest(self) -> bool:
        """Whether there is anything under the manifest's name."""
        try:
            self._kind(self._root, MANIFEST_FILE)
        except FileNotFoundError:
            return False
        return True

    @contextmanager
    def open(self, name: str) -> Iterator[int]:
        """Open one file for reading, by descriptor; raises `PoolError` unless it is a plain file, or `OSError`."""
        *folders, last = name.split("/")
        opened: list[int] = []
        try:
            parent = self._root
            for part in folders:
                parent = self._enter(parent, part, name)
                opened.append(parent)
            try:
                file = os.open(last, _FILE, dir_fd=parent)
            except OSError as error:
                self._check(self._kind(parent, last), name)
                raise PoolError(f"{self.path / name} can't be read ({error.strerror}).") from error
            opened.append(file)
            self._check(os.fstat(file).st_mode, name)
            yield file
        finally:
            for descriptor in reversed(opened):
                os.close(descriptor)

    def _walk(self, folder: int, prefix: str, depth: int) -> Iterator[str]:
        if depth > MAX_DEPTH:
            raise _refused(self.path, prefix, f"is more than {MAX_DEPTH} folders deep")
        for part in sorted(os.listdir(folder)):
            if part.startswith("."):
                continue
            name = f"{prefix}{part}"
            try:
                name.encode()
            except UnicodeEncodeError:
                raise _refused(self.path, ascii(name), "has a name that is not UTF-8") from None
            mode = self._kind(folder, part)
            if not stat.S_ISDIR(mode):
                self._check(mode, name)
                yield name
                continue
            inner = self._enter(folder, part, name)
            try:
                yield from self._walk(inner, f"{name}/", depth + 1)
            finally:
                os.close(inner)

    def _enter(self, parent: int, part: str, name: str) -> int:
        try:
            return os.open(part, _FOLDER, dir_fd=parent)
        except OSError as error:
            raise _refused(self.path, name, f"can't be entered ({error.strerror})") from error

    def _kind(self, folder: int, part: str) -> int:
        return os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode

    def _check(self, mode: int, name: str) -> None:
        if not stat.S_ISREG(mode):
            kinds = ((stat.S_ISLNK, "a symbolic link"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
            kind = next((told for test, told in kinds if test(mode)), "a device or a folder in a file's place")
            raise _refused(self.path, name, f"is {kind}")


def _refused(path: Path, name: str, why: str) -> PoolError:
    return PoolError(f"{path / name if name else path} {why}; a model pool has plain files only, copied in whole.")
