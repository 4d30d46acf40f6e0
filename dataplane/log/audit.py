"""The whole check of a log: every entry hashed again, every tile compared, every head that others saw contained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataplane.log.reader import LogReader, extend
from dataplane.log.source import MissingFileError
from dataplane.log.store import beyond, rows_of
from dataplane.protocol.transparency.checkpoint import SignedHead, open_checkpoint
from dataplane.protocol.transparency.entry import Entry
from dataplane.protocol.transparency.errors import TransparencyError
from dataplane.protocol.transparency.merkle import EMPTY_ROOT, leaf_hash
from dataplane.protocol.transparency.tiles import ENTRIES, TILE_WIDTH, tiles_between


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """A log that was checked whole."""

    head: SignedHead
    entries: tuple[Entry, ...]
    compared: int


async def audit(reader: LogReader, *, others: Sequence[bytes] = (), folder: Path | None = None) -> Audit:
    """Check the log at its present head, and that it contains `others`: heads of the same key that others saw.

    `folder` is where a log on this machine lies; there, files beyond the head are found too. Raises
    `TransparencyError` (`fork`, `rewound`, `hidden`, `tile`, `entry` …) and `LogUnavailableError`.
    """
    key = reader.view.key
    seen = [open_checkpoint(note, key) for note in others]
    head = await reader.update()
    data = await _read_all(reader, head)
    _check_root(head, data)
    await _compare_tiles(reader, head, data)
    entries = tuple(_parse(number, each) for number, each in enumerate(data))
    for other in seen:
        if other.size > head.size:
            raise TransparencyError(
                f"The log {key.name} shows {head.size} entries, and somebody else was shown {other.size}: it was "
                "rewound, or entries are hidden from this reader.",
                reason="rewound",
            )
        if extend((), map(leaf_hash, data[: other.size])) != other.root:
            raise TransparencyError(
                f"The log {key.name} was forked: somebody else was shown another tree of {other.size} entries. "
                "Both checkpoints are signed by its key, and prove it to anybody.",
                reason="fork",
            )
    if folder is not None and (left := beyond(folder, head.size)):
        raise TransparencyError(
            f"{folder} has {len(left)} files beyond its signed head, the first {left[0].relative_to(folder)}: an "
            "entry is hidden, or an append was interrupted (the next one removes them).",
            reason="hidden",
        )
    return Audit(head=head, entries=entries, compared=len(seen))


async def _read_all(reader: LogReader, head: SignedHead) -> list[bytes]:
    try:
        return [each async for _, each in reader.entries(0, head.size)]
    except MissingFileError as missing:
        raise TransparencyError(
            f"The log signed {head.size} entries and does not show them all. {missing}", reason="hidden"
        ) from None


def _check_root(head: SignedHead, data: Sequence[bytes]) -> None:
    root = extend((), map(leaf_hash, data)) if data else EMPTY_ROOT
    if root != head.root:
        raise TransparencyError(
            f"The log hides an entry: the {len(data)} that it shows are not those under its signed head.",
            reason="hidden",
        )


async def _compare_tiles(reader: LogReader, head: SignedHead, data: Sequence[bytes]) -> None:
    rows = rows_of(data)
    for tile in tiles_between(0, head.size):
        if tile.level == ENTRIES:
            continue
        first = tile.index * TILE_WIDTH
        if await reader.tile(tile) != b"".join(rows[tile.level][first : first + tile.width]):
            raise TransparencyError(f"{tile.path} is not what the log's entries hash to.", reason="tile")


def _parse(number: int, data: bytes) -> Entry:
    try:
        return Entry.parse(data)
    except TransparencyError as error:
        raise TransparencyError(f"Entry {number} says nothing that can be read. {error}", reason="entry") from None
