"""Tiles: the paths of the specification's examples, and proofs made from nothing but tiles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol.transparency.errors import TransparencyError
from dataplane.protocol.transparency.merkle import Node, leaf_hash, node_hash
from dataplane.protocol.transparency.tiles import (
    ENTRIES,
    Tile,
    cut_tile,
    join_entries,
    read_node,
    split_entries,
    split_tile,
    tile_of,
    tiles_between,
)


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 1234067), "tile/0/x001/x234/067"),
        (Tile(ENTRIES, 1234067, 8), "tile/entries/x001/x234/067.p/8"),
        (Tile(0, 0, 1), "tile/0/000.p/1"),
        (Tile(1, 999), "tile/1/999"),
        (Tile(2, 1000), "tile/2/x001/000"),
    ],
)
def test_a_tile_lies_where_the_specification_says(tile: Tile, path: str) -> None:
    assert tile.path == path, "groups of three digits, all but the last with an x"
    assert Tile.parse(path) == tile, "and back"


def test_a_tree_of_70000_has_the_tiles_that_the_specification_lists() -> None:
    tiles = list(tiles_between(0, 70_000))
    hashes = [tile for tile in tiles if tile.level != ENTRIES]
    full = {level: sum(t.whole for t in hashes if t.level == level) for level in range(3)}
    partial = {t.level: t.width for t in hashes if not t.whole}
    assert full == {0: 273, 1: 1, 2: 0}, "273 full tiles of leaves and one full above"
    assert partial == {0: 112, 1: 17, 2: 1}, "and one partial of each level"
    assert len([t for t in tiles if t.level == ENTRIES]) == 274, "a bundle for each tile of leaves"


def test_a_tree_of_256_has_a_full_tile_and_one_hash_above() -> None:
    assert [t for t in tiles_between(0, 256) if t.level >= 0] == [Tile(0, 0), Tile(1, 0, 1)], (
        "as the specification says"
    )


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/00",
        "tile/0/x000/001",
        "tile/00/000",
        "tile/0/1234",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/",
        "tile/64/000",
        "tile/7/000",
        "tile/data/000",
        "tile/0/x999/x999/x999/x999/x999/999",
        "../checkpoint",
        "tile/0/000/../000",
        "tile/0/\u0660\u0660\u0660",
        "tile/0/000\n",
    ],
)
def test_what_is_no_tiles_path_is_refused(path: str) -> None:
    with pytest.raises(TransparencyError) as caught:
        Tile.parse(path)
    assert caught.value.reason == "tile", "the fault is named"


@given(st.integers(-1, 3), st.integers(0, 10**9), st.integers(1, 256))
def test_every_path_is_read_as_it_was_written(level: int, index: int, width: int) -> None:
    tile = Tile(level, index % (1 << 16), width)
    assert Tile.parse(tile.path) == tile, "nothing is lost"


@given(st.integers(0, 400), st.integers(0, 400))
def test_growing_a_tree_writes_exactly_what_changed(first: int, more: int) -> None:
    written = set(tiles_between(0, first)) | set(tiles_between(first, first + more))
    assert set(tiles_between(0, first + more)) <= written, "every tile of the grown tree was written, now or before"


@given(st.data())
def test_every_subtree_is_read_from_its_tile(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 700))
    level = data.draw(st.integers(0, size.bit_length() - 1))
    index = data.draw(st.integers(0, (size >> level) - 1))
    leaves = [leaf_hash(number.to_bytes(2)) for number in range(size)]

    def hashes(height: int) -> list[bytes]:
        row = leaves
        for _ in range(height):
            row = [node_hash(row[at], row[at + 1]) for at in range(0, len(row) - 1, 2)]
        return row

    tile = tile_of(Node(level, index), size)
    row = hashes(8 * tile.level)[tile.index * 256 : tile.index * 256 + tile.width]
    assert len(row) == tile.width, "the tile is as wide as the tree has hashes for it"
    assert read_node(Node(level, index), b"".join(row)) == hashes(level)[index], "the subtree's own hash"


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=256), st.data())
def test_a_bundle_is_read_as_it_was_written(entries: list[bytes], data: st.DataObject) -> None:
    bundle = join_entries(entries)
    assert split_entries(bundle) == entries, "nothing is lost"
    width = data.draw(st.integers(1, len(entries)))
    assert cut_tile(Tile(ENTRIES, 0, width), bundle) == join_entries(entries[:width]), (
        "a whole bundle serves for a part"
    )
    if bundle:
        cut = data.draw(st.integers(0, len(bundle) - 1))
        with pytest.raises(TransparencyError):
            split_entries(bundle[:cut], least=len(entries))


@pytest.mark.parametrize("data", [b"", b"\x00" * 31, b"\x00" * 33, b"\x00" * (257 * 32)])
def test_what_is_no_tile_is_refused(data: bytes) -> None:
    with pytest.raises(TransparencyError):
        split_tile(data)


def test_a_tile_that_is_too_short_for_its_tree_is_refused() -> None:
    with pytest.raises(TransparencyError, match="should have 3"):
        cut_tile(Tile(0, 0, 3), bytes(64))
    with pytest.raises(TransparencyError, match="shorter"):
        read_node(Node(1, 1), bytes(96))
