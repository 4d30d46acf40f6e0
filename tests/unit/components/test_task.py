from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from components.placement import Placement
from components.task import (
    OTLP_ENDPOINT,
    collector_config,
    collector_container,
    execution_statements,
    hardening,
    repository_arn,
)
from observability.metrics import DATAPLANE_METRICS, Kind

PLACE = Placement(region="us-east-1", environment="dev", account="123456789012")
IMAGE = f"123456789012.dkr.ecr.us-east-1.amazonaws.com/mrgc/router@sha256:{'a' * 64}"


def config() -> dict[str, Any]:
    text = collector_config(PLACE, log_group="/mrgc/dev/collector", service="router", target="127.0.0.1:8080")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def test_every_part_that_a_pipeline_names_is_configured() -> None:
    loaded = config()
    for pipeline in loaded["service"]["pipelines"].values():
        for kind, names in pipeline.items():
            assert set(names) <= set(loaded[kind]), f"{kind} lacks {set(names) - set(loaded[kind])}"
    assert set(loaded["service"]["extensions"]) <= set(loaded["extensions"])


def test_spans_come_in_where_the_program_sends_them_and_nowhere_else() -> None:
    endpoint = config()["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    assert f"http://{endpoint}" == OTLP_ENDPOINT
    assert endpoint.startswith("127.0.0.1:"), "a collector that other machines reach takes spans from anybody"


def test_spans_go_to_x_ray_and_metrics_to_cloudwatch() -> None:
    loaded = config()
    assert loaded["service"]["pipelines"]["traces"]["exporters"] == ["awsxray"]
    assert loaded["service"]["pipelines"]["metrics"]["exporters"] == ["awsemf"]
    emf = loaded["exporters"]["awsemf"]
    assert (emf["namespace"], emf["log_group_name"], emf["region"]) == ("MRGC", "/mrgc/dev/collector", "us-east-1")


def test_every_series_says_where_it_comes_from_as_the_catalogue_has_it() -> None:
    scrape = config()["receivers"]["prometheus"]["config"]["scrape_configs"][0]
    assert scrape["static_configs"] == [
        {"targets": ["127.0.0.1:8080"], "labels": {"Environment": "dev", "Region": "us-east-1"}}
    ]


def test_the_collector_declares_every_counter_and_gauge_of_the_catalogue() -> None:
    selectors = [
        pattern.replace("$$", "$")  # as the collector reads it
        for one in config()["exporters"]["awsemf"]["metric_declarations"]
        for pattern in one["metric_name_selectors"]
    ]
    for metric in DATAPLANE_METRICS:
        if metric.kind is not Kind.HISTOGRAM:
            assert any(re.search(pattern, metric.name) for pattern in selectors), metric.name


def test_no_dollar_is_left_for_the_collector_to_take_for_a_variable() -> None:
    text = collector_config(PLACE, log_group="/g", service="router", target="127.0.0.1:8080")
    assert "$" in text, "the selectors end in one, so this test sees some"
    assert not re.search(r"(?<!\$)(\$\$)*\$(?!\$)", text), "every dollar is doubled"


def test_a_page_behind_tls_is_scraped_with_a_certificate() -> None:
    text = collector_config(PLACE, log_group="/g", service="host", target="ip:8080", tls={"cert_file": "/c"})
    scrape = json.loads(text)["receivers"]["prometheus"]["config"]["scrape_configs"][0]
    assert scrape["scheme"] == "https"
    assert scrape["tls_config"] == {"cert_file": "/c"}


def test_the_collector_gets_its_configuration_by_the_variable_that_it_reads() -> None:
    container = collector_container(
        placement=PLACE, image=IMAGE, service="router", metrics_port=8080, log_group="/mrgc/dev/collector"
    )
    assert [one["name"] for one in container["environment"]] == ["AOT_CONFIG_CONTENT"]
    assert container["essential"] is False, "a task that cannot be observed still serves"


def test_no_container_is_root_or_writes_its_root_file_system() -> None:
    parts = hardening()
    assert not parts["user"].startswith(("0", "root"))
    assert parts["readonlyRootFilesystem"] is True
    assert parts["linuxParameters"]["capabilities"] == {"drop": ["ALL"]}


def test_a_repository_is_found_in_the_images_name() -> None:
    assert repository_arn(PLACE, IMAGE) == "arn:aws:ecr:us-east-1:123456789012:repository/mrgc/router"


@pytest.mark.parametrize(
    ("image", "why"),
    [
        ("123456789012.dkr.ecr.us-east-1.amazonaws.com/mrgc/router:latest", "name it by its digest"),
        (f"mrgc@sha256:{'a' * 64}", "name it by its digest"),
        (IMAGE.replace("us-east-1", "us-east-2"), "not in this account's registry of us-east-1"),
        (IMAGE.replace("123456789012", "210987654321"), "not in this account's registry"),
    ],
)
def test_an_image_that_a_task_could_not_pull_or_trust_is_refused(image: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        repository_arn(PLACE, image)


def test_ecs_pulls_these_images_writes_these_groups_and_reads_these_parameters() -> None:
    statements = {
        one["Sid"]: one
        for one in execution_statements(
            PLACE, images=[IMAGE, IMAGE], log_groups=["/mrgc/dev/router"], parameters=["/mrgc/dev/router/tls-key"]
        )
    }
    assert statements["PullImages"]["Resource"] == ["arn:aws:ecr:us-east-1:123456789012:repository/mrgc/router"]
    assert statements["ReadParameters"]["Resource"] == [
        "arn:aws:ssm:us-east-1:123456789012:parameter/mrgc/dev/router/tls-key"
    ]
    wide = [sid for sid, one in statements.items() if one["Resource"] == "*"]
    assert wide == ["LogIn"], "the one call that knows no resources"
