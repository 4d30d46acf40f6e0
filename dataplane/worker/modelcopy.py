"""The worker's own copy of a model: every byte is read from the store once, hashed as it is written, loaded from here.

So the digest is of what the engine reads, whatever happens to the store meanwhile. The folder belongs to one process:
it is locked, and what another one left there is removed and never used. It costs the model's size on disk and one
write of it (26 GB at 1 GB/s: half a minute).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from dataplane.worker.manifest import Manifest, ManifestFile, read_manifest
from dataplane.worker.modelfolder import ModelFolder, PoolError
from dataplane.worker.mounts import read_mounts, served_elsewhere

COPY_CHUNK_BYTES: Final = 4 * 1024 * 1024
DEFAULT_MAX_BYTES: Final = 1024**4
"""1 TiB of copies: room for a 405-billion-parameter model in 16 bits. The disk ends it sooner."""

OWN_PREFIX: Final = "mrgc-models-"
"""How folders are named that a worker makes for itself below the system's temporary one."""

LEFT_AFTER_S: Final = 60.0
"""How old such a folder is before it may count as left: from its making to its lock is under a millisecond."""

PRIVATE: Final = 0o700
READ_ONLY: Final = 0o400
DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class ModelCache:
    """Copies of model pools in a private folder. Every method blocks on the file system; safe for threads."""

    def __init__(
        self,
        root: Path | None = None,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        mounts: Callable[[], str] = read_mounts,
    ) -> None:
        """`root` is made if need be; None takes a fresh folder below the system's temporary one, and removes it.

        `mounts` reads the kernel's table of mounts. Where `root` is None, the folders go, too, that
        this user's killed workers left there.
        """
        self._given = root
        self._max_bytes = max_bytes
        self._mounts = mounts
        self._root: Path | None = None
        self._descriptor = -1
        self._sizes: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def copy(self, name: str, source: Path) -> tuple[Path, Manifest]:
        """Copy the pool `name` from its folder; return the copy's folder and the manifest of what was written.

        Where the store has a manifest, the copy must be what it says. Raises `PoolError` or `OSError`; nothing of a
        failed copy stays.
        """
        with self._lock:
            root = self._prepare()
            folder = ModelFolder(source)
            with _telling(root):
                target = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root))
            try:
                expected = read_manifest(folder)
                copied = self._copy_all(folder, target)
                if expected is not None:
                    expected.check(copied)
            except BaseException:
                shutil.rmtree(target, ignore_errors=True)
                raise
            finally:
                folder.close()
            self._sizes[target] = sum(file.size for file in copied.files)
            return target, copied

    def drop(self, path: Path) -> None:
        """Remove a copy; one that is gone already is no fault."""
        with self._lock:
            self._sizes.pop(path, None)
            shutil.rmtree(path, ignore_errors=True)

    def stop(self) -> None:
        """Have a copy that runs end with `PoolError`, and begin none any more; returns at once."""
        self._stopping.set()

    def close(self) -> None:
        """End a copy that runs, remove everything, unlock; idempotent."""
        self.stop()
        with self._lock:
            if self._root is None:
                return
            self._clear(self._root)
            if self._given is None:
                shutil.rmtree(self._root, ignore_errors=True)
            os.close(self._descriptor)
            self._root, self._descriptor = None, -1
            self._sizes.clear()

    def _prepare(self) -> Path:
        """Make, check, lock and empty the folder, once."""
        if self._stopping.is_set():
            raise PoolError("The worker is stopping and copies no model any more.")
        if self._root is not None:
            return self._root
        root = self._given
        with _telling(Path(tempfile.gettempdir()) if root is None else root):
            if root is None:
                _remove_left(Path(tempfile.gettempdir()))
                root = Path(tempfile.mkdtemp(prefix=OWN_PREFIX))
            else:
                root.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
            descriptor = os.open(root, DIRECTORY)
        try:
            _claim(descriptor, root, self._mounts())
        except BaseException:
            os.close(descriptor)
            if self._given is None:
                root.rmdir()
            raise
        self._root, self._descriptor = root, descriptor
        self._clear(root)
        return root

    def _clear(self, root: Path) -> None:
        for entry in root.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    entry.unlink()

    def _copy_all(self, folder: ModelFolder, target: Path) -> Manifest:
        names = folder.names()
        room = self._room(folder, names, target)
        files = []
        for name in names:
            destination = target / name
            with _telling(target.parent):
                destination.parent.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
            with folder.open(name) as source:
                file = self._copy_file(name, source, destination, room)
            room -= file.size
            files.append(file)
        return Manifest.of(files)

    def _room(self, folder: ModelFolder, names: list[str], target: Path) -> int:
        """Return the bytes that may be written; refuse before the first where they will not do."""
        needed = 0
        for name in names:
            with folder.open(name) as file:
                needed += os.fstat(file).st_size
        allowed = self._max_bytes - sum(self._sizes.values())
        free = shutil.disk_usage(target).free
        if needed > min(allowed, free):
            raise PoolError(
                f"{folder.path} has {needed} bytes, and its copy may take {max(0, min(allowed, free))} in "
                f"{target.parent} ({free} free, {max(0, allowed)} of MODEL_CACHE_MAX_BYTES left)."
            )
        return allowed

    def _copy_file(self, name: str, source: int, destination: Path, room: int) -> ManifestFile:
        """Write and hash the same bytes, read once."""
        digest, size, root = hashlib.sha256(), 0, self._root or destination.parent
        with _telling(root):
            descriptor = os.open(
                destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, READ_ONLY
            )
        with os.fdopen(descriptor, "wb", buffering=0) as written:
            while chunk := os.read(source, COPY_CHUNK_BYTES):
                if self._stopping.is_set():
                    raise PoolError("The worker is stopping and copies no model any more.")
                size += len(chunk)
                if size > room:
                    raise PoolError(f"{name[:128]!r} grew while it was read, beyond MODEL_CACHE_MAX_BYTES.")
                digest.update(chunk)
                rest = memoryview(chunk)
                with _telling(root):
                    while rest:
                        rest = rest[written.write(rest) :]
        return ManifestFile(name=name, size=size, sha256=digest.hexdigest())


@contextlib.contextmanager
def _telling(root: Path) -> Iterator[None]:
    """Turn a fault of the copies' disk into `PoolError`: untold, it would pass for the model store's."""
    try:
        yield
    except OSError as error:
        raise PoolError(
            f"The copy of a model could not be written below {root} ({error.strerror}); make room there, or give the "
            "worker another MODEL_CACHE_DIR."
        ) from error


def _remove_left(parent: Path) -> None:
    """Remove what this user's workers left when they were killed: their folders, locked by nobody any more."""
    for path in parent.glob(f"{OWN_PREFIX}*"):
        try:
            descriptor = os.open(path, DIRECTORY)
        except OSError:
            continue  # a link, a file, gone meanwhile, or another user's
        try:
            status = os.fstat(descriptor)
            if status.st_uid != os.geteuid() or time.time() - status.st_mtime < LEFT_AFTER_S:
                continue
            # Held while it is removed, and not taken over: no process waits for a folder that it did not make.
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)


def _claim(descriptor: int, root: Path, mounts: str) -> None:
    """See that the folder is ours alone: owner, mode, lock, and a disk of this machine; raises `PoolError`."""
    status = os.fstat(descriptor)
    kind = served_elsewhere(status.st_dev, mounts)
    if kind is not None:
        # Who serves the bytes could give other ones to the engine than were hashed: a copy there is no copy.
        raise PoolError(f"MODEL_CACHE_DIR {root} is on {kind}; give the worker a folder on a disk of this machine.")
    if status.st_uid != os.geteuid():
        raise PoolError(f"MODEL_CACHE_DIR {root} belongs to another user; give the worker a folder of its own.")
    if stat.S_IMODE(status.st_mode) != PRIVATE:
        os.fchmod(descriptor, PRIVATE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PoolError(f"MODEL_CACHE_DIR {root} is another worker's; give each worker a folder of its own.") from None
