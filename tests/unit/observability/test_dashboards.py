from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from dataplane.protocol.errors import PROBLEMS
from observability import dashboards
from observability.facts import ClusterFacts, RegionFacts
from observability.metrics import CATALOGUE, CONTROL_METRICS, HEALTH_SCORE, Emitter, Kind
from observability.widgets import line

THREE = ("us-east-1", "us-east-2", "us-west-2")
FOUR = (*THREE, "eu-west-1")
BY_NAME = {(metric.namespace, metric.name): metric for metric in CATALOGUE}
STATISTICS = {"Average", "Sum", "Minimum", "Maximum"}


def cluster(regions: tuple[str, ...] = THREE, alarms: tuple[str, ...] = ()) -> ClusterFacts:
    return ClusterFacts(
        environment="dev",
        accelerator="a-1",
        listener="l-1",
        regions=tuple(
            RegionFacts(
                region=region,
                load_balancer=f"net/{region}/1",
                target_group=f"targetgroup/{region}/1",
                file_system=f"fs-{region}",
                transit_gateway=f"tgw-{region}",
                scaling_group=f"hosts-{region}",
                cluster=f"cluster-{region}",
                router_service="router",
                bucket=f"models-{region}",
                flow_log_group=f"/mrgc/dev/flows-{region}",
            )
            for region in regions
        ),
        tables=("mrgc-dev-gpu_instances", "mrgc-dev-routing_state"),
        eventual_tables=("mrgc-dev-gpu_instances",),
        alarms=alarms,
    )


BODIES = {
    f"{name}-{len(regions)}": body
    for regions in (THREE, FOUR)
    for name, body in dashboards.bodies(
        cluster(regions, ("arn:aws:cloudwatch:us-east-1:123456789012:alarm:a",))
    ).items()
}


def widgets(body: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [widget["properties"] for widget in body["widgets"] if widget["type"] == kind]


@pytest.mark.parametrize("name", BODIES)
def test_widgets_lie_within_24_columns_and_never_on_each_other(name: str) -> None:
    placed = BODIES[name]["widgets"]
    assert placed
    for widget in placed:
        assert set(widget) == {"type", "x", "y", "width", "height", "properties"}
        assert widget["type"] in {"metric", "text", "log", "alarm"}
        assert 0 <= widget["x"] < widget["x"] + widget["width"] <= 24
        assert widget["width"] >= 1
        assert 1 <= widget["height"] <= 1000
        assert widget["y"] >= 0
    for one, other in itertools.combinations(placed, 2):
        beside = one["x"] + one["width"] <= other["x"] or other["x"] + other["width"] <= one["x"]
        below = one["y"] + one["height"] <= other["y"] or other["y"] + other["height"] <= one["y"]
        assert beside or below, (one, other)


@pytest.mark.parametrize("name", BODIES)
def test_every_line_is_a_metric_of_the_catalogue_with_all_its_dimensions(name: str) -> None:
    for chart in widgets(BODIES[name], "metric"):
        assert chart["region"]
        assert chart["view"] == "timeSeries"
        assert chart["title"]
        assert chart["period"] % 60 == 0
        assert 0 < len(chart["metrics"]) <= 500, "CloudWatch's limit on one widget"
        for namespace, metric_name, *pairs, options in chart["metrics"]:
            metric = BY_NAME[namespace, metric_name]
            assert tuple(pairs[::2]) == metric.dimensions, "CloudWatch finds a metric by all of its dimensions"
            assert all(isinstance(value, str) and value for value in pairs[1::2])
            assert options["stat"] in STATISTICS
            assert set(options) <= {"stat", "label", "region"}


@pytest.mark.parametrize("name", BODIES)
def test_no_chart_names_what_nobody_emits_or_what_has_no_percentiles(name: str) -> None:
    charted = [BY_NAME[array[0], array[1]] for chart in widgets(BODIES[name], "metric") for array in chart["metrics"]]
    assert not [metric.name for metric in charted if metric.emitter is Emitter.CONTROL]
    assert not [metric.name for metric in charted if metric.kind is Kind.HISTOGRAM]


@pytest.mark.parametrize("name", BODIES)
def test_a_body_is_json_within_cloudwatchs_limits(name: str) -> None:
    body = BODIES[name]
    assert len(json.dumps(body).encode()) < 1_000_000
    assert len(body["widgets"]) <= 500
    assert sum(len(chart["metrics"]) for chart in widgets(body, "metric")) <= 2500, "metrics on one dashboard"


def test_there_is_a_global_one_one_a_region_and_one_each_for_network_storage_and_security() -> None:
    for regions in (THREE, FOUR):
        found = dashboards.bodies(cluster(regions))
        assert tuple(found) == dashboards.names(regions)
        assert set(found) == {"global", "networking", "storage", "security"} | {f"region-{one}" for one in regions}


def test_every_region_is_on_every_dashboard_for_all() -> None:
    for name in ("global", "networking", "storage", "security"):
        text = json.dumps(BODIES[f"{name}-4"])
        assert [region for region in FOUR if f'"{region}"' not in text] == [], name


def test_the_accelerator_is_read_in_us_west_2_alone() -> None:
    for body in BODIES.values():
        for chart in widgets(body, "metric"):
            for namespace, *_, options in chart["metrics"]:
                if namespace == "AWS/GlobalAccelerator":
                    assert options.get("region", chart["region"]) == "us-west-2"


def test_a_regions_metrics_are_read_in_that_region() -> None:
    for chart in widgets(BODIES["networking-4"], "metric"):
        for namespace, _, *pairs, options in chart["metrics"]:
            if namespace in {"AWS/NetworkELB", "AWS/TransitGateway"}:
                assert all(options["region"] in value for value in pairs[1::2])


def test_free_space_is_charted_by_the_minute_as_its_alarm_reads_it() -> None:
    (chart,) = [one for one in widgets(BODIES["storage-3"], "metric") if one["title"] == "Free on Lustre"]
    assert chart["period"] == 60


def test_the_global_one_says_in_words_what_it_can_not_show() -> None:
    (note,) = widgets(BODIES["global-3"], "text")
    assert [metric.name for metric in CONTROL_METRICS if f"`{metric.name}`" not in note["markdown"]] == []


def test_alarms_are_shown_when_there_are_any() -> None:
    (shown,) = widgets(BODIES["global-3"], "alarm")
    assert len(shown["alarms"]) == 1
    assert widgets(dashboards.global_dashboard(cluster()), "alarm") == [], "an empty alarm widget is refused"


def test_refusals_are_problems_that_the_protocol_has() -> None:
    assert [code for code in dashboards.REFUSALS if code not in PROBLEMS] == []


def test_rejected_packets_come_from_each_regions_flow_logs() -> None:
    logs = widgets(BODIES["security-3"], "log")
    assert [log["region"] for log in logs] == list(THREE)
    assert all(log["query"].startswith(f"SOURCE '/mrgc/dev/flows-{log['region']}' | ") for log in logs)


def test_a_chart_of_what_nobody_emits_is_refused_where_it_is_made() -> None:
    with pytest.raises(ValueError, match="InstanceHealthScore is emitted by nobody yet"):
        line(HEALTH_SCORE, {"Environment": "dev", "Region": "us-east-1"}, "Minimum", "score")
