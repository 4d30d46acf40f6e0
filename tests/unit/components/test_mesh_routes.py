from __future__ import annotations

import itertools
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from components.addressing import plan_cluster
from components.mesh_routes import BLACKHOLES, MeshError, MeshRoute, peerings, routes

BLOCKS = {
    "us-east-1": "10.66.0.0/18",
    "us-east-2": "10.66.64.0/18",
    "us-west-2": "10.66.128.0/18",
    "eu-west-1": "10.66.192.0/18",
}
NAMES = tuple(BLOCKS)


def blocks(count: int) -> dict[str, IPv4Network]:
    return {region: plan.block for region, plan in plan_cluster(dict(list(BLOCKS.items())[:count])).items()}


def connected(regions: tuple[str, ...], lost: set[frozenset[str]]) -> bool:
    """Union by repeated merging: another way than the module's, so that one does not vouch for itself."""
    groups = [{region} for region in regions]
    for pair in itertools.combinations(regions, 2):
        if frozenset(pair) in lost:
            continue
        joined = [group for group in groups if group & set(pair)]
        groups = [group for group in groups if not group & set(pair)] + [set().union(*joined)]
    return len(groups) == 1


def next_hop(table: list[MeshRoute], own: IPv4Network, address: IPv4Address) -> str | None:
    """What a transit gateway does: the longest prefix wins; None is delivered here, '' is dropped."""
    entries: list[tuple[IPv4Network, str | None]] = [(own, None)]
    entries += [(route.block, route.via) for route in table]
    entries += [(block, "") for block in BLACKHOLES]
    matching = [entry for entry in entries if address in entry[0]]
    return max(matching, key=lambda entry: entry[0].prefixlen)[1] if matching else ""


def travel(
    found: tuple[MeshRoute, ...], where: Mapping[str, IPv4Network], start: str, address: IPv4Address
) -> list[str]:
    """The regions that a packet passes, its start and its end among them; fails on a loop or a drop."""
    path = [start]
    while True:
        table = [route for route in found if route.region == path[-1]]
        hop = next_hop(table, where[path[-1]], address)
        if hop is None:
            return path
        assert hop, f"{address} is dropped in {path[-1]} after {path}"
        assert hop not in path, f"{address} circles: {path} then {hop}"
        path.append(hop)


LOST = st.sets(st.sampled_from([frozenset(pair) for pair in itertools.combinations(NAMES, 2)]))


@given(count=st.sampled_from([3, 4]), lost=LOST, last=st.integers(0, 2**14 - 1))
def test_every_pair_reaches_each_other_without_loops_whatever_is_lost_while_the_mesh_hangs_together(
    count: int, lost: set[frozenset[str]], last: int
) -> None:
    where = blocks(count)
    lost = {pair for pair in lost if pair <= set(where)}
    assume(connected(tuple(where), lost))
    found = routes(where, [(min(pair), max(pair)) for pair in lost])
    for start, end in itertools.permutations(where, 2):
        path = travel(found, where, start, where[end][last])
        assert path[-1] == end
        assert not {frozenset(hop) for hop in itertools.pairwise(path)} & lost, f"{path} uses a lost peering"


@given(count=st.sampled_from([3, 4]), lost=LOST)
def test_a_mesh_that_falls_apart_is_refused_with_a_sentence(count: int, lost: set[frozenset[str]]) -> None:
    where = blocks(count)
    lost = {pair for pair in lost if pair <= set(where)}
    assume(not connected(tuple(where), lost))
    with pytest.raises(MeshError, match=r"^(\S+ is cut off|The mesh is in two parts): .* out of lost_peerings\.$"):
        routes(where, [(min(pair), max(pair)) for pair in lost])


@given(count=st.sampled_from([3, 4]), lost=LOST)
def test_routes_lead_only_to_region_blocks_and_never_to_the_tables_own(count: int, lost: set[frozenset[str]]) -> None:
    where = blocks(count)
    lost = {pair for pair in lost if pair <= set(where)}
    assume(connected(tuple(where), lost))
    found = routes(where, [(min(pair), max(pair)) for pair in lost])
    assert {(route.region, route.block) for route in found} == {
        (region, block) for region in where for other, block in where.items() if other != region
    }
    assert len(found) == count * (count - 1), "one route a table and block: a second of the same block is refused"


@pytest.mark.parametrize("count", [3, 4])
def test_with_every_peering_up_each_block_goes_straight_to_its_region(count: int) -> None:
    where = blocks(count)
    assert len(peerings(tuple(where))) == count * (count - 1) // 2
    for route in routes(where):
        assert route.via == route.destination
        assert set(route.peering) == {route.region, route.destination}


@pytest.mark.parametrize("pair", list(itertools.combinations(NAMES[:3], 2)))
def test_the_loss_of_one_peering_goes_round_by_the_third_region_in_both_directions(pair: tuple[str, str]) -> None:
    where = blocks(3)
    one, other = pair
    third = next(region for region in where if region not in pair)
    for lost in ((one, other), (other, one)):  # either order names the same peering
        found = routes(where, [lost])
        assert travel(found, where, one, where[other][1]) == [one, third, other]
        assert travel(found, where, other, where[one][1]) == [other, third, one]
        assert travel(found, where, one, where[third][1]) == [one, third], "the others stay direct"


def test_only_the_routes_of_the_two_ends_change_when_one_peering_is_lost() -> None:
    before, after = set(routes(blocks(4))), set(routes(blocks(4), [("us-east-1", "us-west-2")]))
    assert {(route.region, route.destination) for route in after - before} == {
        ("us-east-1", "us-west-2"),
        ("us-west-2", "us-east-1"),
    }


@pytest.mark.parametrize(
    "address", ["10.66.192.1", "10.67.0.1", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"]
)
def test_private_addresses_of_no_region_are_dropped_in_every_region(address: str) -> None:
    where = blocks(3)
    for region in where:
        table = [route for route in routes(where) if route.region == region]
        assert next_hop(table, where[region], IPv4Address(address)) == ""


def test_no_blackhole_is_as_narrow_as_a_regions_block() -> None:
    assert all(block.prefixlen < 18 for block in BLACKHOLES), "it would win over, or collide with, a region's route"


@pytest.mark.parametrize(
    ("lost", "sentence"),
    [
        (
            [("us-east-1", "us-east-2"), ("us-west-2", "us-east-1")],
            "us-east-1 is cut off: all its peerings are named as lost; take one of them out of lost_peerings.",
        ),
        (
            [("us-east-1", "ap-south-1")],
            "The lost peering us-east-1 / ap-south-1 names ap-south-1; name two of us-east-1, us-east-2, us-west-2.",
        ),
        (
            [("us-east-1", "us-east-1")],
            "The lost peering us-east-1 / us-east-1 names one region twice; name the two that it joined.",
        ),
    ],
)
def test_what_makes_no_mesh_is_named(lost: list[tuple[str, str]], sentence: str) -> None:
    with pytest.raises(MeshError) as caught:
        routes(blocks(3), lost)
    assert str(caught.value) == sentence


def test_a_mesh_in_two_halves_names_both() -> None:
    lost = [(one, other) for one in NAMES[:2] for other in NAMES[2:]]
    with pytest.raises(MeshError) as caught:
        routes(blocks(4), lost)
    assert str(caught.value) == (
        "The mesh is in two parts: every peering between us-east-1, us-east-2 and us-west-2, eu-west-1 is named as "
        "lost; take one of them out of lost_peerings."
    )
