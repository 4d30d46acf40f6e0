"""Merkle hashes and proofs: known answers of RFC 6962's authors, and what RFC 9162 says of all trees."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol.transparency.errors import TransparencyError
from dataplane.protocol.transparency.merkle import (
    EMPTY_ROOT,
    Node,
    consistency_ranges,
    inclusion_ranges,
    leaf_hash,
    node_hash,
    nodes,
    range_hash,
    verify_consistency,
    verify_inclusion,
)

# The reference leaves and roots of certificate-transparency's merkle tree tests, which RFC 6962's authors wrote.
LEAVES = [bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")]
LEAVES.append(bytes.fromhex("606162636465666768696a6b6c6d6e6f"))
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSIONS = [
    (0, 1, []),
    (
        0,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
]
CONSISTENCIES = [
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]


class Tree:
    """A whole tree in memory, reckoned as RFC 9162 defines it: by recursion, without this project's proofs."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.hashes = [leaf_hash(leaf) for leaf in leaves]

    def head(self, start: int, end: int) -> bytes:
        if start == end:
            return EMPTY_ROOT
        if end - start == 1:
            return self.hashes[start]
        split = 1
        while split * 2 < end - start:
            split *= 2
        return node_hash(self.head(start, start + split), self.head(start + split, end))

    def read(self, node: Node) -> bytes:
        return self.head(node.index << node.level, node.end)


def made(count: int) -> Tree:
    return Tree([number.to_bytes(4) for number in range(count)])


def test_an_empty_tree_has_the_hash_of_nothing() -> None:
    assert hashlib.sha256(b"").digest() == EMPTY_ROOT, "RFC 9162, section 2.1.1"
    assert range_hash((0, 0), made(0).read) == EMPTY_ROOT, "and so it is folded"


@pytest.mark.parametrize("size", range(1, 9))
def test_the_reference_trees_have_their_published_roots(size: int) -> None:
    tree = Tree(LEAVES)
    assert range_hash((0, size), tree.read).hex() == ROOTS[size - 1], "folded from complete subtrees"
    assert tree.head(0, size).hex() == ROOTS[size - 1], "and the test's own recursion agrees"


@pytest.mark.parametrize(("index", "size", "proof"), INCLUSIONS)
def test_the_published_inclusion_proofs_are_made_and_verified(index: int, size: int, proof: list[str]) -> None:
    tree = Tree(LEAVES)
    found = [range_hash(each, tree.read) for each in inclusion_ranges(index, size)]
    assert [each.hex() for each in found] == proof, "the same hashes in the same order"
    root = bytes.fromhex(ROOTS[size - 1])
    verify_inclusion(index=index, size=size, leaf=leaf_hash(LEAVES[index]), proof=found, root=root)


@pytest.mark.parametrize(("old", "new", "proof"), CONSISTENCIES)
def test_the_published_consistency_proofs_are_made_and_verified(old: int, new: int, proof: list[str]) -> None:
    tree = Tree(LEAVES)
    found = [range_hash(each, tree.read) for each in consistency_ranges(old, new)]
    assert [each.hex() for each in found] == proof, "the same hashes in the same order"
    old_root, new_root = bytes.fromhex(ROOTS[old - 1]), bytes.fromhex(ROOTS[new - 1])
    verify_consistency(old=old, new=new, old_root=old_root, new_root=new_root, proof=found)


@given(st.data())
def test_every_entry_of_every_tree_is_proved(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 600))
    index = data.draw(st.integers(0, size - 1))
    tree = made(size)
    proof = [range_hash(each, tree.read) for each in inclusion_ranges(index, size)]
    verify_inclusion(index=index, size=size, leaf=tree.hashes[index], proof=proof, root=tree.head(0, size))
    other = data.draw(st.integers(0, size - 1))
    if other != index:
        with pytest.raises(TransparencyError):
            verify_inclusion(index=other, size=size, leaf=tree.hashes[index], proof=proof, root=tree.head(0, size))


@given(st.data())
def test_every_longer_tree_is_proved_to_begin_with_the_shorter(data: st.DataObject) -> None:
    new = data.draw(st.integers(1, 600))
    old = data.draw(st.integers(1, new))
    tree = made(new)
    proof = [range_hash(each, tree.read) for each in consistency_ranges(old, new)]
    verify_consistency(old=old, new=new, old_root=tree.head(0, old), new_root=tree.head(0, new), proof=proof)


@given(st.data())
def test_no_proof_leads_from_a_tree_to_one_with_an_entry_changed(data: st.DataObject) -> None:
    new = data.draw(st.integers(2, 300))
    old = data.draw(st.integers(1, new - 1))
    changed = data.draw(st.integers(0, old - 1))
    honest, forked = made(new), made(new)
    forked.hashes[changed] = leaf_hash(b"another measurement")
    for tree in (honest, forked):
        proof = [range_hash(each, tree.read) for each in consistency_ranges(old, new)]
        with pytest.raises(TransparencyError) as caught:
            verify_consistency(
                old=old, new=new, old_root=honest.head(0, old), new_root=forked.head(0, new), proof=proof
            )
        assert caught.value.reason == "fork", "neither tree's proof leads from one to the other"


@given(st.data())
def test_a_proof_with_a_hash_changed_added_or_lost_is_refused(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 300))
    index = data.draw(st.integers(0, size - 1))
    tree = made(size)
    proof = [range_hash(each, tree.read) for each in inclusion_ranges(index, size)]
    at = data.draw(st.integers(0, len(proof) - 1))
    flipped = bytes([proof[at][0] ^ 1]) + proof[at][1:]
    for wrong in ([*proof[:at], flipped, *proof[at + 1 :]], proof[:at] + proof[at + 1 :], [*proof, proof[0]]):
        with pytest.raises(TransparencyError):
            verify_inclusion(index=index, size=size, leaf=tree.hashes[index], proof=wrong, root=tree.head(0, size))


def test_an_inner_node_does_not_pass_for_an_entry() -> None:
    tree = made(4)
    with pytest.raises(TransparencyError) as caught:
        verify_inclusion(
            index=0, size=2, leaf=leaf_hash(tree.head(0, 2)), proof=[tree.head(2, 4)], root=tree.head(0, 4)
        )
    assert caught.value.reason == "not-included", "leaves and nodes are hashed apart"


@given(st.integers(0, 1 << 40), st.integers(1, 1 << 40))
def test_a_range_is_its_complete_subtrees_without_gap(block: int, length: int) -> None:
    level = length.bit_length()
    start = (block << level) % (1 << 47) >> level << level
    found = nodes((start, start + length))
    at = start
    for node in found:
        assert node.index << node.level == at, "each begins where the last ended"
        at = node.end
    assert at == start + length, "and together they are the range"
    assert [n.level for n in found] == sorted({n.level for n in found}, reverse=True), "each smaller than the last"


@pytest.mark.parametrize(("old", "new"), [(0, 1), (3, 2), (1, 1 << 60)])
def test_ranges_that_no_tree_has_are_refused(old: int, new: int) -> None:
    with pytest.raises(TransparencyError):
        consistency_ranges(old, new)


def test_a_tree_without_entries_is_extended_by_every_tree_without_a_proof() -> None:
    verify_consistency(old=0, new=5, old_root=EMPTY_ROOT, new_root=made(5).head(0, 5), proof=[])
    with pytest.raises(TransparencyError, match="without entries"):
        verify_consistency(old=0, new=5, old_root=b"\x01" * 32, new_root=made(5).head(0, 5), proof=[])
    with pytest.raises(TransparencyError, match="none is needed"):
        verify_consistency(old=0, new=5, old_root=EMPTY_ROOT, new_root=made(5).head(0, 5), proof=[EMPTY_ROOT])
