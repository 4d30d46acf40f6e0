"""The log's folder as its operator writes it: one writer, entries before tiles before the head, nothing ever changed.

Until the new checkpoint has its name, the log is the older one: files beyond its head are of no tree that was signed.
They are what an interrupted append leaves, and the next one removes them before it writes.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dataplane.log.disk import TEMPORARY, Disk
from dataplane.log.headfile import HeadFile
from dataplane.log.reader import MAX_READ_ENTRIES, extend
from dataplane.protocol.errors import MrgcError
from dataplane.protocol.transparency.checkpoint import CHECKPOINT_PATH, Checkpoint, SignedHead, open_checkpoint
from dataplane.protocol.transparency.entry import Entry
from dataplane.protocol.transparency.errors import TransparencyError
from dataplane.protocol.transparency.merkle import EMPTY_ROOT, leaf_hash, node_hash
from dataplane.protocol.transparency.note import SignerKey, VerifierKey
from dataplane.protocol.transparency.tiles import (
    ENTRIES,
    TILE_HEIGHT,
    TILE_WIDTH,
    Tile,
    join_entries,
    split_entries,
    tile_at,
    tiles_between,
)

LOCK: Final = ".lock"


class StoreError(MrgcError):
    """A log's folder that can't be read or written, or is not what its head says."""


class LogStore:
    """One log's folder. `disk` makes every change; `signer`'s name is the log's.

    `signed` remembers, apart from the folder, the last head that the key signed: a folder that was set back (from a
    backup, say) is not appended to, for that would fork the log.
    """

    def __init__(self, disk: Disk, signer: SignerKey, *, signed: HeadFile) -> None:
        self._disk = disk
        self._root = disk.root
        self._signer = signer
        self._signed = signed

    def create(self, *, time_s: int) -> SignedHead:
        """Make the log without entries; `StoreError` where there is one already, or other files."""
        with self._locked():
            if self._signed.read() is not None:
                raise StoreError(
                    f"{self._signed.path} says that this key signs a log already; make a key for a new one."
                )
            if any(path.name != LOCK for path in self._root.iterdir()):
                raise StoreError(f"{self._root} is not empty; name a new folder for a new log.")
            return self._publish(Checkpoint(self._signer.name, 0, EMPTY_ROOT), time_s)

    def refresh(self, *, time_s: int) -> SignedHead:
        """Sign the present head again with a new time, so that readers who ask for its age accept it."""
        with self._locked():
            return self._publish(Checkpoint(self._signer.name, *self._check(self._read_entries())), time_s)

    def append(self, new: Sequence[Entry], *, time_s: int) -> tuple[SignedHead, list[int]]:
        """Add what is not in the log yet; returns its head, and the number of each entry of `new`.

        The same measurement of the same version is not written twice. Another measurement under a name and version
        that the log has is refused, as is a log whose files are not those of its head (`StoreError`).
        """
        with self._locked():
            data = self._read_entries()
            size, _ = self._check(data)
            known = {_named(entry): (n, entry) for n, entry in enumerate(map(_parse, range(size), data))}
            numbers: list[int] = []
            for entry in new:
                number, other = known.setdefault(_named(entry), (len(data), entry))
                if not other.same_thing(entry):
                    raise StoreError(
                        f"Entry {number} has another measurement of {' '.join(_named(entry))}; "
                        "give the new one a version of its own."
                    )
                if number == len(data):
                    data.append(entry.encode())
                numbers.append(number)
            if len(data) > MAX_READ_ENTRIES:
                raise StoreError(f"A log has at most {MAX_READ_ENTRIES} entries; begin a new one.")
            self._write(size, data)
            root = extend((), map(leaf_hash, data))
            head = self._publish(Checkpoint(self._signer.name, len(data), root), time_s)
            self._remove_parts(size, len(data))
            return head, numbers

    def _read_entries(self) -> list[bytes]:
        head = self._head()
        data: list[bytes] = []
        for bundle in range(-(-head.size // TILE_WIDTH)):
            tile = tile_at(ENTRIES, bundle, head.size)
            try:
                data += split_entries(self._read(tile), least=tile.width)[: tile.width]
            except TransparencyError as error:
                raise StoreError(f"{self._root / tile.path} is damaged ({error}); restore the log.") from None
        return data

    def _check(self, data: Sequence[bytes]) -> tuple[int, bytes]:
        """Return the head's size and root, which the entries must make: nothing is signed that was not read."""
        head = self._head()
        if len(data) != head.size or extend((), map(leaf_hash, data)) != head.root:
            raise StoreError(f"The entries in {self._root} are not those of its signed head; restore the log.")
        note = self._signed.read()
        signed = None if note is None else open_checkpoint(note, self._signer.verifier)
        if signed is not None and (
            signed.size > head.size or extend((), map(leaf_hash, data[: signed.size])) != signed.root
        ):
            raise StoreError(
                f"{self._root} is older than the {signed.size} entries that its key has signed ({self._signed.path}): "
                "to append here would fork the log; restore the newest copy."
            )
        return head.size, head.root

    def _head(self) -> SignedHead:
        return read_head(self._root, self._signer.verifier)

    def _read(self, tile: Tile) -> bytes:
        for path in (tile.path, tile.full.path):
            try:
                return (self._root / path).read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StoreError(f"{self._root / path} can't be read ({error.strerror}).") from None
        raise StoreError(f"{self._root / tile.path} is missing, and the signed head has it; restore the log.")

    def _write(self, size: int, data: Sequence[bytes]) -> None:
        for path in beyond(self._root, size):
            self._disk.remove(path)
        rows = rows_of(data)
        for tile in tiles_between(size, len(data)):
            first = tile.index * TILE_WIDTH
            if tile.level == ENTRIES:
                self._disk.replace(tile.path, join_entries(data[first : first + tile.width]))
            else:
                self._disk.replace(tile.path, b"".join(rows[tile.level][first : first + tile.width]))

    def _publish(self, checkpoint: Checkpoint, time_s: int) -> SignedHead:
        note = checkpoint.sign(self._signer, time_s=time_s)
        before = self._signed.read()
        self._disk.replace(CHECKPOINT_PATH, note)
        self._signed.replace(note, instead_of=before)
        return open_checkpoint(note, self._signer.verifier)

    def _remove_parts(self, old: int, new: int) -> None:
        """Take away the parts of tiles that are whole now: a reader of an older head takes the whole one."""
        for tile in tiles_between(old, new):
            parts = self._root / f"{tile.path}.p"
            if tile.whole and parts.is_dir():
                for part in sorted(parts.iterdir()):
                    self._disk.remove(part)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._root / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreError(f"{self._root} can't be written ({error.strerror}); name the log's folder.") from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreError(f"{self._root} is being written by another process; wait for it.") from None
            yield
        except OSError as error:
            raise StoreError(
                f"{self._root} can't be written ({error.strerror}); the log is as it was before."
            ) from error
        finally:
            os.close(descriptor)


def read_head(root: Path, key: VerifierKey) -> SignedHead:
    """Return a folder's signed head; `StoreError` without one, `TransparencyError` where `key` did not sign it."""
    try:
        note = (root / CHECKPOINT_PATH).read_bytes()
    except FileNotFoundError:
        raise StoreError(f"{root} holds no log; make one with `mrgc log init`.") from None
    except OSError as error:
        raise StoreError(f"{root / CHECKPOINT_PATH} can't be read ({error.strerror}).") from None
    return open_checkpoint(note, key)


def beyond(root: Path, size: int) -> list[Path]:
    """Return the files of a log's folder that a tree of `size` entries has not, and no smaller one had."""
    found: list[Path] = []
    for path in sorted((root / "tile").rglob("*")):
        if not path.is_file():
            continue
        try:
            tile = Tile.parse(path.relative_to(root).as_posix())
        except TransparencyError:
            found.append(path)
            continue
        hashes = size >> (TILE_HEIGHT * max(tile.level, 0))
        if tile.index * TILE_WIDTH + tile.width > hashes:
            found.append(path)
    leftover = root / (CHECKPOINT_PATH + TEMPORARY)
    return [*found, *([leftover] if leftover.exists() else [])]


def _named(entry: Entry) -> tuple[str, str, str]:
    """Return what one measurement only may stand under."""
    return entry.kind, entry.name, entry.version


def _parse(number: int, data: bytes) -> Entry:
    try:
        return Entry.parse(data)
    except TransparencyError as error:
        raise StoreError(f"Entry {number} of the log is not one that this program writes ({error})") from None


def rows_of(data: Sequence[bytes]) -> list[list[bytes]]:
    """Return the hashes that the tiles of each level hold, from the leaves up."""
    rows = [[leaf_hash(each) for each in data]]
    while len(rows[-1]) >= TILE_WIDTH:
        rows.append(_above(rows[-1]))
    return rows


def _above(row: Sequence[bytes]) -> list[bytes]:
    """Return the hashes of a row's whole tiles: the next level's row."""
    made: list[bytes] = []
    for first in range(0, len(row) - TILE_WIDTH + 1, TILE_WIDTH):
        hashes = list(row[first : first + TILE_WIDTH])
        while len(hashes) > 1:
            hashes = [node_hash(hashes[at], hashes[at + 1]) for at in range(0, len(hashes), 2)]
        made.append(hashes[0])
    return made
