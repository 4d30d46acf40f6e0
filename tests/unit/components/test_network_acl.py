"""The ACLs, asked as EC2 asks them: the first rule that fits lets a packet through, and none refuses it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.addressing import CLUSTER, RegionPlan, plan_region
from components.network_acl import CLIENT_PORTS, OWN_PORTS, AclRule, TierAcl, tier_acls

PLANS = {
    "us-east-1": plan_region("us-east-1", "10.66.0.0/18"),
    "us-east-2": plan_region("us-east-2", "10.66.64.0/18"),
    "eu-west-1": plan_region("eu-west-1", "10.66.192.0/18"),
}
plans = st.sampled_from(list(PLANS.values()))
TIERS = ("public", "private", "fsx", "transit")
MAX_RULES = 20
"""EC2's quota for one direction of an ACL."""
S3 = IPv4Address("52.216.0.9")
CLIENT = IPv4Address("203.0.113.7")

outside = st.integers(0, 2**32 - 1).map(IPv4Address).filter(lambda address: address not in CLUSTER)
ports = st.integers(0, 65535)


def admits(rules: tuple[AclRule, ...], address: IPv4Address, port: int, protocol: str = "tcp") -> bool:
    return any(
        address in rule.block
        and (rule.protocol == "-1" or (rule.protocol == protocol and (protocol == "icmp" or in_range(rule, port))))
        for rule in rules
    )


def in_range(rule: AclRule, port: int) -> bool:
    return rule.from_port <= port <= rule.to_port


def acl(tier: str, plan: RegionPlan = PLANS["us-east-1"]) -> TierAcl:
    return tier_acls(plan)[tier]


def host(network: IPv4Network) -> IPv4Address:
    return network[10]


@given(plans)
def test_every_tier_has_an_acl_of_unique_rising_numbers_within_the_quota(plan: RegionPlan) -> None:
    acls = tier_acls(plan)
    assert tuple(acls) == TIERS == tuple(tier for tier, _ in plan.tiers())
    for one in acls.values():
        for rules in (one.ingress, one.egress):
            numbers = [rule.number for rule in rules]
            assert numbers == sorted(set(numbers))
            assert 0 < len(rules) <= MAX_RULES
            assert all(rule.why for rule in rules)


@given(plans)
def test_a_rule_for_every_protocol_or_for_icmp_names_no_ports_because_ec2_takes_none(plan: RegionPlan) -> None:
    for one in tier_acls(plan).values():
        for rule in one.ingress + one.egress:
            if rule.protocol != "tcp":
                assert (rule.from_port, rule.to_port) == (0, 0)


@pytest.mark.parametrize("tier", ["public", "private"])
@given(address=st.integers(0, 2**16 - 1), port=ports, protocol=st.sampled_from(["tcp", "udp", "icmp"]))
def test_within_the_cluster_public_and_private_tiers_leave_the_choice_to_the_groups(
    tier: str, address: int, port: int, protocol: str
) -> None:
    inside = CLUSTER[address]
    assert admits(acl(tier).ingress, inside, port, protocol)
    assert admits(acl(tier).egress, inside, port, protocol)


def test_a_client_reaches_the_load_balancer_and_is_answered() -> None:
    public = acl("public")
    assert admits(public.ingress, CLIENT, 443)
    assert admits(public.ingress, CLIENT, 8080), "the alternate listener"
    for port in CLIENT_PORTS:
        assert admits(public.egress, CLIENT, port), "an answer goes to the port that the client opened from"


@given(outside, ports.filter(lambda port: port < 1024 and port != 443))
def test_no_reserved_port_but_443_is_open_to_the_world(address: IPv4Address, port: int) -> None:
    assert not admits(acl("public").ingress, address, port)


@given(outside, ports.filter(lambda port: port < 1024))
def test_a_load_balancer_opens_no_connection_to_a_reserved_port_outside(address: IPv4Address, port: int) -> None:
    assert not admits(acl("public").egress, address, port)


def test_a_host_reaches_s3_and_hears_the_answer() -> None:
    private = acl("private")
    assert admits(private.egress, S3, 443)
    for port in OWN_PORTS:
        assert admits(private.ingress, S3, port)


@given(outside, ports.filter(lambda port: port != 443))
def test_the_private_tier_sends_nothing_outside_but_https(address: IPv4Address, port: int) -> None:
    assert not admits(acl("private").egress, address, port)


@given(outside, ports.filter(lambda port: not OWN_PORTS[0] <= port <= OWN_PORTS[1]))
def test_from_outside_the_private_tier_hears_nothing_but_answers(address: IPv4Address, port: int) -> None:
    assert not admits(acl("private").ingress, address, port), "8080 and 443 of hosts and routers among them"


@pytest.mark.parametrize("port", [22, 443, 988, 5000, 8080, 8443, 9090])
def test_no_listener_of_hosts_and_routers_is_reachable_from_outside_whatever_its_group_says(port: int) -> None:
    assert not admits(acl("private").ingress, CLIENT, port)


@pytest.mark.parametrize("tier", TIERS)
@given(address=outside, port=ports, protocol=st.sampled_from(["udp", "icmp"]))
def test_nothing_but_tcp_crosses_the_clusters_edge(tier: str, address: IPv4Address, port: int, protocol: str) -> None:
    assert not admits(acl(tier).ingress, address, port, protocol)
    assert not admits(acl(tier).egress, address, port, protocol)


@given(plans, st.sampled_from([988, 1018, 1023]))
def test_lustre_passes_between_hosts_and_file_servers_in_both_directions(plan: RegionPlan, port: int) -> None:
    fsx = acl("fsx", plan)
    for subnet in (*plan.private, *plan.fsx):
        assert admits(fsx.ingress, host(subnet), port)
        assert admits(fsx.egress, host(subnet), port)


@given(plans, ports.filter(lambda port: port != 988 and not 1018 <= port <= 1023))
def test_the_fsx_tier_knows_no_port_but_lustres(plan: RegionPlan, port: int) -> None:
    fsx = acl("fsx", plan)
    for subnet in plan.subnets():
        assert not admits(fsx.ingress, host(subnet), port)
        assert not admits(fsx.egress, host(subnet), port)


@pytest.mark.parametrize("tier", ["fsx", "transit"])
@given(plan=plans, address=st.integers(0, 2**32 - 1).map(IPv4Address), port=ports)
def test_the_fsx_and_transit_tiers_know_only_their_own_regions_private_tier_and_themselves(
    tier: str, plan: RegionPlan, address: IPv4Address, port: int
) -> None:
    known = (*plan.private, *plan.fsx) if tier == "fsx" else plan.private
    if not any(address in subnet for subnet in known):
        for protocol in ("tcp", "udp", "icmp"):
            assert not admits(acl(tier, plan).ingress, address, port, protocol)
            assert not admits(acl(tier, plan).egress, address, port, protocol)


@given(plans, ports)
def test_the_transit_tier_passes_tcp_and_icmp_of_the_private_tier_and_no_udp(plan: RegionPlan, port: int) -> None:
    transit = acl("transit", plan)
    for subnet in plan.private:
        for rules in (transit.ingress, transit.egress):
            assert admits(rules, host(subnet), port)
            assert admits(rules, host(subnet), 0, "icmp")
            assert not admits(rules, host(subnet), port, "udp")
