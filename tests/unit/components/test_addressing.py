"""The address plan: every /18 gets the same tiers at the same offsets, and two regions never share an address."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.addressing import CLUSTER, AddressingError, plan_cluster, plan_region

BLOCKS = [f"10.66.{third}.0/18" for third in (0, 64, 128, 192)]
NAMES = ["us-east-1", "us-east-2", "us-west-2", "eu-west-1"]
blocks = st.sampled_from(BLOCKS)
clusters = st.permutations(BLOCKS).flatmap(
    lambda order: st.integers(1, 4).map(lambda count: dict(zip(NAMES[:count], order[:count], strict=True)))
)


def test_the_first_region_has_the_documented_subnets() -> None:
    plan = plan_region("us-east-1", "10.66.0.0/18")
    assert [str(one) for one in plan.public] == ["10.66.0.0/24", "10.66.1.0/24", "10.66.2.0/24"]
    assert [str(one) for one in plan.private] == ["10.66.10.0/23", "10.66.12.0/23", "10.66.14.0/23"]
    assert [str(one) for one in plan.fsx] == ["10.66.20.0/24", "10.66.21.0/24"]
    assert [str(one) for one in plan.transit] == ["10.66.30.0/28", "10.66.30.16/28", "10.66.30.32/28"]


@given(blocks)
def test_every_region_has_the_same_offsets_from_its_own_base(block: str) -> None:
    first = plan_region("us-east-1", BLOCKS[0])
    other = plan_region("eu-west-1", block)
    shift = int(other.block.network_address) - int(first.block.network_address)
    for (tier, ours), (other_tier, theirs) in zip(first.tiers(), other.tiers(), strict=True):
        assert tier == other_tier
        assert [(int(one.network_address) + shift, one.prefixlen) for one in ours] == [
            (int(one.network_address), one.prefixlen) for one in theirs
        ]


@given(clusters)
def test_no_two_subnets_of_a_cluster_share_an_address_and_each_is_within_its_region(cluster: dict[str, str]) -> None:
    plans = plan_cluster(cluster)
    assert list(plans) == list(cluster), "the order of the configuration is the order of the plans: the first is home"
    every = [subnet for plan in plans.values() for subnet in plan.subnets()]
    assert len(every) == 11 * len(cluster)
    for one, other in itertools.combinations(every, 2):
        assert not one.overlaps(other)
    for plan in plans.values():
        assert all(subnet.subnet_of(plan.block) and subnet.subnet_of(CLUSTER) for subnet in plan.subnets())


@given(blocks)
def test_a_tier_has_as_many_subnets_as_zones_except_lustre_which_has_two(block: str) -> None:
    sizes = {tier: len(subnets) for tier, subnets in plan_region("us-east-1", block).tiers()}
    assert sizes == {"public": 3, "private": 3, "fsx": 2, "transit": 3}


@given(blocks, st.permutations(NAMES))
def test_two_regions_with_one_block_are_refused_with_both_named(block: str, names: list[str]) -> None:
    one, other = names[:2]
    with pytest.raises(AddressingError) as refused:
        plan_cluster({one: block, other: block})
    assert str(refused.value) == (f"{one} and {other} overlap: {block} and {block}; give each region its own /18.")


@given(
    st.builds(
        lambda address, prefix: IPv4Network((address, prefix), strict=False),
        st.integers(0, 2**32 - 1),
        st.integers(0, 32),
    ).filter(lambda network: str(network) not in BLOCKS)
)
def test_any_network_but_the_four_is_refused_with_the_region_the_block_and_what_was_expected(
    network: IPv4Network,
) -> None:
    with pytest.raises(AddressingError) as refused:
        plan_region("us-east-1", str(network))
    sentence = str(refused.value)
    assert sentence.startswith(f"us-east-1: {network} is not a /18 within 10.66.0.0/16; ")
    assert sentence.endswith("give one of " + ", ".join(BLOCKS) + ".")


@given(st.text(max_size=20).filter(lambda text: "10.66" not in text))
def test_any_other_text_is_refused_and_named(text: str) -> None:
    with pytest.raises(AddressingError) as refused:
        plan_region("us-east-1", text)
    assert str(refused.value).startswith("us-east-1: ")
    assert "\n" not in str(refused.value), "an error is one sentence, whatever was given"


@pytest.mark.parametrize("block", ["10.66.0.1/18", "10.66.32.0/18", "10.66.0.0/18/1", "10.66.0.0/255", ""])
def test_an_address_that_is_not_its_networks_first_is_no_network(block: str) -> None:
    with pytest.raises(AddressingError, match=r"is no IPv4 network; give a /18 of 10\.66\.0\.0/16"):
        plan_region("us-east-1", block)
