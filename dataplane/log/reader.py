"""Reads one log: its head, proofs made from its tiles, its entries. What it returns was checked against the view."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dataplane.log.source import LogSource, MissingFileError, read_tile
from dataplane.protocol.transparency.checkpoint import CHECKPOINT_PATH, SignedHead
from dataplane.protocol.transparency.entry import MAX_ENTRY_BYTES, Entry
from dataplane.protocol.transparency.errors import TransparencyError
from dataplane.protocol.transparency.merkle import Node, Range, fold, inclusion_ranges, leaf_hash, node_hash, nodes
from dataplane.protocol.transparency.note import MAX_NOTE_BYTES
from dataplane.protocol.transparency.tiles import (
    ENTRIES,
    LENGTH_BYTES,
    MAX_TILE_BYTES,
    TILE_WIDTH,
    Tile,
    cut_tile,
    read_node,
    split_entries,
    tile_at,
    tile_of,
)
from dataplane.protocol.transparency.view import LogView

MAX_BUNDLE_BYTES: Final = TILE_WIDTH * (LENGTH_BYTES + MAX_ENTRY_BYTES)
"""2 MiB: 256 of the longest entries."""

MAX_READ_ENTRIES: Final = 1 << 16
"""Entries that one run reads at most, 256 bundles of about 100 KB: ten images a day fill that in 18 years."""

CACHED_TILES: Final = 64
"""Half a MiB. A proof needs at most two tiles a level, so the next proof finds most of them here."""


def wall_clock_s() -> int:
    """Seconds since 1970."""
    return int(time.time())


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An entry that was proved to be number `index` of the head's tree."""

    index: int
    entry: Entry
    head: SignedHead


class LogReader:
    """One log, read from `source`. Its `view` only ever moves to a head that contains the one before."""

    def __init__(self, source: LogSource, view: LogView, *, clock_s: Callable[[], int] = wall_clock_s) -> None:
        self.view = view
        self._source = source
        self._clock_s = clock_s
        self._tiles: OrderedDict[Tile, bytes] = OrderedDict()
        self.offered: bytes | None = None
        """The last checkpoint that was fetched, accepted or not: evidence where it was not."""

    async def update(self) -> SignedHead:
        """Fetch the log's head and accept it.

        Raises `TransparencyError` as `LogView` does, `LogUnavailableError` where a file can't be read. A log that has a
        signed head and not the tiles to prove that it extends the one before is unavailable, not accepted.
        """
        offered = await self.fetch_head()
        proof = [await self._range_hash(each, offered.size) for each in self.view.needed(offered)]
        try:
            self.view = self.view.accept(offered, proof)
        except TransparencyError:
            # Two trees, or a server with broken files? A fork is an accusation, so the tiles must fit the signed head.
            if await self._range_hash((0, offered.size), offered.size) != offered.root:
                raise TransparencyError(
                    f"The tiles at {self._source.address} are not those of the head that the log signed; "
                    "try another copy of the log.",
                    reason="tile",
                ) from None
            raise
        return offered

    async def fetch_head(self) -> SignedHead:
        """Fetch and open the log's head without remembering it."""
        self.offered = await self._source.get(CHECKPOINT_PATH, max_bytes=MAX_NOTE_BYTES)
        return self.view.open(self.offered, now_s=self._clock_s())

    async def prove(self, index: int, data: bytes) -> Found:
        """Check that `data` is entry `index` of the accepted head's tree; `TransparencyError` otherwise."""
        head = self._head()
        proof = [await self._range_hash(each, head.size) for each in inclusion_ranges(index, head.size)]
        return Found(index=index, entry=self.view.check_entry(index, data, proof), head=head)

    async def find(self, wanted: Callable[[Entry], bool]) -> Found | None:
        """Return the newest entry that is wanted, proved; None where there is none.

        Every bundle is fetched until one is found, newest first: the server does not learn which entry is looked for.
        Entries that cannot be read are passed over, for they are not what is looked for.
        """
        head = self._head()
        self._check_count(head.size)
        for bundle in reversed(range(-(-head.size // TILE_WIDTH))):
            entries = await self.bundle(bundle, head.size)
            for at in reversed(range(len(entries))):
                if (entry := _parse(entries[at])) is not None and wanted(entry):
                    return await self.prove(bundle * TILE_WIDTH + at, entries[at])
        return None

    async def entries(self, start: int, end: int) -> AsyncIterator[tuple[int, bytes]]:
        """Every entry from `start` up to, without, `end`, in order and not yet checked against the tree."""
        self._check_count(end - start)
        for bundle in range(start // TILE_WIDTH, -(-end // TILE_WIDTH)):
            for at, data in enumerate(await self.bundle(bundle, self._head().size), bundle * TILE_WIDTH):
                if start <= at < end:
                    yield at, data

    async def checked_entries(self, start: int, end: int, *, from_head: SignedHead) -> list[bytes]:
        """Return the entries from `start` to `end`, which with `from_head`'s tree of `start` make the head's root.

        Raises `TransparencyError` (`hidden`) where they do not: the log shows other entries than it signed, or fewer.
        """
        head = self._head()
        hashes = [(node, await self._node(node, head.size)) for node in nodes((0, start))]
        if fold([each for _, each in hashes]) != from_head.root:
            raise TransparencyError("The log's tiles are not those of the head that was remembered.", reason="tile")
        found: list[bytes] = []
        try:
            async for _, data in self.entries(start, end):
                found.append(data)
        except MissingFileError as missing:
            raise TransparencyError(
                f"The log signed {end} entries and does not show them all: {missing}", reason="hidden"
            ) from None
        if extend(hashes, (leaf_hash(data) for data in found)) != head.root:
            raise TransparencyError(
                f"The log hides an entry: its entries {start} to {end - 1} are not those under its signed head.",
                reason="hidden",
            )
        return found

    async def bundle(self, index: int, size: int) -> list[bytes]:
        """Return the entries of bundle `index` of a tree of `size`, not yet checked against the tree."""
        tile = tile_at(ENTRIES, index, size)
        data = await read_tile(self._source, tile, max_bytes=MAX_BUNDLE_BYTES)
        return split_entries(cut_tile(tile, data))

    async def tile(self, tile: Tile) -> bytes:
        """Return a tile's hashes, not yet checked against the tree."""
        if tile in self._tiles:
            self._tiles.move_to_end(tile)
            return self._tiles[tile]
        data = cut_tile(tile, await read_tile(self._source, tile, max_bytes=MAX_TILE_BYTES))
        self._tiles[tile] = data
        if len(self._tiles) > CACHED_TILES:
            self._tiles.popitem(last=False)
        return data

    async def range_hashes(self, ranges: Sequence[Range], size: int) -> list[bytes]:
        """Return the hashes of ranges of a tree of `size`, read from its tiles and not yet checked."""
        return [await self._range_hash(each, size) for each in ranges]

    async def _range_hash(self, leaves: Range, size: int) -> bytes:
        return fold([await self._node(node, size) for node in nodes(leaves)])

    async def _node(self, node: Node, size: int) -> bytes:
        return read_node(node, await self.tile(tile_of(node, size)))

    def _head(self) -> SignedHead:
        if self.view.head is None:
            raise TransparencyError("No tree head was accepted yet.", reason="checkpoint")
        return self.view.head

    @staticmethod
    def _check_count(count: int) -> None:
        if count > MAX_READ_ENTRIES:
            raise TransparencyError(
                f"The log has {count} entries to read, and at most {MAX_READ_ENTRIES} are read in one run.",
                reason="proof",
            )


def extend(frontier: Sequence[tuple[Node, bytes]], leaves: Iterable[bytes]) -> bytes:
    """Return the root over `frontier` (the complete subtrees of a tree, left to right) and further leaf hashes."""
    stack = list(frontier)
    at = stack[-1][0].end if stack else 0
    for leaf in leaves:
        stack.append((Node(0, at), leaf))
        at += 1
        while len(stack) > 1 and stack[-2][0].level == stack[-1][0].level:
            (left, a), (_, b) = stack[-2:]
            stack[-2:] = [(Node(left.level + 1, left.index >> 1), node_hash(a, b))]
    return fold([each for _, each in stack])


def _parse(data: bytes) -> Entry | None:
    try:
        return Entry.parse(data)
    except TransparencyError:
        return None
