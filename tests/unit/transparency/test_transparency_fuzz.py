"""The log's fuzz target on a fixed budget: its seeds, and what hypothesis makes of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.targets.transparency import PARSERS, SEEDS, target


@pytest.mark.parametrize("seed", SEEDS, ids=range(len(SEEDS)))
def test_a_seed_breaks_nothing(seed: bytes) -> None:
    target(seed)


def test_the_seeds_reach_every_parser() -> None:
    assert {seed[0] % len(PARSERS) for seed in SEEDS} == set(range(len(PARSERS))), "each has one to begin with"


@given(st.binary(max_size=600))
def test_no_bytes_break_a_parser(data: bytes) -> None:
    target(data)


@given(st.sampled_from(SEEDS), st.data())
def test_no_changed_seed_breaks_a_parser(seed: bytes, data: st.DataObject) -> None:
    changed = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(1, len(changed) - 1))
        changed[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
        if len(changed) < 3:
            break
    target(bytes(changed))
