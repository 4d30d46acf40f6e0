"""Merkle tree hashes and proofs of RFC 9162, section 2.1 (the same as RFC 6962's), over SHA-256.

A proof is made from ranges of leaves: `inclusion_ranges` and `consistency_ranges` say which, in the proof's order, and
`nodes` says of which complete subtrees a range is folded. So whoever can read complete subtrees (from tiles, or from a
list in memory) can make any proof.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from dataplane.protocol.transparency.errors import TransparencyError

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
"""The head of a tree without leaves (RFC 9162, section 2.1.1)."""

MAX_TREE_SIZE: Final = 1 << 48
"""Leaves that are reckoned with at most: a log of one entry a microsecond fills it in nine years."""

MAX_PROOF_HASHES: Final = 2 * 48
"""A path has one hash a level at most, and a consistency proof at most one a level of both paths."""


@dataclass(frozen=True, slots=True, order=True)
class Node:
    """A complete subtree: `1 << level` leaves from leaf `index << level` on."""

    level: int
    index: int

    @property
    def end(self) -> int:
        """The first leaf behind it."""
        return (self.index + 1) << self.level


Range = tuple[int, int]
"""Leaves from the first number up to, without, the second."""
ReadNode = Callable[[Node], bytes]


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of one entry: SHA-256(0x00 || entry)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of two subtrees: SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def nodes(leaves: Range) -> list[Node]:
    """Return the complete subtrees, left to right and ever smaller, that a range is folded from.

    The range must begin at a multiple of a power of two that its length does not exceed, as every range of this module
    does.
    """
    start, end = leaves
    found: list[Node] = []
    while start < end:
        level = (end - start).bit_length() - 1
        found.append(Node(level, start >> level))
        start += 1 << level
    return found


def fold(hashes: Sequence[bytes]) -> bytes:
    """Return the hash over complete subtrees as `nodes` lists them; `EMPTY_ROOT` for none."""
    if not hashes:
        return EMPTY_ROOT
    folded = hashes[-1]
    for left in reversed(hashes[:-1]):
        folded = node_hash(left, folded)
    return folded


def range_hash(leaves: Range, read: ReadNode) -> bytes:
    """Return the hash of a range's tree, its complete subtrees read with `read`."""
    return fold([read(node) for node in nodes(leaves)])


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """Return the ranges whose hashes prove leaf `index` in a tree of `size` leaves, from the leaf up."""
    if not 0 <= index < size <= MAX_TREE_SIZE:
        raise TransparencyError(f"A tree of {size} entries has no entry {index}.", reason="proof")
    found: list[Range] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((start, middle))
            start = middle
    return found[::-1]


def consistency_ranges(old: int, new: int) -> list[Range]:
    """Return the ranges whose hashes prove that a tree of `new` leaves extends one of `old` (RFC 9162, 2.1.4.1)."""
    if not 0 < old <= new <= MAX_TREE_SIZE:
        raise TransparencyError(f"No proof leads from {old} to {new} entries.", reason="proof")
    found: list[Range] = []
    start, end, whole = 0, new, True
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((start, middle))
            start, whole = middle, False
    if not whole:
        found.append((start, end))
    return found[::-1]


def _split(length: int) -> int:
    """Return the largest power of two below `length`, which is 2 or more."""
    return 1 << ((length - 1).bit_length() - 1)


def verify_inclusion(*, index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Check that `leaf` (a leaf hash) is entry `index` of the tree (RFC 9162, section 2.1.3.2).

    Raises `TransparencyError` (`proof` for a malformed one, `not-included` where it leads to another root).
    """
    if not 0 <= index < size <= MAX_TREE_SIZE:
        raise TransparencyError(f"A tree of {size} entries has no entry {index}.", reason="proof")
    _check_lengths((leaf, root, *proof))
    current = leaf
    for sibling, left in _steps(index, size - 1, proof):
        current = node_hash(sibling, current) if left else node_hash(current, sibling)
    if current != root:
        raise TransparencyError(f"Entry {index} is not in the tree of {size} entries.", reason="not-included")


def verify_consistency(*, old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of `new` leaves begins with the tree of `old` leaves (RFC 9162, section 2.1.4.2).

    Every tree extends the empty one, and equal sizes need equal roots; both with an empty proof. Raises
    `TransparencyError` (`proof` for a malformed proof, `fork` where the trees disagree).
    """
    if not 0 <= old <= new <= MAX_TREE_SIZE:
        raise TransparencyError(f"No proof leads from {old} to {new} entries.", reason="proof")
    _check_lengths((old_root, new_root, *proof))
    if old in (0, new):
        _verify_without_proof(old, new, old_root, new_root, proof)
        return
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    if not path:
        raise TransparencyError("The consistency proof is empty.", reason="proof")
    place, last = old - 1, new - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old_folded = new_folded = path[0]
    for sibling, left in _steps(place, last, path[1:]):
        if left:
            old_folded, new_folded = node_hash(sibling, old_folded), node_hash(sibling, new_folded)
        else:
            new_folded = node_hash(new_folded, sibling)
    if old_folded != old_root or new_folded != new_root:
        raise TransparencyError(f"The tree of {new} entries does not begin with the {old} seen before.", reason="fork")


def _verify_without_proof(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    if proof:
        raise TransparencyError("A consistency proof was given where none is needed.", reason="proof")
    if old == new and old_root != new_root:
        raise TransparencyError(f"There are two trees of {new} entries.", reason="fork")
    if old == 0 and old_root != EMPTY_ROOT:
        raise TransparencyError("A tree without entries has another root than RFC 9162's.", reason="fork")


def _steps(place: int, last: int, proof: Sequence[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Every sibling on the way up from node `place` of a level that ends with `last`, and whether it stands left."""
    for sibling in proof:
        if last == 0:
            raise TransparencyError("The proof has more hashes than the tree has levels.", reason="proof")
        left = bool(place & 1) or place == last
        yield sibling, left
        while left and place & 1 == 0 and place != 0:
            place, last = place >> 1, last >> 1
        place, last = place >> 1, last >> 1
    if last != 0:
        raise TransparencyError("The proof has fewer hashes than the tree has levels.", reason="proof")


def _check_lengths(hashes: Sequence[bytes]) -> None:
    if len(hashes) > MAX_PROOF_HASHES + 2 or any(len(each) != HASH_BYTES for each in hashes):
        raise TransparencyError(
            f"A proof must have at most {MAX_PROOF_HASHES} hashes of {HASH_BYTES} bytes.", reason="proof"
        )
