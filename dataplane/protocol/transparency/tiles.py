"""Static files of C2SP (https://c2sp.org/tlog-tiles): a tree as tiles of 256 hashes, its entries as bundles of 256.

tile/<level>/<index>[.p/<width>]      hashes; one at level L covers 256**L leaves
tile/entries/<index>[.p/<width>]      entries, each after its length in two bytes
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

from dataplane.protocol.transparency.errors import TransparencyError
from dataplane.protocol.transparency.merkle import HASH_BYTES, MAX_TREE_SIZE, Node, node_hash

TILE_HEIGHT: Final = 8
TILE_WIDTH: Final = 1 << TILE_HEIGHT
MAX_TILE_BYTES: Final = TILE_WIDTH * HASH_BYTES
MAX_LEVEL: Final = (MAX_TREE_SIZE.bit_length() - 1) // TILE_HEIGHT
ENTRIES: Final = -1
"""The "level" of entry bundles."""

LENGTH_BYTES: Final = 2
_PATH: Final = re.compile(
    r"tile/(?P<level>entries|0|[1-9][0-9]?)/(?P<index>(?:x[0-9]{3}/){0,5}[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """One file: tile `index` of `level` (0 for leaves, `ENTRIES` for a bundle), with `width` hashes or entries."""

    level: int
    index: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """Its path below the log's address."""
        digits = str(self.index)
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        index = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        level = "entries" if self.level == ENTRIES else str(self.level)
        return f"tile/{level}/{index}" + ("" if self.whole else f".p/{self.width}")

    @property
    def whole(self) -> bool:
        """Whether it can grow no more."""
        return self.width == TILE_WIDTH

    @property
    def full(self) -> Tile:
        """The whole tile in the same place, which begins with this one."""
        return Tile(self.level, self.index)

    @classmethod
    def parse(cls, path: str) -> Self:
        """Read a path; `TransparencyError` (`tile`) for any that `path` would not give."""
        found = _PATH.fullmatch(path)
        if found is None:
            raise TransparencyError("The path is no tile's.", reason="tile")
        level = ENTRIES if found["level"] == "entries" else int(found["level"])
        index = int(found["index"].replace("/", "").replace("x", ""))
        tile = cls(level, index, int(found["width"] or TILE_WIDTH))
        if tile.path != path or level > MAX_LEVEL or tile.start > MAX_TREE_SIZE or tile.width > TILE_WIDTH:
            raise TransparencyError("The path is no tile's.", reason="tile")
        return tile

    @property
    def start(self) -> int:
        """The first leaf that it covers."""
        return self.index << (TILE_HEIGHT * (max(self.level, 0) + 1))


def tile_at(level: int, index: int, size: int) -> Tile:
    """Return tile `index` of `level` as wide as it is in a tree of `size`; `TransparencyError` where it is empty."""
    hashes = size >> (TILE_HEIGHT * max(level, 0))
    width = min(TILE_WIDTH, hashes - index * TILE_WIDTH)
    if width <= 0:
        raise TransparencyError(f"A tree of {size} entries has no tile {index} of level {level}.", reason="tile")
    return Tile(level, index, width)


def tiles_between(old: int, new: int) -> Iterator[Tile]:
    """Every file that a tree of `new` entries has and one of `old` has not: bundles, then tiles from level 0 up."""
    for level in (ENTRIES, *range(MAX_LEVEL + 1)):
        shift = TILE_HEIGHT * max(level, 0)
        before, after = old >> shift, new >> shift
        for index in range(before // TILE_WIDTH, -(-after // TILE_WIDTH)):
            tile = tile_at(level, index, new)
            if before < index * TILE_WIDTH + tile.width:
                yield tile


def tile_of(node: Node, size: int) -> Tile:
    """Return the tile that a complete subtree of a tree of `size` is read from."""
    if node.end > size:
        raise TransparencyError(f"A tree of {size} entries has no such subtree.", reason="tile")
    level, below = divmod(node.level, TILE_HEIGHT)
    return tile_at(level, node.index << below >> TILE_HEIGHT, size)


def read_node(node: Node, tile: bytes) -> bytes:
    """Return a subtree's hash from the bytes of its tile (`tile_of`)."""
    below = node.level % TILE_HEIGHT
    first = (node.index << below) % TILE_WIDTH * HASH_BYTES
    hashes = split_tile(tile)[first // HASH_BYTES : first // HASH_BYTES + (1 << below)]
    if len(hashes) != 1 << below:
        raise TransparencyError("A tile is shorter than its tree asks for.", reason="tile")
    while len(hashes) > 1:
        hashes = [node_hash(hashes[at], hashes[at + 1]) for at in range(0, len(hashes), 2)]
    return hashes[0]


def split_tile(data: bytes) -> list[bytes]:
    """Return a tile's hashes; `TransparencyError` (`tile`) unless it has 1 to 256 of 32 bytes."""
    if not data or len(data) > MAX_TILE_BYTES or len(data) % HASH_BYTES:
        raise TransparencyError(f"A tile has not 1 to {TILE_WIDTH} hashes of {HASH_BYTES} bytes.", reason="tile")
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]


def cut_tile(tile: Tile, data: bytes) -> bytes:
    """Return exactly `tile.width` hashes or entries from the front of `data`, which may be the whole tile's.

    Raises `TransparencyError` (`tile`) where there are fewer, or where `data` is no tile.
    """
    if tile.level == ENTRIES:
        return join_entries(split_entries(data, least=tile.width)[: tile.width])
    hashes = split_tile(data)
    if len(hashes) < tile.width:
        raise TransparencyError(f"{tile.path} has {len(hashes)} hashes, and should have {tile.width}.", reason="tile")
    return b"".join(hashes[: tile.width])


def join_entries(entries: Sequence[bytes]) -> bytes:
    """Return a bundle's bytes."""
    return b"".join(len(entry).to_bytes(LENGTH_BYTES) + entry for entry in entries)


def split_entries(data: bytes, *, least: int = 1) -> list[bytes]:
    """Return a bundle's entries; `TransparencyError` (`tile`) unless there are `least` to 256, and nothing else."""
    entries: list[bytes] = []
    at = 0
    while at < len(data) and len(entries) < TILE_WIDTH:
        end = at + LENGTH_BYTES + int.from_bytes(data[at : at + LENGTH_BYTES])
        if at + LENGTH_BYTES > len(data) or end > len(data):
            raise TransparencyError("An entry bundle ends within an entry.", reason="tile")
        entries.append(data[at + LENGTH_BYTES : end])
        at = end
    if at != len(data) or len(entries) < least:
        raise TransparencyError(f"An entry bundle has not {least} to {TILE_WIDTH} entries.", reason="tile")
    return entries
