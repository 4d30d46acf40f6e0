"""What a reader of the log accepts: a pinned key, the tree head it remembers, and whether a new one may follow.

Pure: the caller fetches what a step asks for, and keeps the view that comes back. Nothing is accepted without the
pinned key's signature, and nothing that contradicts what was accepted before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from dataplane.protocol.transparency.checkpoint import SignedHead, open_checkpoint
from dataplane.protocol.transparency.entry import Entry
from dataplane.protocol.transparency.errors import TransparencyError
from dataplane.protocol.transparency.merkle import (
    Range,
    consistency_ranges,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)
from dataplane.protocol.transparency.note import VerifierKey

MAX_AHEAD_S: Final = 300
"""How far the log's clock may run ahead of the reader's."""


@dataclass(frozen=True, slots=True)
class LogView:
    """One reader's view of one log. `head` is the latest that it accepted, None before the first.

    `max_age_s`, where set, is how long ago the log may have said that a head is its latest.
    """

    key: VerifierKey
    head: SignedHead | None = None
    max_age_s: int | None = None

    def remembering(self, note: bytes) -> LogView:
        """The view with the head that was remembered as `note`; `TransparencyError` where the key did not sign it."""
        return replace(self, head=open_checkpoint(note, self.key))

    def open(self, note: bytes, *, now_s: int) -> SignedHead:
        """Read what the log offers as its head, before any proof.

        Raises `TransparencyError`: `note`, `checkpoint`, `signature`; `rewound` where it is smaller than the head
        remembered, `fork` where it is another tree of that size, `stale` where it is too old for `max_age_s`.
        """
        offered = open_checkpoint(note, self.key)
        if self.head is not None:
            if offered.size < self.head.size:
                raise TransparencyError(
                    f"The log {self.key.name} was rewound: it shows {offered.size} entries, and had shown "
                    f"{self.head.size}; keep both checkpoints and ask its operator.",
                    reason="rewound",
                )
            if offered.size == self.head.size and offered.root != self.head.root:
                raise self._forked(offered)
        self._check_age(offered, now_s)
        return offered

    def needed(self, offered: SignedHead) -> list[Range]:
        """Return the ranges of leaves whose hashes prove that `offered` extends the head; none where none is needed."""
        if self.head is None or self.head.size in (0, offered.size):
            return []
        return consistency_ranges(self.head.size, offered.size)

    def accept(self, offered: SignedHead, proof: Sequence[bytes]) -> LogView:
        """Return the view that remembers `offered`, which came from `open`; `proof` are the hashes of `needed`.

        Raises `TransparencyError` (`fork`) where the proof does not lead from the head remembered to the one offered.
        """
        if self.head is not None:
            try:
                verify_consistency(
                    old=self.head.size,
                    new=offered.size,
                    old_root=self.head.root,
                    new_root=offered.root,
                    proof=proof,
                )
            except TransparencyError:
                raise self._forked(offered) from None
        return replace(self, head=offered)

    def check_entry(self, index: int, data: bytes, proof: Sequence[bytes]) -> Entry:
        """Read an entry that must be number `index` of the head's tree.

        Raises `TransparencyError` (`not-included`, `proof`, `entry`).
        """
        if self.head is None:
            raise TransparencyError("No tree head was accepted yet.", reason="checkpoint")
        verify_inclusion(index=index, size=self.head.size, leaf=leaf_hash(data), proof=proof, root=self.head.root)
        return Entry.parse(data)

    def _forked(self, offered: SignedHead) -> TransparencyError:
        seen = 0 if self.head is None else self.head.size
        return TransparencyError(
            f"The log {self.key.name} was forked: its tree of {offered.size} entries does not contain the tree of "
            f"{seen} that it signed before; keep both checkpoints and ask its operator.",
            reason="fork",
        )

    def _check_age(self, offered: SignedHead, now_s: int) -> None:
        if self.max_age_s is None:
            return
        if offered.time_s is None:
            raise TransparencyError(
                f"The log {self.key.name} does not say when its head was its latest, and an age was asked for; "
                "unset the age, or ask its operator to sign with a time.",
                reason="stale",
            )
        if now_s - offered.time_s > self.max_age_s:
            raise TransparencyError(
                f"The head of the log {self.key.name} is {now_s - offered.time_s} s old, and at most {self.max_age_s} "
                "are allowed: it may be kept from showing newer entries.",
                reason="stale",
            )
        if offered.time_s - now_s > MAX_AHEAD_S:
            raise TransparencyError(
                f"The head of the log {self.key.name} is {offered.time_s - now_s} s ahead of this clock; "
                "set the clock.",
                reason="stale",
            )
