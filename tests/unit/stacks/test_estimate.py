from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pulumi_aws as aws
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.accelerator_alarms import AcceleratorAlarms, AcceleratorAlarmsArgs
from components.alarms import RegionAlarms, RegionAlarmsArgs
from components.global_state import TABLES, table_name
from components.keys import PlatformKeys, PlatformKeysArgs
from components.placement import Placement
from stacks.estimate import (
    GLOBAL,
    KEYS_PER_REGION,
    PRICES,
    Estimate,
    PriceFileError,
    estimate,
    load_prices,
    money,
)
from stacks.settings import Settings, parse
from tests.support.pulumi_program import ACCOUNT, record, stack_config

THREE = ("us-east-1", "us-east-2", "us-west-2")
FOURTH = {
    "name": "eu-west-1",
    "cidr": "10.66.192.0/18",
    "zones": ["eu-west-1a", "eu-west-1b", "eu-west-1c"],
    "asn": 64515,
}


def settings(*, fourth: bool = False, session_manager: bool = False, **sections: dict[str, Any]) -> Settings:
    values = stack_config("dev")
    if fourth:
        values["regions"] = [*values["regions"], FOURTH]
        values["fleet"]["amis"]["eu-west-1"] = "ami-0a0a0a0a0a0a0a0a4"
    for section, changes in sections.items():
        values[section] = {**values.get(section, {}), **changes}
    return parse({**values, "session_manager": session_manager})


fleets = st.integers(1, 20).flatmap(
    lambda least: st.fixed_dictionaries(
        {
            "min": st.just(least),
            "max": st.integers(least, 20),
            "on_demand_base": st.integers(0, 20),
            "on_demand_percent": st.integers(0, 100),
        }
    )
)
routers = st.integers(1, 100).flatmap(
    lambda least: st.fixed_dictionaries(
        {
            "min": st.just(least),
            "max": st.integers(least, 100),
            "cpu": st.sampled_from([1024, 2048, 4096, 8192]),
            "memory_mib": st.integers(2, 60).map(lambda gib: gib * 1024),
        }
    )
)
models = st.fixed_dictionaries(
    {
        "capacity_gib": st.integers(0, 42).map(lambda steps: steps * 2400 or 1200),
        "throughput": st.sampled_from([125, 250, 500, 1000]),
    }
)
stacks = st.builds(
    settings, fourth=st.booleans(), session_manager=st.booleans(), fleet=fleets, router=routers, models=models
)


def line_of(found: Estimate, region: str, word: str) -> Decimal:
    (line,) = [line for line in found.lines if line.region == region and word in line.what]
    return line.monthly


def test_a_gpu_host_costs_what_730_hours_of_it_cost() -> None:
    found = estimate(settings(fleet={"min": 1}))
    assert money(line_of(found, "us-east-1", "on demand")) == "1636.72", "2.24208 an hour, about 1,637 a month"


def test_one_region_of_dev_costs_about_4_100_dollars() -> None:
    found = estimate(settings())
    # 2 hosts 3,273.44; roots 32.00; 3 routers of 2 vCPU and 4 GB 216.24; load balancer 16.43; 10 endpoints in 3 zones
    # 219.00; 3 attachments 109.50; 1,200 GiB of Lustre 252.00; 3 keys 3.00; 10 + 2 x 3 alarm metrics 1.60.
    assert money(found.by_region()["us-east-1"]) == "4123.20"
    assert money(found.by_region()[GLOBAL]) == "39.25", "7 dashboards and the accelerator"
    assert money(found.total) == "12409.16"


def test_only_what_was_read_nowhere_else_is_assumed() -> None:
    assumed = {(line.region, line.component) for line in estimate(settings()).lines if line.assumed}
    assert ("us-east-1", "GPU hosts") not in assumed, "the largest line was read in every region"
    assert ("us-east-1", "Model store") in assumed, "its price was read for Oregon"
    assert all(region in THREE for region, _ in assumed)


def test_spot_hosts_count_in_full_and_are_told_apart() -> None:
    found = estimate(settings(fleet={"max": 7, "on_demand_base": 2, "on_demand_percent": 50}), hosts="max")
    quantities = {line.what: line.quantity for line in found.lines if line.region == "us-east-1"}
    assert quantities["g6e.2xlarge, on demand"] == 5, "2, and half of 5 rounded up"
    assert quantities["g6e.2xlarge, spot, at the on-demand price at most"] == 2


def test_session_manager_adds_two_endpoints_in_three_zones() -> None:
    with_it, without = estimate(settings(session_manager=True)), estimate(settings())
    assert with_it.total - without.total == 3 * 2 * 3 * Decimal("0.01") * 730


def test_control_loops_that_run_are_priced_as_the_tasks_that_they_are() -> None:
    off = stack_config("dev")
    without, with_it = estimate(parse(off)), estimate(parse({**off, "control_loops": True}))
    # Health and autoscaler in each of three regions: half a vCPU at 0.04048 and 1 GB at 0.004445 an hour.
    assert money(with_it.total - without.total) == money(3 * 2 * (Decimal("0.02024") + Decimal("0.004445")) * 730)
    assert not [line for line in without.lines if line.component == "Control loops"]


def test_a_region_without_prices_is_listed_and_not_guessed() -> None:
    found = estimate(settings(fourth=True))
    assert "eu-west-1" not in found.by_region()
    named = {(one.component, one.region) for one in found.unpriced}
    for component in ("GPU hosts", "Router", "Network", "Model store", "Keys", "Observability"):
        assert (component, "eu-west-1") in named
    (reason,) = {one.reason for one in found.unpriced if one.region == "eu-west-1" and "g6e" in one.reason}
    assert "no g6e in eu-west-1" in reason, "who adds the region learns that it has no such hosts"


def test_an_instance_type_and_a_tier_without_a_price_are_listed() -> None:
    found = estimate(settings(fleet={"instance_type": "p5.48xlarge"}, models={"throughput": 500}))
    reasons = [one.reason for one in found.unpriced]
    assert reasons.count("no price of gpu.p5.48xlarge is known for us-east-1") == 1
    assert any("500 MB/s" in reason for reason in reasons)
    assert "Model store" not in found.by_component()


@given(stacks)
def test_the_total_is_the_sum_of_its_lines_however_they_are_grouped(stack: Settings) -> None:
    found = estimate(stack)
    assert found.total == sum(line.monthly for line in found.lines)
    assert found.total == sum(found.by_component().values())
    assert found.total == sum(found.by_region().values())
    assert all(line.monthly > 0 for line in found.lines)


@given(stacks)
def test_the_most_hosts_never_cost_less_than_the_least(stack: Settings) -> None:
    assert estimate(stack, hosts="max").total >= estimate(stack, hosts="min").total


@given(fleets, routers, models)
def test_another_region_never_lowers_the_total(
    fleet: dict[str, Any], router: dict[str, Any], store: dict[str, Any]
) -> None:
    three = estimate(settings(fleet=fleet, router=router, models=store))
    four = estimate(settings(fourth=True, fleet=fleet, router=router, models=store))
    assert four.total > three.total, "even unpriced, it adds a peering to each of the others"
    assert set(three.unpriced) <= set(four.unpriced)


@given(fleets.filter(lambda fleet: fleet["min"] < fleet["max"]))
def test_another_host_costs_its_hour_price_and_its_disk(fleet: dict[str, Any]) -> None:
    fewer = estimate(settings(fleet=fleet)).total
    more = estimate(settings(fleet={**fleet, "min": fleet["min"] + 1})).total
    assert more - fewer == len(THREE) * (Decimal("2.24208") * 730 + 200 * Decimal("0.08"))


@given(stacks)
def test_nothing_that_a_stack_needs_is_lost_between_priced_and_unpriced(stack: Settings) -> None:
    found = estimate(stack)
    for region in stack.region_names:
        seen = {line.component for line in found.lines if line.region == region}
        seen |= {one.component for one in found.unpriced if one.region == region}
        assert seen == {"GPU hosts", "Router", "Network", "Model store", "Keys", "Observability"}


def test_the_output_is_plain_and_rounded() -> None:
    output = estimate(settings()).as_output()
    assert output["monthly_total_of_what_is_priced"] == "12409.16"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", output["prices_collected"])
    assert all(re.fullmatch(r"\d+\.\d\d", amount) for amount in output["by_component"].values())
    assert all(isinstance(sentence, str) for sentence in output["unpriced"])


def test_money_is_rounded_half_away_from_zero() -> None:
    assert (money(Decimal("0.005")), money(Decimal("0.0049"))) == ("0.01", "0.00")


def test_every_price_says_where_it_is_from() -> None:
    prices = load_prices()
    assert prices.currency == "USD"
    assert prices.by_use, "what bills by use is named"
    for price in prices.prices.values():
        assert price.page.startswith("https://aws.amazon.com/"), "the page that decides is AWS's"
        assert price.read_from
        assert re.fullmatch(r"undated|\d{4}-\d\d(-\d\d)?", price.as_of)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'amounts = { global = "0.025" }',
            'amounts = { global = "cheap" }',
            "accelerator.hour: an amount is a decimal",
        ),
        (
            'amounts = { global = "0.025" }',
            'amounts = { global = "-1" }',
            "accelerator.hour: every amount must be above",
        ),
        ('amounts = { global = "0.025" }', "amounts = {}", "accelerator.hour: every amount must be above"),
        ('item = "nlb.hour"', 'item = "kms.key"', "prices an item twice"),
        ('currency = "USD"', "", "has an entry without 'currency'"),
        ('unit = "hour"', 'unit = "year"', "the unit is 'year'; expected hour or month"),
        ('assumed = ["us-east-2"]', 'assumed = ["mars-1"]', "assumed regions need an amount each"),
        ("[[price]]", "[[price", "can't be read"),
    ],
)
def test_a_price_file_with_a_fault_is_refused_with_a_sentence(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = PRICES.read_text()
    assert old in text
    path = tmp_path / "prices.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(PriceFileError, match=re.escape(said)):
        load_prices(path)


def test_an_amount_without_quotes_is_as_exact(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(PRICES.read_text().replace('global = "0.025"', "global = 0.025"))
    assert load_prices(path).prices["accelerator.hour"].amounts[GLOBAL] == Decimal("0.025")


def test_keys_and_alarms_are_counted_as_the_components_make_them() -> None:
    placements = {region: Placement(region=region, environment="dev", account=ACCOUNT) for region in THREE}
    eventual = [table_name("dev", table.name) for table in TABLES if not table.strong]

    def program() -> None:
        providers = {region: aws.Provider(region, region=region) for region in THREE}
        PlatformKeys(
            "keys",
            PlatformKeysArgs(placements=placements, home=THREE[0], providers=providers, protect=False),
        )
        topics = {"critical": "arn:c", "warning": "arn:w"}
        for region in THREE:
            RegionAlarms(
                f"alarms-{region}",
                RegionAlarmsArgs(
                    placement=placements[region],
                    topics=topics,
                    load_balancer_arn_suffix="net/1",
                    target_group_arn_suffix="targetgroup/1",
                    file_system_id="fs-1",
                    capacity_gib=1200,
                    failure_queue_name="failures",
                    eventual_tables=eventual,
                    peers=[other for other in THREE if other != region],
                ),
            )
        AcceleratorAlarms(
            "alarms-accelerator",
            AcceleratorAlarmsArgs(
                placement=placements["us-west-2"],
                topics=topics,
                accelerator_arn="a/1",
                listener_arn="l/1",
                regions=THREE,
            ),
        )

    made = record(program)
    keys = [one for one in made if one.type in {"aws:kms/key:Key", "aws:kms/replicaKey:ReplicaKey"}]
    assert len(keys) == KEYS_PER_REGION * len(THREE)
    read = sum(
        len([query for query in alarm.inputs["metricQueries"] if "metric" in query])
        if "metricQueries" in alarm.inputs
        else 1
        for alarm in made.of("MetricAlarm")
    )
    counted = sum(line.quantity for line in estimate(settings()).lines if "alarm" in line.what)
    assert read == counted, "AWS bills an alarm by the metrics that it reads"
