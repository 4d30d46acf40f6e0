"""Which connection goes when there are too many, and whose address counts as whose."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.router.crowd import Crowd, client_address


def make(*, most: int = 10, strangers: int = 3, busy: set[int] | None = None) -> Crowd[int]:
    in_use = set() if busy is None else busy
    return Crowd(most=most, most_strangers=strangers, busy=lambda one: one in in_use)


def test_the_oldest_stranger_of_an_address_goes_and_other_addresses_are_not_touched() -> None:
    crowd = make()
    assert crowd.add(0, "elsewhere") == [], "there is room"
    assert [crowd.add(n, "here") for n in (1, 2, 3)] == [[], [], []], "three of one address"
    assert crowd.add(4, "here") == [1], "the fourth drives out the first of its own"
    assert len(crowd) == 4, "who goes is counted out"


def test_a_tenants_connections_do_not_count_as_strangers() -> None:
    crowd = make()
    for n in range(6):
        assert crowd.add(n, "here") == [], "none has to go"
        crowd.prove(n)
    assert crowd.addresses == 0, "nobody is a stranger"


def test_when_all_is_full_strangers_go_first_then_idle_tenants_and_nobody_in_use() -> None:
    busy: set[int] = set()
    crowd = make(most=3, busy=busy)
    for n in (1, 2):
        crowd.add(n, "tenant")
        crowd.prove(n)
    crowd.add(3, "stranger")
    assert crowd.add(4, "other") == [3], "a stranger before any tenant"
    crowd.prove(4)
    assert crowd.add(5, "other") == [1], "then the tenant's connection that is idle longest"
    busy |= {2, 4, 5}
    assert crowd.add(6, "other") == [6], "whoever is in use stays, so the newcomer goes"


def test_one_of_an_address_whose_connections_are_all_in_use_is_turned_away() -> None:
    crowd = make(busy={1, 2, 3})
    for n in (1, 2, 3):
        crowd.add(n, "here")
    assert crowd.add(4, "here") == [4], "none of the others waits"


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 6))
def test_counts_never_pass_their_bounds_whatever_happens(seed: int, most: int, strangers: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - an order of events, not a secret
    busy: set[int] = set()
    crowd = make(most=most, strangers=strangers, busy=busy)
    there: dict[int, str] = {}
    unproven: set[int] = set()
    for number in range(120):
        match chance.randrange(5):
            case 0 if there:
                crowd.prove(one := chance.choice(list(there)))
                unproven.discard(one)
            case 1 if there:
                crowd.remove(one := chance.choice(list(there)))
                del there[one]
                unproven.discard(one)
                busy.discard(one)
            case 2 if there:
                busy.add(chance.choice(list(there)))
            case _:
                there[number] = f"10.0.0.{chance.randrange(3)}"
                unproven.add(number)
                for gone in crowd.add(number, there[number]):
                    assert gone not in busy, "nobody in use is cut"
                    del there[gone]
                    unproven.discard(gone)
        assert len(crowd) == len(there) <= most, "never more than there may be"
        of_one = [sum(1 for one in unproven if there[one] == address) for address in set(there.values())]
        assert max(of_one, default=0) <= strangers, "nor more strangers of one address"
        assert crowd.addresses <= len(there), "the table is no longer than there are connections"


@pytest.mark.parametrize(
    ("peername", "counts_as"),
    [
        (("192.0.2.7", 1234), "192.0.2.7"),
        (("::ffff:192.0.2.7", 1, 0, 0), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 1, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:2::", 1, 0, 0), "2001:db8:1:2::/64"),
        (("::1", 1, 0, 0), "::/64"),
        (("fe80::1%eth0", 1, 0, 2), "fe80::/64"),
        ("/run/a.sock", ""),
        ("", ""),
        (None, ""),
        ((), ""),
    ],
)
def test_an_address_counts_as_its_client(peername: Any, counts_as: str) -> None:
    assert client_address(peername) == counts_as, "an IPv6 client has a /64"
