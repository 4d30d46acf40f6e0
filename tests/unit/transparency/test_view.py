"""What a reader accepts after what it has seen: a state machine, driven through honest and lying logs."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from dataplane.log.reader import extend
from dataplane.protocol.transparency.checkpoint import Checkpoint, SignedHead
from dataplane.protocol.transparency.entry import Entry
from dataplane.protocol.transparency.errors import TransparencyError
from dataplane.protocol.transparency.merkle import Node, inclusion_ranges, leaf_hash, range_hash
from dataplane.protocol.transparency.note import SignerKey
from dataplane.protocol.transparency.view import MAX_AHEAD_S, LogView
from tests.support.measurement_log import NOW_S, SIGNER, images

ENTRIES = [entry.encode() for entry in images(40)]


@dataclass
class Served:
    """What some log shows: entries, and heads signed over any number of them."""

    entries: list[bytes]
    signer: SignerKey = field(default=SIGNER)

    def root(self, size: int) -> bytes:
        return extend((), map(leaf_hash, self.entries[:size]))

    def read(self, node: Node) -> bytes:
        return extend((), map(leaf_hash, self.entries[node.index << node.level : node.end]))

    def note(self, size: int, *, time_s: int | None = NOW_S) -> bytes:
        return Checkpoint(SIGNER.name, size, self.root(size)).sign(self.signer, time_s=time_s)

    def show(self, view: LogView, size: int, *, time_s: int | None = NOW_S, now_s: int = NOW_S) -> LogView:
        offered = view.open(self.note(size, time_s=time_s), now_s=now_s)
        return view.accept(offered, [range_hash(each, self.read) for each in view.needed(offered)])


def fresh(max_age_s: int | None = None) -> LogView:
    return LogView(SIGNER.verifier, max_age_s=max_age_s)


def head(view: LogView) -> SignedHead:
    assert view.head is not None, "a head was accepted"
    return view.head


def reason(served: Served, view: LogView, size: int, **changes: int | None) -> str:
    with pytest.raises(TransparencyError) as caught:
        served.show(view, size, **changes)  # type: ignore[arg-type]
    return caught.value.reason


def test_a_growing_log_is_followed() -> None:
    honest, view = Served(ENTRIES), fresh()
    for size in (0, 0, 1, 3, 3, 8, 40):
        view = honest.show(view, size)
        assert head(view).size == size, "each head contains the one before"


def test_a_fork_is_refused() -> None:
    view = Served(ENTRIES).show(fresh(), 7)
    forked = Served([*ENTRIES[:3], ENTRIES[39], *ENTRIES[4:]])
    assert reason(forked, view, 7) == "fork", "another tree of the same size"
    assert reason(forked, view, 20) == "fork", "a longer tree that does not begin with ours"


def test_a_rewound_tree_is_refused_though_the_key_signed_it_once() -> None:
    honest = Served(ENTRIES)
    assert reason(honest, honest.show(fresh(), 7), 6) == "rewound", "a head may only grow"
    assert reason(honest, honest.show(fresh(), 7), 0) == "rewound", "not even to nothing"


def test_an_old_head_is_refused_where_its_age_counts() -> None:
    honest = Served(ENTRIES)
    assert head(honest.show(fresh(max_age_s=600), 5, time_s=NOW_S - 600)).size == 5, "ten minutes are allowed"
    assert reason(honest, fresh(max_age_s=600), 5, time_s=NOW_S - 601) == "stale", "a second more is not"
    assert reason(honest, fresh(max_age_s=600), 5, time_s=None) == "stale", "nor a head that says no time"
    assert reason(honest, fresh(max_age_s=600), 5, time_s=NOW_S + MAX_AHEAD_S + 1) == "stale", "nor one from the future"
    assert head(honest.show(fresh(), 5, time_s=None)).size == 5, "without an age asked for, any will do"


def test_a_head_of_another_key_is_refused() -> None:
    stranger = Served(ENTRIES, SignerKey(SIGNER.name, b"\x08" * 32))
    assert reason(stranger, fresh(), 5) == "signature", "the pinned key alone counts"


def test_an_entry_is_accepted_at_its_place_only() -> None:
    honest = Served(ENTRIES)
    view = honest.show(fresh(), 20)
    proof = [range_hash(each, honest.read) for each in inclusion_ranges(4, 20)]
    assert view.check_entry(4, ENTRIES[4], proof) == Entry.parse(ENTRIES[4]), "proved, and read"
    for index, data in ((5, ENTRIES[4]), (4, ENTRIES[5]), (4, b"{}")):
        with pytest.raises(TransparencyError) as caught:
            view.check_entry(index, data, proof)
        assert caught.value.reason in {"not-included", "proof"}, "elsewhere, or another entry, is not in the log"


def test_nothing_is_in_a_log_whose_head_was_never_accepted() -> None:
    with pytest.raises(TransparencyError, match="No tree head"):
        fresh().check_entry(0, ENTRIES[0], [])


def test_a_remembered_head_counts_only_under_the_pinned_key() -> None:
    stranger = Served(ENTRIES, SignerKey(SIGNER.name, b"\x08" * 32))
    with pytest.raises(TransparencyError):
        fresh().remembering(stranger.note(5))
    assert head(fresh().remembering(Served(ENTRIES).note(5))).size == 5, "and then it is as if just accepted"


class Reader(RuleBasedStateMachine):
    """Any sequence of honest, forked and rewound heads: what is accepted is always one chain."""

    view: LogView
    accepted: list[int]

    @initialize()
    def start(self) -> None:
        self.view = fresh()
        self.accepted = []
        self.honest = Served(ENTRIES)

    @rule(size=st.integers(0, 40))
    def shown_the_honest_log(self, size: int) -> None:
        if self.accepted and size < self.accepted[-1]:
            assert reason(self.honest, self.view, size) == "rewound", "never smaller"
            return
        self.view = self.honest.show(self.view, size)
        self.accepted.append(size)

    @rule(size=st.integers(1, 40), changed=st.integers(0, 38))
    def shown_another_tree(self, size: int, changed: int) -> None:
        seen = self.accepted[-1] if self.accepted else 0
        if changed >= min(seen, size):
            return  # the change lies beyond what was seen: it is an honest log's future, as far as one can tell
        lying = Served([*ENTRIES[:changed], b"another", *ENTRIES[changed + 1 :]])
        assert reason(lying, self.view, size) == ("rewound" if size < seen else "fork"), "never another tree"


TestReader = Reader.TestCase


@given(st.integers(1, 40), st.integers(1, 40), st.lists(st.binary(min_size=32, max_size=32), max_size=12))
def test_no_made_up_proof_leads_to_a_fork(old: int, new: int, proof: list[bytes]) -> None:
    view = Served(ENTRIES).show(fresh(), old)
    lying = Served([b"another", *ENTRIES[1:]])
    with pytest.raises(TransparencyError):
        view.accept(view.open(lying.note(max(old, new)), now_s=NOW_S), proof)
